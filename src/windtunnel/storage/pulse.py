"""Heartbeats: a thread of their own renews the leases, over a connection of its own.

So neither a stalled event loop nor a busy writer nor an exhausted pool lets a trial go. One thread serves all
experiments of a storage; it is there for as long as anybody needs it. What stops the whole interpreter, such
as a C extension that keeps its lock, stops the thread too.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from heapq import nsmallest
from queue import Empty, SimpleQueue
from typing import NamedTuple, Protocol, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import Connection

from windtunnel.errors import StorageError
from windtunnel.storage import claiming, leading
from windtunnel.storage.errors import Disconnected, mapped_errors
from windtunnel.storage.requests import Extension

__all__ = ["Beat", "Heart", "Line", "Pulse"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

SILENT_LEASES = 20
"""An event loop that has not answered for so many leases, and for ``SILENT_S``, hangs for good."""
SILENT_S = 300.0
_AT_ONCE = 100
"""Experiments in one transaction: they fail, wait and are retried together."""
_LEAST_PERIOD_S = 0.01
_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_LEAST_LIMIT_S = 0.5
_LONGEST_LIMIT_S = 15.0
_JOIN_S = 3.0


class Line(Protocol):
    """A connection for one thread, which waits for the answers. Connects when it is first used."""

    def run(self, query: Callable[[Connection], T], *, limit_s: float) -> T:
        """Run ``query`` and commit. If it raises, it may have happened all the same."""

    def interrupt(self) -> None:
        """From any thread: whoever waits in ``run``, now or later, shall give up soon."""

    def close(self) -> None:
        """Give back the connection."""


class Beat(NamedTuple):
    """One successful renewal.

    :ivar held: trial_id → token of the trials the owner holds now.
    :ivar leads: whether the owner holds the experiment's optimizer lease.
    :ivar at: ``time.monotonic()`` before the statement was sent: from then on the leases count.
    """

    held: Mapping[int, int]
    leads: bool
    at: float


class Pulse:
    """The heartbeats of one owner in one experiment. Any thread may read it at any time.

    :ivar last: ``time.monotonic()`` of the last successful renewal, its ``Beat.at``; at first, of the start.
    :ivar failures: how many attempts have failed so far.
    """

    def __init__(self, poke: Callable[[], None]) -> None:
        self.last = time.monotonic()
        self.failures = 0
        self._poke = poke

    def poke(self) -> None:
        """Beat now, not only when it is due."""
        self._poke()


class _LoopClosed(Exception):
    """Nobody is there any more to work for."""


class _Member:
    """What the thread knows of a pulse, and its way back to the event loop.

    :ivar due: when the next attempt is to be made.
    :ivar alone: the last attempt failed together with others, and whose fault it was is not known.
    """

    def __init__(self, wanted: Extension, on_beat: Callable[[Beat], None], poke: Callable[[], None]) -> None:
        self.wanted = wanted
        self.pulse = Pulse(poke)
        self.lease_s = wanted.lease_us / 1e6
        self.period_s = max(self.lease_s / 3, _LEAST_PERIOD_S)
        self.due = self.pulse.last + self.period_s
        self.alone = False
        self.has_left = False
        self._failed_in_a_row = 0
        self._is_given_up = False
        self._on_beat = on_beat
        self._loop = asyncio.get_running_loop()
        # The newest alone: what a blocked loop did not take is out of date.
        self._newest: deque[Beat] = deque(maxlen=1)
        self._asked: float | None = None

    def is_heard(self, now: float) -> bool:
        """Whether the event loop still answers, as far as we can tell."""
        return self._asked is None or now - self._asked < max(SILENT_S, SILENT_LEASES * self.lease_s)

    def wait_for_loop(self, now: float) -> None:
        """Nobody runs these trials any more: their leases are not renewed until the loop answers."""
        self.due = now + min(self.period_s, 1.0)
        if not self._is_given_up:
            self._is_given_up = True
            logger.error("the event loop hangs; its trials are let go", extra={"action": "loop_hangs"})

    def succeeded(self, beat: Beat) -> int:
        """How often it had failed before."""
        failed, self._failed_in_a_row = self._failed_in_a_row, 0
        self.alone = self._is_given_up = False
        self.pulse.last, self.due = beat.at, beat.at + self.period_s
        self._newest.append(beat)
        self._ask()
        return failed

    def failed(self, *, alone: bool) -> int:
        """Try again soon, at growing intervals; how often it failed in a row."""
        pause = min(_PAUSE_S, self.lease_s / 24) * 2.0 ** min(self._failed_in_a_row, 30)
        pause = max(min(pause, self.lease_s / 6, _LONGEST_PAUSE_S), _LEAST_PERIOD_S)
        self._failed_in_a_row += 1
        self.pulse.failures += 1
        self.alone, self.due = self.alone or alone, time.monotonic() + pause
        self._ask()
        return self._failed_in_a_row

    def _ask(self) -> None:
        """Have the loop take the newest beat, and see by this that it lives."""
        if self._asked is None:
            self._asked = time.monotonic()
            try:
                self._loop.call_soon_threadsafe(self._answer)
            except RuntimeError as exc:
                raise _LoopClosed from exc

    def _answer(self) -> None:
        self._asked = None
        if self._newest:
            beat = self._newest.pop()
            if not self.has_left:
                self._on_beat(beat)


class _Thread:
    """Renews leases until ``end``. Only ``run`` looks at the members: others put orders into the inbox."""

    def __init__(self, line: Line, place: str) -> None:
        self._line = line
        self._place = place
        self._members: list[_Member] = []
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._ending = False
        # A daemon: a server that hangs must not keep the process.
        self._thread = threading.Thread(target=self._run, name="windtunnel heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def enter(self, wanted: Extension, on_beat: Callable[[Beat], None]) -> _Member:
        member = _Member(wanted, on_beat, lambda: self._inbox.put(partial(self._make_due, member)))
        self._inbox.put(partial(self._members.append, member))
        return member

    def leave(self, member: _Member) -> None:
        member.has_left = True
        self._inbox.put(partial(self._members.remove, member))

    async def end(self) -> None:
        """Stop the thread and wait for it, but not for long."""
        self._ending = True
        self._line.interrupt()
        self._inbox.put(lambda: None)
        with anyio.CancelScope(shield=True):  # limited by the join
            await anyio.to_thread.run_sync(self._thread.join, _JOIN_S, limiter=anyio.CapacityLimiter(1))

    @staticmethod
    def _make_due(member: _Member) -> None:
        member.due = time.monotonic()

    def _run(self) -> None:
        try:
            while not self._ending:
                self._obey()
                if members := self._whose_turn(time.monotonic()):
                    self._beat(members)
        except _LoopClosed:
            logger.debug("heartbeats end with their loop", extra={"action": "heartbeat_ended"})
        finally:
            self._line.close()

    def _obey(self) -> None:
        """Carry out orders until the next beat is due."""
        due = min((member.due for member in self._members), default=None)
        wait = None if due is None else min(max(0.0, due - time.monotonic()), threading.TIMEOUT_MAX)
        try:
            self._inbox.get(timeout=wait)()
            while True:
                self._inbox.get_nowait()()
        except Empty:
            pass

    def _whose_turn(self, now: float) -> list[_Member]:
        """Who is in the next transaction: one that is to be tried alone, or all that are due or almost."""
        for member in self._members:
            if member.due <= now and not member.is_heard(now):
                member.wait_for_loop(now)
        first = min(self._members, key=lambda member: member.due, default=None)
        if first is None or first.due > now or self._ending:
            return []
        if first.alone:
            return [first]
        near = [m for m in self._members if not m.alone and m.due - m.period_s / 4 <= now and m.is_heard(now)]
        # Always in the same order: who else locks several of these rows must not wait for us while we wait.
        return sorted(nsmallest(_AT_ONCE, near, key=lambda m: m.due), key=lambda m: m.wanted)

    def _beat(self, members: Sequence[_Member]) -> None:
        shortest_s = min(member.period_s for member in members)
        limit_s = min(max(shortest_s, _LEAST_LIMIT_S), _LONGEST_LIMIT_S)
        renew = partial(_renew, wanted=[member.wanted for member in members], at=time.monotonic())
        try:
            with mapped_errors(self._place):
                beats = self._line.run(renew, limit_s=limit_s)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the other leases must be kept up
            if not self._ending:
                self._failed(members, exc)
        else:
            if sum(member.succeeded(beat) for member, beat in zip(members, beats, strict=True)):
                logger.info("heartbeats succeed again", extra={"action": "heartbeat_recovered"})

    def _failed(self, members: Sequence[_Member], exc: Exception) -> None:
        alone = len(members) > 1 and not isinstance(exc, Disconnected)
        is_new = 1 in [member.failed(alone=alone) for member in members]
        logger.log(
            logging.WARNING if is_new else logging.DEBUG,
            "the heartbeats of %d experiments failed; trying again: %s",
            len(members),
            exc,
            exc_info=None if isinstance(exc, StorageError) else exc,
            extra={"action": "heartbeat_failed"},
        )


def _renew(connection: Connection, *, wanted: Sequence[Extension], at: float) -> list[Beat]:
    """Renew the leases of the trials of each, and its optimizer lease."""
    held = claiming.extend(connection, wanted)
    leads = [leading.renew(connection, *one) for one in wanted]
    return [Beat(trials, leader, at) for trials, leader in zip(held, leads, strict=True)]


class Heart:
    """The heartbeats of a storage: one thread for all, as long as there are any. Of one event loop.

    :param line: makes the connection for the thread; connects only when it is used.
    :param place: the database, as people know it and without its password.
    """

    def __init__(self, line: Callable[[], Line], place: str) -> None:
        self._line = line
        self._place = place
        self._thread: _Thread | None = None
        self._members = 0

    @asynccontextmanager
    async def pulse(
        self, experiment_pk: int, owner: str, *, lease: timedelta, on_beat: Callable[[Beat], None]
    ) -> AsyncIterator[Pulse]:
        """See ``Experiment.pulse``."""
        if self._thread is None:
            thread = _Thread(self._line(), self._place)
            thread.start()
            self._thread = thread
        thread = self._thread
        member = thread.enter(Extension(experiment_pk, owner, lease // timedelta(microseconds=1)), on_beat)
        self._members += 1
        try:
            yield member.pulse
        finally:
            thread.leave(member)
            self._members -= 1
            if self._members == 0:
                await self.close()

    async def close(self) -> None:
        """End the thread, if there is one."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await thread.end()
