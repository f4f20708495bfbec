"""The experiment of the fault sweeps: twenty trials in two sessions.

Every trial leaves a line in a file, those of one slot are scripts with processes of their own, and a trigger
in the database notes each outcome that was accepted, in the transaction that accepts it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel

from tests.acceptance.outcome_log import ACCEPTED
from tests.integration.engines import OBJECTIVES, SPACE, Lab, Learning, scheduler
from windtunnel import (
    Environment,
    Experiment,
    Host,
    LocalEnv,
    RunResult,
    Sample,
    Snapshot,
    Status,
    Storage,
    StorageUnavailable,
    Timeouts,
    Trial,
    open_storage,
)
from windtunnel.model import FailureKind, StatusReport, utc_now
from windtunnel.protocols import LocalExec, Services
from windtunnel.pruners import make_pruner
from windtunnel.scheduling.policy import Retry
from windtunnel.services.local_exec import LocalExecService

__all__ = ["FAILING", "LEASE", "TRIALS", "Fenced", "fenced", "lines_of", "live"]

TRIALS = 20
LEASE = timedelta(seconds=0.9)
_STOPPED_AFTER = 5
_LOST_CLAIM = 2
_STEP_S = 0.03
_LONG_STEP_S = 0.4
"""Longer than a heartbeat: the last trials."""
_POLL = timedelta(milliseconds=15)
_PATIENCE = timedelta(seconds=8)
_LIMIT_S = 12.0
_SCRIPTS = {
    "setup": ['sleep 600 & echo "$!" >> "$folder/processes"'],
    "run": ['echo "$trial_id" >> "$folder/runs"', 'echo "seen=$trial_id"', 'echo "score: $x"'],
    "shell_env_params": ["x", "folder"],
    "results_stdout_pattern": r"^(?P<metric>score): (?P<value>\S+)$",
    "telemetry_stdout_pattern": r"^(?P<metric>seen)=(?P<value>\d+)$",
    "tunable_params": ["g"],
}


_RETRIES = dict.fromkeys(FailureKind, Retry(times=3, pause=timedelta(milliseconds=10)))
_HOSTS = [Host(name="a", slots=2), Host(name="b", slots=2)]
_AMPLE = timedelta(minutes=5)
_HARMLESS = {"rules": [{"metric": "seen", "above": 1000}]}
FAILING = (3, 9, 15)
"""Trials that fail at first and are tried again."""


class Bench(Environment):
    """A trial without a process: it leaves a line, is polled, emits its number, and tells where it ran.

    Some fail at first.
    """

    def __init__(self, folder: Path, started: Callable[[], None]) -> None:
        self._runs = folder / "runs"
        self._started = started
        required = ["trial_id", "host", "trial_runner_id"]
        config = {"tunable_params": ["g"], "required_args": required}
        super().__init__(name="bench", config=config, tunables=SPACE)

    async def _setup(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def _run(self) -> RunResult:
        number = self.parameters["trial_id"]
        assert isinstance(number, int)
        with self._runs.open("a", encoding="utf-8") as file:
            file.write(f"{number}\n")
        self._started()
        if number in FAILING and lines_of(self._runs).count(str(number)) == 1:
            raise RuntimeError("as it is written")
        await self._emit([Sample(utc_now(), "seen", number)])
        await anyio.sleep(_STEP_S if number < TRIALS - 1 else _LONG_STEP_S)
        found = {"score": self.parameters["x"], "pid": os.getpid()}
        return RunResult(Status.SUCCEEDED, utc_now(), found)

    async def _status(self) -> StatusReport:
        return StatusReport(Status.RUNNING, utc_now(), [Sample(utc_now(), "polled", 1)])

    async def _teardown(self) -> None:
        await anyio.lowlevel.checkpoint()


async def live(folder: Path, *, fresh: bool) -> None:
    """One process's share: if ``fresh``, one session that is stopped, and one that fails; then two end it."""
    async with open_storage(f"sqlite:///{folder / 'test.db'}", patience=_PATIENCE) as storage:
        try:
            async with storage.experiment(
                experiment_id="e", tunables=SPACE, opt_targets=OBJECTIVES
            ) as experiment:
                _note_what_is_accepted(folder)
                if fresh:
                    await _session(experiment, folder, stopped_after=_STOPPED_AFTER)
                    await _failing_session(experiment, folder)
                async with anyio.create_task_group() as workers:
                    workers.start_soon(_session, experiment, folder)
                    workers.start_soon(_session, experiment, folder)
        finally:
            await _idle(storage)


async def _session(experiment: Experiment, folder: Path, stopped_after: int | None = None) -> None:
    begun = 0

    def started() -> None:
        nonlocal begun
        begun += 1
        if begun == stopped_after:
            engine.stop()

    def make(_host: Host, runner_id: int) -> Environment:
        if runner_id > 1:
            return Bench(folder, started)
        services = Services({LocalExec: LocalExecService()})
        const = {"folder": str(folder)}
        return LocalEnv(
            name="scripts", config={**_SCRIPTS, "const_args": const}, tunables=SPACE, service=services
        )

    engine = scheduler(
        experiment,
        Lab(),
        trials=TRIALS,
        optimizer=Learning(),
        make_environment=make,
        hosts=_HOSTS,
        repeats=2,
        retries=_RETRIES,
        pruner=make_pruner("threshold", objectives=OBJECTIVES, options=_HARMLESS),
        time_budget=_AMPLE,
        timeouts=Timeouts(experiment=_AMPLE, trial=_AMPLE, setup=_AMPLE, run=_AMPLE),
        lease=LEASE,
        poll_period=_POLL,
    )
    try:
        await engine.run()
    finally:
        _note_what_was_fenced(folder, engine.snapshot())


class AnswerLost(StorageUnavailable):
    """The database did what it was asked to, and nobody heard of it."""


async def _failing_session(experiment: Experiment, folder: Path) -> None:
    """One whose second claim is done and not answered: what it holds has to be found and given back."""
    claim, left = experiment.claim, _LOST_CLAIM

    async def lost(*args: Any, **options: Any) -> list[Trial]:
        nonlocal left
        claimed = await claim(*args, **options)
        left -= bool(claimed)
        if claimed and left == 0:
            raise AnswerLost("the answer was lost")
        return claimed

    experiment.claim = lost  # type: ignore[method-assign]  # once
    try:
        with suppress(AnswerLost):
            await _session(experiment, folder)
    finally:
        experiment.claim = claim  # type: ignore[method-assign]  # as it was


async def _idle(storage: Storage) -> None:
    """Fail if a connection goes on working for somebody."""
    with anyio.CancelScope(shield=True), anyio.fail_after(_LIMIT_S):
        while storage._database.in_use:
            await anyio.sleep(0.002)


def _note_what_is_accepted(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "test.db", timeout=_LIMIT_S)) as connection:
        connection.executescript(ACCEPTED)


class Fenced(NamedTuple):
    """What sessions lost to others: trials cancelled for it, and outcomes that came too late."""

    lost: int
    refused: int


def _note_what_was_fenced(folder: Path, seen: Snapshot) -> None:
    with (folder / "fenced").open("a", encoding="utf-8") as file:
        file.write(f"{seen.lost}/{seen.stale_refused}\n")


def fenced(folder: Path) -> Fenced:
    """Of all sessions that could say so."""
    noted = [line.split("/") for line in lines_of(folder / "fenced")]
    return Fenced(sum(int(lost) for lost, _ in noted), sum(int(refused) for _, refused in noted))


def lines_of(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").split() if file.exists() else []
