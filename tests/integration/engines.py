"""Parts for tests of the scheduler: environments that do as they are told, optimizers that keep a record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
import pytest

from windtunnel import Environment, Experiment, Host, RunResult, Sample, Scheduler, Status, open_storage
from windtunnel.model import Direction, History, StatusReport, utc_now
from windtunnel.objectives import parse_objectives
from windtunnel.optimizers import Optimizer
from windtunnel.tunables import TunableGroups

SPACE = TunableGroups(
    {"g": {"cost": 1, "params": {"x": {"type": "int", "range": [0, 10_000], "default": 0}}}}
)
OBJECTIVES: dict[str, Direction] = {"score": "min"}


class Counting(Optimizer):
    """Proposes x = 0, 1, 2, … and keeps what it is told."""

    learns = False

    def __init__(self, *, fail_at: int | None = None, size: int | None = None) -> None:
        super().__init__(
            tunables=SPACE, objectives=parse_objectives(OBJECTIVES), seed=1, start_with_defaults=False
        )
        self.told: list[int] = []
        self._fail_at = fail_at
        self._size = size

    def go_on_after(self, asked: int) -> None:
        self._asked = asked

    def _ask(self, index: int, count: int) -> Sequence[TunableGroups]:
        if self._fail_at is not None and index >= self._fail_at:
            raise RuntimeError("the engine broke")
        end = index + count if self._size is None else min(index + count, self._size)
        return [SPACE.assign({"x": i}) for i in range(index, end)]

    def _tell(self, history: History) -> None:
        self.told += history.trial_ids


class Learning(Counting):
    learns = True


class Lab:
    """What happened in the environments of a test, and the hooks that decide what happens."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []
        self.running = 0
        self.most_running = 0
        self.on_setup: Callable[[ScriptedEnv], Awaitable[None]] | None = None
        self.on_run: Callable[[ScriptedEnv], Awaitable[Mapping[str, Any] | None]] | None = None
        self.on_teardown: Callable[[ScriptedEnv], Awaitable[None]] | None = None

    def steps(self, step: str) -> list[Any]:
        return [trial for name, trial in self.log if name == step]

    def make(self, _host: Host, _runner_id: int) -> Environment:
        return ScriptedEnv(self)


class ScriptedEnv(Environment):
    """Does in each step what the test's ``Lab`` says; the score is x."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        required = ["trial_id", "host", "trial_runner_id"]
        super().__init__(
            name="scripted", config={"tunable_params": ["g"], "required_args": required}, tunables=SPACE
        )

    @property
    def trial_id(self) -> int:
        trial_id = self.parameters["trial_id"]
        assert isinstance(trial_id, int)
        return trial_id

    async def emit(self, metric: str, value: float) -> None:
        await self._emit([Sample(utc_now(), metric, value)])

    async def _setup(self) -> None:
        self.lab.log.append(("setup", self.trial_id))
        if self.lab.on_setup:
            await self.lab.on_setup(self)

    async def _run(self) -> RunResult:
        self.lab.log.append(("run", self.trial_id))
        self.lab.running += 1
        self.lab.most_running = max(self.lab.most_running, self.lab.running)
        try:
            metrics = await self.lab.on_run(self) if self.lab.on_run else None
        finally:
            self.lab.running -= 1
        found = {"score": self.parameters["x"]} if metrics is None else dict(metrics)
        return RunResult(Status.SUCCEEDED, utc_now(), found)

    async def _teardown(self) -> None:
        if self.lab.on_teardown:
            await self.lab.on_teardown(self)
        self.lab.log.append(("teardown", self.trial_id))


class PolledEnv(ScriptedEnv):
    """Counts its polls in its telemetry; every second poll raises."""

    polls = 0

    async def _status(self) -> StatusReport:
        self.polls += 1
        if self.polls % 2 == 0:
            raise OSError("the probe is unplugged")
        return StatusReport(Status.RUNNING, utc_now(), [Sample(utc_now(), "polls", self.polls)])


@asynccontextmanager
async def opened(url: str, experiment_id: str = "e") -> AsyncIterator[Experiment]:
    async with (
        open_storage(url) as storage,
        storage.experiment(experiment_id=experiment_id, tunables=SPACE, opt_targets=OBJECTIVES) as experiment,
    ):
        yield experiment


def scheduler(experiment: Experiment, lab: Lab, **options: Any) -> Scheduler:
    """A scheduler over ``lab`` with defaults for whatever the test does not say."""
    slots = options.pop("slots", 4)
    options.setdefault("hosts", [Host(slots=slots)])
    options.setdefault("make_environment", lab.make)
    optimizer: Counting = options.pop("optimizer", None) or Counting()

    def make_optimizer(asked: int) -> Counting:
        optimizer.go_on_after(asked)
        return optimizer

    return Scheduler(experiment=experiment, make_optimizer=make_optimizer, **options)


class Alarm:
    """A clock of the session that goes off when the test says so, not by the time.

    :param clock: the scheduler's method that waits: ``_close_after`` its budget, ``_cancel_after`` its limit.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, clock: str) -> None:
        self._due, self._rung = anyio.Event(), anyio.Event()
        genuine = getattr(Scheduler, clock)

        async def wait(engine: Scheduler, _limit: timedelta) -> None:
            await self._due.wait()
            await genuine(engine, timedelta(0))
            self._rung.set()

        monkeypatch.setattr(Scheduler, clock, wait)

    async def ring(self) -> None:
        """The time is up; returns when the scheduler knows."""
        self._due.set()
        await self._rung.wait()


async def statuses(experiment: Experiment) -> dict[int, Status]:
    return {record.trial_id: record.status async for record in experiment.trials()}


async def forever(_: object = None) -> None:
    await anyio.sleep_forever()
