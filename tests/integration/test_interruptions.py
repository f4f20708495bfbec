"""A small experiment that is cancelled, refused by its database or killed at any step resumes exactly."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self

import anyio
import pytest
from anyio.lowlevel import checkpoint

from tests.integration.engines import OBJECTIVES, SPACE, Lab, Learning, ScriptedEnv, scheduler, statuses
from windtunnel import Experiment, Scheduler, Status, Storage, StorageUnavailable, open_storage
from windtunnel.storage import leading

TRIALS = 6
LIMIT_S = 60
"""For what hangs."""
STRIDE = 3


def busy_lab() -> Lab:
    """Environments that suspend in each step, and emit."""
    lab = Lab()

    async def pause(_: ScriptedEnv) -> None:
        await checkpoint()

    async def run(env: ScriptedEnv) -> None:
        await env.emit("progress", 0.5)
        await checkpoint()

    lab.on_setup, lab.on_run, lab.on_teardown = pause, run, pause
    return lab


def small(experiment: Experiment, lab: Lab, **options: Any) -> Scheduler:
    return scheduler(experiment, lab, trials=TRIALS, slots=3, optimizer=Learning(), **options)


async def fresh(storage: Storage, name: object) -> Experiment:
    async with storage.experiment(
        experiment_id=str(name), tunables=SPACE, opt_targets=OBJECTIVES
    ) as experiment:
        return experiment


async def check_resumes(experiment: Experiment, lab: Lab, what: object, *, held: bool = False) -> None:
    """What holds after any fault.

    :param held: trials may be held until their leases end, since nobody could give them back.
    """
    assert Counter(lab.steps("setup")) == Counter(lab.steps("teardown")), f"{what}: all torn down, once"
    assert lab.running == 0, what
    before = await statuses(experiment)
    assert held or Status.RUNNING not in before.values(), f"{what}: none left RUNNING: {before}"
    assert set(before.values()) <= {Status.PENDING, Status.SUCCEEDED, Status.CANCELED, Status.RUNNING}, what
    done = {trial_id for trial_id, status in before.items() if status is Status.SUCCEEDED}
    again = busy_lab()
    with anyio.fail_after(LIMIT_S):
        summary = await small(experiment, again).run()
    assert (summary.trials, summary.succeeded) == (TRIALS, TRIALS), what
    assert sorted(again.steps("run")) == sorted(set(range(1, TRIALS + 1)) - done), f"{what}: only the rest"
    attempts = {record.trial_id: record.attempt async for record in experiment.trials()}
    assert all(attempts[trial_id] == 1 for trial_id in done), what


# Cancelled


@contextmanager
def callback_after(steps: int, strike: Callable[[], object]) -> Iterator[Callable[[], bool]]:
    """Call ``strike`` between two callbacks of the loop, after ``steps`` of them; gives whether it was."""
    loop = asyncio.get_running_loop()
    genuine, left, struck = loop.call_soon, steps, False

    def counted(*args: Any, **kwargs: Any) -> asyncio.Handle:
        nonlocal left, struck
        left -= 1
        if left == 0:
            struck = True
            genuine(strike)
        return genuine(*args, **kwargs)

    loop.call_soon = counted  # type: ignore[method-assign, assignment]  # to count
    try:
        yield lambda: struck
    finally:
        loop.call_soon = genuine  # type: ignore[method-assign]  # as it was


async def idle(storage: Storage) -> None:
    """Wait until no connection works for anybody."""
    with anyio.fail_after(LIMIT_S):
        while storage._database.in_use:
            await anyio.sleep(0.001)


async def cancelled_at(
    step: int, engine: Scheduler, how: Literal["scope", "task", "task twice", "stop"]
) -> bool:
    """Run ``engine`` and cancel it at ``step``; whether it got so far."""
    scope = anyio.CancelScope()

    async def run() -> None:
        with scope:
            await engine.run()

    task = asyncio.get_running_loop().create_task(run())

    def strike() -> None:
        if how == "scope":
            scope.cancel()
        elif how == "stop":
            engine.stop()
        else:
            task.cancel()
            if how == "task twice":
                asyncio.get_running_loop().call_later(0.002, task.cancel)

    with callback_after(step, strike) as struck:
        await asyncio.wait([task])
    assert task.cancelled() or task.exception() is None
    return struck()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["scope", "task", "task twice", "stop"])
async def test_cancelled_at_any_step_it_tears_down_and_resumes_exactly(
    url: str, how: Literal["scope", "task", "task twice", "stop"]
) -> None:
    async with open_storage(url) as storage:
        for step in range(1, 10_000, STRIDE):
            experiment, lab = await fresh(storage, step), busy_lab()
            struck = await cancelled_at(step, small(experiment, lab), how)
            await idle(storage)
            await check_resumes(experiment, lab, f"{how} at {step}")
            if not struck:
                break
        assert step > 100, "it covered a run"


# Refused by the database


class Faulty:
    """Makes the ``at``-th operation of a storage's database fail, and those after it if ``lasting``."""

    def __init__(self, storage: Storage, at: int, *, when: Literal["before", "after"], lasting: bool) -> None:
        self.hit = False
        self.struck: object = None
        self._left, self._when, self._lasting = at, when, lasting
        self._database = storage._database

    def __enter__(self) -> Self:
        for name in ("read", "write"):
            setattr(self._database, name, self._faulty(getattr(self._database, name)))
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("read", "write"):
            delattr(self._database, name)  # the class's own is there again

    def _faulty(self, operation: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def attempt(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            fails = self._left == 0 or (self._lasting and self._left < 0)
            self.hit = self.hit or fails
            self.struck = args[0] if fails else self.struck
            if fails and self._when == "before":
                raise StorageUnavailable("the disk is full")
            found = await operation(*args, **kwargs)
            if fails:
                raise StorageUnavailable("the line was cut when all had been done")
            return found

        return attempt


@pytest.mark.timeout(300)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_refused_at_any_operation_it_says_so_once_and_resumes_exactly(
    url: str, when: Literal["before", "after"]
) -> None:
    async with open_storage(url) as storage:
        for at in range(1, 1000):
            experiment, lab = await fresh(storage, at), busy_lab()
            with Faulty(storage, at, when=when, lasting=False) as fault:
                await run_against(fault, small(experiment, lab))
            await check_resumes(experiment, lab, f"operation {at} failed {when}")
            if not fault.hit:
                break
        assert at > 10, "it covered a run"


async def test_when_the_database_stays_away_its_trials_are_free_after_one_lease(url: str) -> None:
    lease = timedelta(seconds=0.3)
    async with open_storage(url) as storage:
        for at in range(1, 40, 6):
            experiment, lab = await fresh(storage, at), busy_lab()
            with Faulty(storage, at, when="before", lasting=True) as fault:
                await run_against(fault, small(experiment, lab, lease=lease))
            await check_resumes(experiment, lab, f"all failed from operation {at} on", held=True)


async def run_against(fault: Faulty, engine: Scheduler) -> None:
    """Run ``engine``: it ends with the fault itself, no group, no other error, or never met it.

    A resignation that fails is tried again.
    """
    try:
        await engine.run()
    except StorageUnavailable:
        assert fault.hit
    else:
        assert not fault.hit or fault.struck is leading.resign


# Killed

WORKER = """
import asyncio, sys, anyio, windtunnel
from datetime import timedelta

async def bench(params, emit):
    await emit("progress", params["x"])
    await anyio.sleep(0.02)
    return {"score": params["x"]}

asyncio.run(windtunnel.tune(
    bench, {"g": {"params": {"x": {"type": "int", "range": [0, 10000], "default": 0}}}},
    objectives={"score": "min"}, trials=60, concurrency=4, seed=1,
    storage=sys.argv[1], experiment_id="killed",
))
"""
Row = tuple[int, int, str | None]


def rows(file: Path) -> dict[int, Row]:
    """trial_id → (status, attempt, metrics)."""
    connection = sqlite3.connect(file, timeout=5)
    try:
        found = connection.execute("SELECT trial_id, status, attempt, metrics FROM trial").fetchall()
    except sqlite3.OperationalError:  # its tables are being made
        return {}
    finally:
        connection.close()
    return {trial_id: (status, attempt, metrics) for trial_id, status, attempt, metrics in found}


def finished(found: dict[int, Row]) -> dict[int, Row]:
    return {trial_id: row for trial_id, row in found.items() if row[0] == Status.SUCCEEDED.value}


def killed_after(url: str, file: Path, more: int, delay_s: float) -> None:
    """Run the worker, and kill it ``delay_s`` after ``more`` trials were finished."""
    enough = len(finished(rows(file))) + more
    with subprocess.Popen([sys.executable, "-c", WORKER, url]) as worker:
        deadline = time.monotonic() + LIMIT_S
        while len(finished(rows(file))) < enough and worker.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(delay_s)
        assert worker.poll() is None, "it ended by itself"
        os.kill(worker.pid, signal.SIGKILL)


def test_killed_at_random_moments_nothing_finished_is_lost_or_done_again(tmp_path: Path, url: str) -> None:
    file, chance = tmp_path / "test.db", random.Random(7)
    before: dict[int, Row] = {}
    for kills in range(1, 5):
        killed_after(url, file, more=chance.randrange(1, 12), delay_s=chance.uniform(0, 0.04))
        after = rows(file)
        assert finished(before).items() <= after.items(), "what was finished is as it was"
        assert all(attempt <= kills for _, attempt, _ in after.values())
        before = after
    subprocess.run([sys.executable, "-c", WORKER, url], check=True, timeout=LIMIT_S)
    end = rows(file)
    assert sorted(end) == list(range(1, 61))
    assert finished(end) == end
    assert finished(before).items() <= end.items()
    untouched = {trial_id for trial_id, row in before.items() if row[0] == Status.PENDING.value}
    assert all(end[trial_id][1] == before[trial_id][1] + 1 for trial_id in untouched)
