"""One sampler polls the environments of all running trials."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import anyio
import pytest

from windtunnel.logs import TrialFields, trial_fields
from windtunnel.model import Sample, Status, StatusReport, utc_now
from windtunnel.telemetry.sampler import Sampler

PERIOD = timedelta(milliseconds=20)


class Sink:
    def __init__(self) -> None:
        self.values: list[float | str] = []
        self.arrived = anyio.Event()

    async def emit(self, metric: str, value: float | str, timestamp: datetime | None = None) -> None:
        self.values.append(value)
        if len(self.values) == 3:
            self.arrived.set()

    async def emit_many(self, samples: Iterable[Sample]) -> None:
        for one in samples:
            await self.emit(one.metric, one.value)


class Counter:
    """Reports how often it was asked; ``stuck`` from the second time on."""

    def __init__(self, *, stuck: bool = False, stubborn: bool = False) -> None:
        self.polls = 0
        self.began = anyio.Event()
        self.ended = 0
        self._stuck = stuck
        self._stubborn = stubborn

    async def status(self) -> StatusReport:
        self.polls += 1
        try:
            if self._stuck and self.polls == 2:
                self.began.set()
                with anyio.CancelScope(shield=self._stubborn):
                    await anyio.sleep(0.2 if self._stubborn else 60)
            return StatusReport(Status.RUNNING, utc_now(), [Sample(utc_now(), "n", self.polls)])
        finally:
            self.ended += 1


async def test_each_is_asked_every_period_until_its_end() -> None:
    sampler = Sampler(period=PERIOD, timeout=timedelta(seconds=5))
    first, second = Sink(), Sink()
    async with anyio.create_task_group() as group:
        group.start_soon(sampler.run)
        one, other = sampler.begin(Counter(), first), sampler.begin(Counter(), second)
        with anyio.fail_after(5):
            await first.arrived.wait()
            await sampler.end(one)
            told = list(first.values)
            await second.arrived.wait()
        await sampler.end(other)
        group.cancel_scope.cancel()
    assert told[:3] == [1, 2, 3]
    assert first.values == told, "nothing more came after its end"


async def test_one_that_hangs_holds_up_no_other_and_is_given_up() -> None:
    sampler = Sampler(period=PERIOD, timeout=timedelta(milliseconds=100))
    hanging, sink = Counter(stuck=True), Sink()
    async with anyio.create_task_group() as group:
        group.start_soon(sampler.run)
        sampler.begin(hanging, Sink())
        await hanging.began.wait()
        sampler.begin(Counter(), sink)
        with anyio.fail_after(5):
            await sink.arrived.wait()
            while hanging.polls < 3:
                await anyio.sleep(0.005)
        group.cancel_scope.cancel()


async def test_when_end_returns_no_poll_is_under_way() -> None:
    sampler = Sampler(period=PERIOD, timeout=timedelta(seconds=5))
    hanging = Counter(stuck=True)
    async with anyio.create_task_group() as group:
        group.start_soon(sampler.run)
        sampled = sampler.begin(hanging, Sink())
        await hanging.began.wait()
        with anyio.fail_after(5):
            await sampler.end(sampled)
        assert hanging.ended == hanging.polls == 2
        group.cancel_scope.cancel()


async def test_a_poll_that_ignores_its_end_keeps_a_trial_for_one_time_limit_only() -> None:
    sampler = Sampler(period=PERIOD, timeout=timedelta(milliseconds=30))
    hanging = Counter(stuck=True, stubborn=True)
    async with anyio.create_task_group() as group:
        group.start_soon(sampler.run)
        sampled = sampler.begin(hanging, Sink())
        await hanging.began.wait()
        await sampler.end(sampled)
        assert hanging.ended == 1, "it goes on, and nobody waits for it"
        group.cancel_scope.cancel()


async def test_what_is_logged_of_a_poll_names_its_trial(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        async def status(self) -> StatusReport:
            raise OSError("the probe is unplugged")

    caplog.handler.addFilter(TrialFields())
    sampler = Sampler(period=PERIOD, timeout=timedelta(seconds=5))
    async with anyio.create_task_group() as group:
        group.start_soon(sampler.run)
        with trial_fields(experiment_id="e", trial_id=7, attempt=1):
            sampler.begin(Broken(), Sink())
        with anyio.fail_after(5):
            while not caplog.records:
                await anyio.sleep(0.005)
        group.cancel_scope.cancel()
    assert caplog.records[0].__dict__["trial_id"] == 7


async def test_a_last_poll_that_hangs_is_cut_off_and_what_came_before_it_stands(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sampler = Sampler(period=timedelta(seconds=60), timeout=timedelta(milliseconds=30))
    hanging, sink, stands = Counter(stuck=True), Sink(), False
    async with anyio.create_task_group() as group:
        group.start_soon(sampler.run)
        with anyio.fail_after(5), anyio.CancelScope(shield=True) as trial:
            await sampler.tail(hanging, sink, trial)
            await sampler.tail(hanging, sink, trial)
            stands = True
        group.cancel_scope.cancel()
    assert (sink.values, hanging.ended, stands) == ([1], 2, True)
    assert "a status poll took longer than 0:00:00.030000" in caplog.text


async def test_a_trial_cancelled_in_its_last_poll_keeps_its_outcome_at_once() -> None:
    sampler = Sampler(period=PERIOD, timeout=timedelta(seconds=60))
    hanging, sink, stands = Counter(stuck=True), Sink(), False
    async with anyio.create_task_group() as group:
        group.start_soon(sampler.run)
        with anyio.fail_after(5), anyio.CancelScope(shield=True) as trial:
            await sampler.tail(hanging, sink, trial)
            group.start_soon(cancel_when_begun, hanging, trial)
            await sampler.tail(hanging, sink, trial)
            stands = True
        group.cancel_scope.cancel()
    assert (hanging.ended, stands) == (2, True)


async def cancel_when_begun(hanging: Counter, trial: anyio.CancelScope) -> None:
    await hanging.began.wait()
    trial.cancel()
