"""Detectors for tests: a blocked event loop, and what a test left behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import psutil
from sqlalchemy import event
from sqlalchemy.pool import Pool

__all__ = ["Stalls", "no_stall", "nothing_left"]

_TICK_S = 0.005


class Stalls:
    """Watches the running loop for iterations that compute for longer than ``limit_s``.

    Counts the loop thread's processor time, not the clock, so that a busy machine raises no false alarm; and
    not the garbage collector's, which depends on how much the program has loaded. Calls that sleep or wait in
    the loop's thread use no processor time; those are for a blocking-call detector.
    """

    def __init__(self, limit_s: float = 0.05) -> None:
        self.limit_s = limit_s
        self.worst_s = 0.0
        self._last = 0.0
        self._handle: asyncio.TimerHandle | None = None
        self._thread = 0
        self._collecting_since = 0.0

    def start(self) -> None:
        self._thread = threading.get_ident()
        gc.callbacks.append(self._leave_out_collections)
        self._last = time.thread_time()
        self._tick(asyncio.get_running_loop())

    def stop(self) -> None:
        gc.callbacks.remove(self._leave_out_collections)
        if self._handle is not None:
            self._handle.cancel()

    def _leave_out_collections(self, phase: str, _info: object) -> None:
        if threading.get_ident() != self._thread:
            return
        if phase == "start":
            self._collecting_since = time.thread_time()
        else:
            self._last += time.thread_time() - self._collecting_since

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.thread_time()
        self.worst_s = max(self.worst_s, now - self._last)
        self._last = now
        self._handle = loop.call_later(_TICK_S, self._tick, loop)


@asynccontextmanager
async def no_stall(limit_s: float = 0.05) -> AsyncIterator[Stalls]:
    """Fail if the block keeps the loop busy for longer than ``limit_s`` in one go."""
    stalls = Stalls(limit_s)
    stalls.start()
    try:
        yield stalls
    finally:
        stalls.stop()
    worst_ms = stalls.worst_s * 1000
    assert stalls.worst_s <= limit_s, f"the event loop was kept busy for {worst_ms:.0f} ms in one go"


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
