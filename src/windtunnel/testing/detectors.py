"""Detectors for tests: a blocked event loop, and what a test left behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from statistics import median

import psutil
from sqlalchemy import event
from sqlalchemy.pool import Pool

__all__ = ["Stalls", "no_stall", "nothing_left"]

_TICK_S = 0.005
_REFERENCE_S = 0.010
"""What the work of ``_slowness`` takes on the machine that limits are meant for."""


class Stalls:
    """Watches the running loop for iterations that compute for longer than ``limit_s``.

    Counts the loop thread's processor time, not the clock, so that a busy machine raises no false alarm; and
    not the garbage collector's, which depends on how much the program has loaded; nor what the thread does
    while the loop does not run, such as other fixtures and reports. Calls that sleep or wait in the loop's
    thread use no processor time; those are for a blocking-call detector. The limit is that of a machine of
    our time with nothing else to do, and in proportion on one that is slower.
    """

    def __init__(self, limit_s: float = 0.05) -> None:
        self.limit_s = limit_s
        self.worst_s = 0.0
        self._last = 0.0
        self._handle: asyncio.TimerHandle | None = None
        self._thread = 0
        self._collecting_since = 0.0
        self._run_forever: Callable[[], None]

    def start(self) -> None:
        self._thread = threading.get_ident()
        gc.callbacks.append(self._leave_out_collections)
        self._last = time.thread_time()
        loop = asyncio.get_running_loop()
        self._watch_only_while_it_runs(loop)
        self._tick(loop)

    def stop(self) -> None:
        self._note()
        gc.callbacks.remove(self._leave_out_collections)
        asyncio.get_running_loop().run_forever = self._run_forever  # type: ignore[method-assign]
        if self._handle is not None:
            self._handle.cancel()

    def check(self) -> None:
        """Say what was found.

        :raises AssertionError: if the loop was kept busy for too long.
        """
        if self.worst_s > self.limit_s:
            limit_s, worst_ms = self.limit_s * _slowness(), self.worst_s * 1000
            assert self.worst_s <= limit_s, f"the event loop was kept busy for {worst_ms:.0f} ms in one go"

    def _leave_out_collections(self, phase: str, _info: object) -> None:
        if threading.get_ident() != self._thread:
            return
        if phase == "start":
            self._collecting_since = time.thread_time()
        else:
            self._last += time.thread_time() - self._collecting_since

    def _watch_only_while_it_runs(self, loop: asyncio.AbstractEventLoop) -> None:
        """A test's runner stops and starts its loop between fixtures and the test."""
        self._run_forever = loop.run_forever

        def watched() -> None:
            self._last = time.thread_time()
            try:
                self._run_forever()
            finally:
                self._note()

        loop.run_forever = watched  # type: ignore[method-assign]

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._note()
        self._handle = loop.call_later(_TICK_S, self._tick, loop)

    def _note(self) -> None:
        now = time.thread_time()
        self.worst_s = max(self.worst_s, now - self._last)
        self._last = now


@asynccontextmanager
async def no_stall(limit_s: float = 0.05) -> AsyncIterator[Stalls]:
    """Fail if the block keeps the loop busy for longer than ``limit_s`` in one go."""
    stalls = Stalls(limit_s)
    stalls.start()
    try:
        yield stalls
    finally:
        stalls.stop()
    stalls.check()


def _slowness() -> float:
    """How much longer than the reference machine this one takes for the same work, with what else it does."""

    def taken_s() -> float:
        began = time.thread_time()
        sum(i * i for i in range(200_000))
        return time.thread_time() - began

    return max(1.0, median(taken_s() for _ in range(5)) / _REFERENCE_S)


@contextmanager
def nothing_left() -> Iterator[None]:
    """Fail if the block leaves a child process, a thread that is no daemon, or a checked-out connection."""
    out: dict[int, object] = {}

    def checkout(dbapi: object, record: object, _proxy: object) -> None:
        out[id(record)] = dbapi

    def checkin(_dbapi: object, record: object) -> None:
        out.pop(id(record), None)

    before = set(psutil.Process().children(recursive=True))
    threads = set(threading.enumerate())
    event.listen(Pool, "checkout", checkout)
    event.listen(Pool, "checkin", checkin)
    try:
        yield
    finally:
        event.remove(Pool, "checkout", checkout)
        event.remove(Pool, "checkin", checkin)
    assert not out, f"{len(out)} database connections were not given back"
    left = [p for p in psutil.Process().children(recursive=True) if p not in before]
    assert not left, f"processes were left: {left}"
    alive = [t for t in threading.enumerate() if t not in threads and t.is_alive() and not t.daemon]
    alive = [t for t in alive if not t.name.startswith("asyncio_")]  # a loop's own, which end with it
    for thread in alive:
        thread.join(timeout=2)
    assert not [t for t in alive if t.is_alive()], f"threads were left: {alive}"
