"""Whole runs, with generators in processes of their own."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psutil
import pytest

from tests.integration.load.server import Server
from windtunnel.errors import ConfigError, LoadFailed
from windtunnel.loadgen.capacity import Step, next_rate
from windtunnel.loadgen.generators import Watcher, run_load
from windtunnel.loadgen.hdrlog import decoded
from windtunnel.loadgen.histogram import Histogram
from windtunnel.loadgen.result import Result, SecondRecord
from windtunnel.loadgen.search import Tried, find_max_rate
from windtunnel.loadgen.thresholds import Threshold


async def run(url: str, *, watch: Watcher | None = None, **options: Any) -> Result:
    return await run_load({"url": url, **options}, directory=Path(), watch=watch)


async def counts(server: Server) -> dict[str, int]:
    return await anyio.to_thread.run_sync(server.counts)


def generators() -> list[int]:
    """The generator processes of this test."""
    children = psutil.Process().children()
    return [one.pid for one in children if "windtunnel.loadgen.agent" in one.cmdline()]


def kill_generators(count: int) -> None:
    for pid in generators()[:count]:
        os.kill(pid, signal.SIGKILL)


async def test_counts_agree_with_the_servers_to_the_request(server: Server) -> None:
    seconds: list[SecondRecord] = []

    async def watch(second: SecondRecord) -> None:
        seconds.append(second)

    result = await run(server.url, rate=400, duration="2s", watch=watch)
    assert (result.offered, result.total.sent, result.total.completed) == (800, 800, 800)
    assert (await counts(server))["/"] == 800
    assert (result.total.errors.total(), result.unsent) == (0, 0)
    assert result.rate == pytest.approx(400, rel=0.1)
    # Each second is told as it is over, and all of them are the whole.
    assert sum(one.sent for one in seconds) == sum(one.completed for one in seconds) == 800
    whole = Histogram()
    for one in seconds:
        whole.merge(decoded(one.interval.histogram))
    assert whole.counts == result.total.latency.counts


async def test_stall_of_the_server_is_seen_by_those_who_were_due(server: Server) -> None:
    """A server that is frozen for 1 s of 5: a fifth of all requests were due meanwhile, and waited."""

    async def freeze(second: SecondRecord) -> None:
        if second.second == 0:
            server.signal(signal.SIGSTOP)
            tasks.start_soon(thaw)

    async def thaw() -> None:
        await anyio.sleep(1)
        server.signal(signal.SIGCONT)

    async with anyio.create_task_group() as tasks:
        result = await run(server.url, rate=500, duration="5s", connections=64, watch=freeze)
    assert result.total.completed == result.offered == (await counts(server))["/"] == 2500
    assert result.total.latency.quantile(0.99) >= 900_000_000
    assert result.total.latency.quantile(0.5) < 300_000_000
    assert result.total.held >= 350  # 500 were due, 64 could be in flight
    # The schedule went on: the second of the stall was offered what it was to have.
    assert [one.offered for one in result.seconds][:5] == [500] * 5
    assert result.schedule_error_ms < 300


async def test_closed_loop_counts_exactly_with_a_warmup(server: Server) -> None:
    result = await run(server.url, users=4, think="10ms", duration="1s", warmup="500ms")
    total = result.total
    assert total.sent == total.completed > 100
    assert (result.offered, total.errors.total()) == (None, 0)
    assert total.sent < (await counts(server))["/"]  # the warm-up came on top
    assert result.total.elapsed_s == pytest.approx(1, abs=0.3)


async def test_warmup_is_left_out_to_the_request(server: Server) -> None:
    result = await run(server.url, rate=200, duration="1s", warmup="500ms", workers=2)
    assert (result.offered, result.total.sent, result.total.completed) == (200, 200, 200)
    assert (await counts(server))["/"] == 300


async def test_generator_that_is_killed_is_told_and_its_share_taken_over(server: Server) -> None:
    async def kill(second: SecondRecord) -> None:
        if second.second == 0:
            await anyio.to_thread.run_sync(kill_generators, 1)

    result = await run(server.url, rate=300, duration="4s", workers=3, watch=kill)
    total = result.total
    assert [reason.startswith("worker ") for reason in result.lost] == [True]
    assert any("a generator was lost" in reason for reason in result.invalid_because)
    # What the third had told about its first second counts, and later its share is sent by the others.
    assert 0 < result.unsent < 200
    assert result.unsent == 1200 - total.begun
    assert result.seconds[-1].sent + result.seconds[-2].sent >= 300 * 0.9


async def test_last_generator_that_is_killed_leaves_what_it_told(server: Server) -> None:
    async def kill(second: SecondRecord) -> None:
        await anyio.to_thread.run_sync(kill_generators, 9)

    result = await run(server.url, rate=100, duration="9s", watch=kill)
    assert result.total.begun == pytest.approx(100, abs=5)
    assert result.unsent > 700


async def test_abort_on_ends_a_run_early(server: Server) -> None:
    limit = Threshold.parse("errors>50%")
    plan = {"url": f"{server.url}unavailable", "rate": 100, "duration": "15s"}
    with anyio.fail_after(8):
        result = await run_load(plan, directory=Path(), abort_on=[limit])
    assert result.ended_by == "errors>50% in second 0"
    assert result.unsent == 0  # nobody wanted the rest any more


async def test_stop_ends_at_once_whatever_is_in_flight(server: Server) -> None:
    stop = anyio.Event()

    async def watch(_: SecondRecord) -> None:
        stop.set()

    plan = {"url": f"{server.url}never", "rate": 50, "duration": "15s", "timeout": "15s"}
    with anyio.fail_after(8):
        result = await run_load(plan, directory=Path(), stop=stop, watch=watch)
    assert (result.ended_by, result.total.errors.total()) == ("stopped", 0)


async def test_cancelled_run_leaves_no_generator(server: Server) -> None:
    with anyio.move_on_after(3) as scope:

        async def cancel(_: SecondRecord) -> None:
            scope.cancel()

        await run(server.url, rate=50, duration="15s", workers=2, watch=cancel)
    assert scope.cancelled_caught
    assert await anyio.to_thread.run_sync(generators) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"url": "http://127.0.0.1:1/", "rate": 5}, LoadFailed, "127.0.0.1:1: connection refused"),
        ({"url": "http://127.0.0.1:1/", "rate": 5, "data": "no.csv"}, ConfigError, "there is no file"),
        ({"url": "http://192.0.2.1/", "rate": 5}, ConfigError, "--yes"),
        ({"url": "http://127.0.0.1:1/", "users": 3_000_000, "confirmed": True}, ConfigError, "open files"),
    ],
)
async def test_what_cannot_be_run_says_why(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        await run_load(options, directory=Path())
    assert message in str(caught.value)


async def test_search_goes_on_where_it_stopped(server: Server) -> None:
    known = [Tried(rate, rate < 60, True, {"p99": 1.0}) for rate in (50, 50, 100, 70, 60, 55, 60, 50, 58)]
    rate = next_rate([Step(one.rate, one.kept) for one in known], start=50)
    assert rate is not None
    tried: list[Tried] = []

    async def note(step: Tried, _result: Result) -> None:
        tried.append(step)

    found = await find_max_rate(
        {"url": server.url, "duration": "1s"},
        [Threshold.parse("p50<5s")],
        directory=Path(),
        tried=known,
        on_step=note,
        most=10,
    )
    assert [one.rate for one in tried] == [rate]
    assert (await counts(server))["/"] == pytest.approx(rate, abs=1)
    assert found.capacity.rate == pytest.approx(59, abs=2)


async def test_search_that_the_generator_is_too_slow_for_says_so(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was missed by a run that is not valid says nothing of the target, and is tried again, thrice."""
    monkeypatch.setattr("windtunnel.loadgen.result.LATE_MS", 0.0)
    tried: list[Tried] = []

    async def note(step: Tried, _result: Result) -> None:
        tried.append(step)

    plan = {"url": server.url, "rate": 40, "duration": "200ms"}
    limits = [Threshold.parse("rate>9999")]
    found = await find_max_rate(plan, limits, directory=Path(), on_step=note)
    assert "40 requests a second 3 runs in a row say nothing of the target" in found.problem
    assert found.tried == []
    assert [(one.rate, one.valid) for one in tried] == [(40, False)] * 3
