"""The detector of stalls: what it counts, and what it leaves out."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest

from windtunnel.testing.detectors import Stalls, no_stall


def _compute(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_what_computes_for_too_long_is_found() -> None:
    async def main() -> None:
        async with no_stall(0.01):
            await asyncio.sleep(0)
            _compute(0.3)

    with pytest.raises(AssertionError, match=r"kept busy for \d{3} ms"):
        asyncio.run(main())


def test_a_failure_of_the_block_is_not_hidden_by_its_stall() -> None:
    async def main() -> None:
        async with no_stall(0.01):
            _compute(0.3)
            raise LookupError

    with pytest.raises(LookupError):
        asyncio.run(main())


def test_collections_and_what_happens_between_two_runs_of_the_loop_do_not_count() -> None:
    stalls = Stalls()
    garbage = [[i] for i in range(200_000)]
    with asyncio.Runner() as runner:

        async def begin() -> None:
            stalls.start()

        async def collect() -> None:
            gc.collect()
            await asyncio.sleep(0.01)
            stalls.stop()

        runner.run(begin())
        _compute(0.2)
        runner.run(collect())
    assert stalls.worst_s < 0.1
    stalls.check()
    assert len(garbage) == 200_000


def test_each_of_two_that_watch_one_loop_sees_the_stall() -> None:
    outer, inner = Stalls(), Stalls()

    async def main() -> None:
        outer.start()
        inner.start()
        await asyncio.sleep(0)
        _compute(0.06)
        await asyncio.sleep(0.02)
        inner.stop()
        _compute(0.12)
        outer.stop()

    asyncio.run(main())
    assert 0.06 <= inner.worst_s < 0.12 <= outer.worst_s
