"""The recorder's periodic flush and the flush of a trial that ends, at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import anyio
from anyio import wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from windtunnel.errors import StorageError
from windtunnel.model import Sample, Trial
from windtunnel.telemetry import Recorder
from windtunnel.tunables import TunableGroups

NEVER = timedelta(hours=1)


def trial(number: int) -> Trial:
    return Trial(experiment_id="e", trial_id=number, config_id=1, tunables=TunableGroups({}))


class SlowStore:
    """Begins writes at once and ends each when it is told to."""

    def __init__(self) -> None:
        self.begun: list[anyio.Event] = []

    async def __call__(self, batches: Sequence[tuple[Trial, Sequence[Sample]]]) -> list[StorageError | None]:
        end = anyio.Event()
        self.begun.append(end)
        await end.wait()
        return [None] * len(batches)


async def test_a_trial_that_ends_waits_for_a_write_that_began_before() -> None:
    store, ended = SlowStore(), False
    recorder = Recorder(store, period=NEVER)
    sink = recorder.sink(trial(1))
    await sink.emit("qps", 1)

    async def end_trial() -> None:
        nonlocal ended
        await sink.flush()
        ended = True

    async with anyio.create_task_group() as group:
        group.start_soon(recorder.flush)
        await wait_all_tasks_blocked()
        group.start_soon(end_trial)
        await wait_all_tasks_blocked()
        assert (len(store.begun), ended) == (1, False)
        store.begun[0].set()
    assert ended


async def test_a_cancelled_trial_still_waits_for_the_write() -> None:
    store, ended = SlowStore(), False
    recorder = Recorder(store, period=NEVER)
    sink = recorder.sink(trial(1))
    await sink.emit("qps", 1)

    async def end_trial(scope: anyio.CancelScope) -> None:
        nonlocal ended
        with scope:
            await sink.flush()
            ended = True

    async with anyio.create_task_group() as group:
        group.start_soon(recorder.flush)
        await wait_all_tasks_blocked()
        scope = anyio.CancelScope()
        group.start_soon(end_trial, scope)
        scope.cancel()
        for _ in range(5):
            await checkpoint()
        assert not ended
        store.begun[0].set()
    assert ended


async def test_a_full_buffer_is_written_at_once_although_another_trial_has_flushed() -> None:
    store = SlowStore()
    recorder = Recorder(store, capacity=2, period=NEVER)
    first, second = recorder.sink(trial(1)), recorder.sink(trial(2))
    async with anyio.create_task_group() as group:
        group.start_soon(recorder.run)
        await wait_all_tasks_blocked()
        await first.flush()
        group.start_soon(second.emit, "qps", 1)
        await wait_all_tasks_blocked()
        assert len(store.begun) == 1
        store.begun[0].set()
        group.cancel_scope.cancel()
