"""The recorder: bounded, lossless, in order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import anyio
import pytest

from windtunnel import ResultsInvalid, Sample, StaleTrial, Trial, TunableGroups
from windtunnel.errors import StorageError
from windtunnel.telemetry import Recorder

TRIAL = Trial(experiment_id="e", trial_id=1, config_id=1, tunables=TunableGroups({}))
OTHER = Trial(experiment_id="e", trial_id=2, config_id=1, tunables=TunableGroups({}))


class Store:
    """Keeps what is written; can be held up and can refuse a trial."""

    def __init__(self) -> None:
        self.samples: list[tuple[int, Sample]] = []
        self.writes = 0
        self.gate = anyio.Event()
        self.gate.set()
        self.refuse: set[int] = set()

    async def __call__(self, batches: Sequence[tuple[Trial, Sequence[Sample]]]) -> list[StorageError | None]:
        await self.gate.wait()
        self.writes += 1
        outcomes: list[StorageError | None] = []
        for trial, samples in batches:
            refused = trial.trial_id in self.refuse
            outcomes.append(StaleTrial("lost") if refused else None)
            if not refused:
                self.samples += [(trial.trial_id, sample) for sample in samples]
        return outcomes

    def values(self, trial_id: int = 1) -> list[Any]:
        return [sample.value for owner, sample in self.samples if owner == trial_id]


async def test_what_was_emitted_is_durable_after_a_flush_in_order() -> None:
    store = Store()
    recorder = Recorder(store)
    sink = recorder.sink(TRIAL)
    for i in range(1000):
        await sink.emit("qps", i)
    await sink.flush()
    assert store.values() == list(range(1000))
    assert store.writes == 1, "one transaction"


async def test_points_without_a_time_get_distinct_times_in_order() -> None:
    store = Store()
    sink = Recorder(store).sink(TRIAL)
    for i in range(5000):
        await sink.emit("qps", i)
    await sink.flush()
    times = [sample.timestamp for _, sample in store.samples]
    assert all(a < b for a, b in itertools.pairwise(times))
    assert all(t.tzinfo is not None for t in times)


async def test_a_full_buffer_makes_producers_wait_and_loses_nothing() -> None:
    store = Store()
    store.gate = anyio.Event()
    recorder = Recorder(store, capacity=10, period=timedelta(milliseconds=1))
    emitted = 0

    async def produce() -> None:
        nonlocal emitted
        sink = recorder.sink(TRIAL)
        for i in range(100):
            await sink.emit("qps", i)
            emitted += 1
        await sink.flush()

    async with anyio.create_task_group() as group:
        group.start_soon(recorder.run)

        async def release() -> None:
            for _ in range(200):
                await anyio.lowlevel.checkpoint()
            assert emitted < 10, "the producer waits"
            store.gate.set()

        group.start_soon(release)
        await produce()
        group.cancel_scope.cancel()
    assert store.values() == list(range(100))


async def test_the_loop_flushes_by_itself() -> None:
    store = Store()
    recorder = Recorder(store, period=timedelta(milliseconds=1))
    async with anyio.create_task_group() as group:
        group.start_soon(recorder.run)
        await recorder.sink(TRIAL).emit("qps", 1)
        while not store.samples:
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()


async def test_a_refused_trial_is_counted_and_the_others_are_kept_and_announced() -> None:
    store = Store()
    store.refuse.add(2)
    announced: list[int] = []
    recorder = Recorder(store, recorded=lambda trial, _samples: announced.append(trial.trial_id))
    await recorder.sink(TRIAL).emit("qps", 1)
    await recorder.sink(OTHER).emit("qps", 1)
    await recorder.flush()
    assert (store.values(1), store.values(2)) == ([1], [])
    assert (announced, recorder.refused) == ([1], 1)


async def test_values_and_times_are_checked_where_they_are_emitted() -> None:
    sink = Recorder(Store()).sink(TRIAL)
    with pytest.raises(ValueError, match="expected a time with a zone for 'qps'"):
        await sink.emit("qps", 1, datetime(2026, 1, 1))  # noqa: DTZ001 - that is the mistake
    with pytest.raises(ResultsInvalid, match=r"telemetry 'qps' must be a number or text, found \[1\]"):
        await sink.emit("qps", [1])  # type: ignore[arg-type]  # that is the mistake


async def test_number_like_values_are_taken_as_numbers() -> None:
    store = Store()
    sink = Recorder(store).sink(TRIAL)
    await sink.emit("a", Decimal("1.5"))  # type: ignore[arg-type]  # as numpy's scalars come
    await sink.emit("b", True)
    await sink.flush()
    assert store.values() == [1.5, 1.0]


async def test_a_tight_loop_of_emits_lets_others_run() -> None:
    sink = Recorder(Store(), capacity=100_000).sink(TRIAL)
    others = 0

    async def other() -> None:
        nonlocal others
        while True:
            others += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(other)
        for i in range(5000):
            await sink.emit("qps", i, datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=i))
        group.cancel_scope.cancel()
    assert others > 10
