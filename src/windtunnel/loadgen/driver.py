"""The loops that begin requests: by a schedule that nothing holds up, or by users who wait for answers."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Protocol

import anyio

from windtunnel.loadgen.alarm import Alarm
from windtunnel.loadgen.client import Client, Slot

__all__ = ["ClosedLoop", "Loop", "OpenLoop"]

_NEVER = 2**63 - 1
_RETRY_S = 0.1


class Loop(Protocol):
    """Begins sessions until its time is up."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """Begin nothing more, not even what is due."""

    async def done(self) -> None:
        """Wait until all is begun that is to be, and has ended."""


class OpenLoop:
    """Begins a session at each time of a schedule, whatever becomes of those before it.

    While all slots are busy, the sessions that become due wait for one in their order, and keep the intended
    start they had.

    :param times: of ``time.monotonic_ns``, rising.
    """

    def __init__(self, client: Client, times: Iterator[int]) -> None:
        self._client = client
        self._recorder = client.recorder
        self._lateness = client.recorder.lateness.append
        self._idle = client.idle
        client.freed = self.freed
        self._times = times
        self._due = next(times, _NEVER)
        self._held_since = 0
        self._ended = anyio.Event()
        self._alarm = Alarm(self._wake)

    def start(self) -> None:
        self._wake()

    def follow(self, times: Iterator[int], *, since: int) -> None:
        """Go on with another schedule from a time on; until then with this one.

        :param times: all at or after ``since``.
        """
        own = itertools.takewhile(lambda time: time < since, itertools.chain([self._due], self._times))
        self._times = itertools.chain(own, times)
        self._due = next(self._times, _NEVER)
        if not self._held_since:
            self._wake()

    def _wake(self) -> None:
        """Begin everything that is due."""
        now = time.monotonic_ns()
        while self._due <= now:
            slot = self._client.slot()
            if slot is None:
                self._held_since = now
                self._alarm.set(0)
                return
            due = self._due
            self._lateness(now - due)
            self._due = next(self._times, _NEVER)  # after the note: it may be where the measurement begins
            slot.begin(due, now)
            now = time.monotonic_ns()
        self._rest()

    def _rest(self) -> None:
        """Nothing is due now."""
        self._held_since = 0
        if self._due < _NEVER:
            self._alarm.set(self._due)
            return
        self._alarm.set(0)
        if not self._client.in_flight:
            self._ended.set()

    def freed(self, slot: Slot, now: int, *, unreached: bool = False) -> None:
        if not self._held_since:
            self._idle.append(slot)
            if self._due == _NEVER and not self._client.in_flight:
                self._ended.set()
        elif self._due <= now:
            due = self._due
            # What we were late ourselves, before the limit held anything back, is our fault all the same. The
            # others would only thin out the schedule error.
            if self._held_since > due:
                self._lateness(self._held_since - due)
            else:
                self._recorder.unscheduled += 1
            self._recorder.held += 1
            self._due = next(self._times, _NEVER)
            slot.begin(due, now)
        else:
            self._idle.append(slot)
            self._rest()

    def stop(self) -> None:
        self._times = iter(())
        self._due = _NEVER
        self._rest()

    async def done(self) -> None:
        try:
            await self._ended.wait()
        finally:
            self._alarm.close()


class ClosedLoop:
    """Users who each begin a session, wait for its end, think, and begin the next.

    One that cannot reach its target tries again after 0.1 s.

    :param users: how many, at most the client's limit.
    :param think_s: how long a user thinks.
    :param until: of ``time.monotonic_ns``; no session begins later.
    """

    def __init__(self, client: Client, *, users: int, think_s: float, until: int) -> None:
        self._client = client
        self._recorder = client.recorder
        client.freed = self.freed
        self._users = users
        self._think_s = think_s
        self._until = until
        self._loop = asyncio.get_running_loop()
        self._thinking: dict[Slot, asyncio.TimerHandle] = {}
        self._ended = anyio.Event()

    def start(self) -> None:
        for _ in range(self._users):
            slot = self._client.slot()
            if slot is not None:
                self._begin(slot, time.monotonic_ns())

    def freed(self, slot: Slot, now: int, *, unreached: bool = False) -> None:
        pause_s = max(self._think_s, _RETRY_S) if unreached else self._think_s
        if not pause_s and now < self._until:
            self._recorder.unscheduled += 1
            slot.begin(now, now)
        elif now + pause_s * 1e9 < self._until:
            self._thinking[slot] = self._loop.call_later(pause_s, self._return, slot)
        else:
            self._leave(slot)

    def _begin(self, slot: Slot, now: int) -> None:
        self._recorder.unscheduled += 1
        slot.begin(now, now)

    def _return(self, slot: Slot) -> None:
        del self._thinking[slot]
        self._begin(slot, time.monotonic_ns())

    def _leave(self, slot: Slot) -> None:
        self._client.idle.append(slot)
        if not self._client.in_flight:
            self._ended.set()

    def stop(self) -> None:
        self._until = 0
        thinking, self._thinking = self._thinking, {}
        for slot, handle in thinking.items():
            handle.cancel()
            self._leave(slot)

    async def done(self) -> None:
        await self._ended.wait()
