"""Facts about a running experiment, and the bus that tells them to whoever listens.

What happens to one trial is told in the order in which it happens: everything is published in the thread of
the event loop, and a subscription keeps the order of publishing.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, NamedTuple, Self

import anyio
import anyio.lowlevel

from windtunnel.errors import ConfigError
from windtunnel.model import RunResult, Sample, Trial

__all__ = [
    "Event",
    "EventBus",
    "EventsDropped",
    "Step",
    "StepStarted",
    "Subscription",
    "TelemetryRecorded",
    "TrialAdded",
    "TrialClaimed",
    "TrialFinished",
    "TrialLost",
    "TrialRetried",
    "TrialStarted",
]

_YIELD_EVERY = 64

Step = Literal["setup", "run", "abort", "teardown"]


class TrialAdded(NamedTuple):
    """A trial was stored and waits to be claimed."""

    trial: Trial


class TrialClaimed(NamedTuple):
    """This worker holds the trial's lease."""

    trial: Trial


class TrialStarted(NamedTuple):
    """The trial has a slot and its set-up begins."""

    trial: Trial
    host: str
    runner_id: int


class StepStarted(NamedTuple):
    """A step after the set-up begins, which began with ``TrialStarted``; the one before has ended."""

    trial: Trial
    step: Step
    host: str
    runner_id: int


class TelemetryRecorded(NamedTuple):
    """Samples of one trial have reached the database."""

    trial: Trial
    samples: Sequence[Sample]


class TrialFinished(NamedTuple):
    """The trial's outcome has reached the database.

    :ivar failure: why it did not succeed, None if it did.
    """

    trial: Trial
    result: RunResult
    failure: str | None = None
    host: str | None = None


class TrialRetried(NamedTuple):
    """The trial went back to the queue without an outcome.

    :ivar after: it is not claimed before this time has passed.
    """

    trial: Trial
    reason: str
    after: timedelta = timedelta(0)


class TrialLost(NamedTuple):
    """This worker has ended an attempt whose outcome nobody wants any more: the trial is not its own."""

    trial: Trial
    reason: str


@dataclass(frozen=True, slots=True)  # not a tuple as the others: those have a count of their own
class EventsDropped:
    """Here this subscription misses events: its reader was too slow.

    :ivar count: how many are missing at this place.
    """

    count: int


Event = (
    TrialAdded
    | TrialClaimed
    | TrialStarted
    | StepStarted
    | TelemetryRecorded
    | TrialFinished
    | TrialRetried
    | TrialLost
    | EventsDropped
)


class Subscription:
    """A bounded view of the events, from when it was made; ``async for`` ends when nothing more will come.

    When it is full the newest events are dropped and counted, nobody waits; in their place the reader gets an
    ``EventsDropped``. One task may read at a time. It costs nothing any more when it is closed or forgotten.

    :ivar dropped: how many events it has missed in all.
    """

    def __init__(self, capacity: int, leave: Callable[[Subscription], None]) -> None:
        self.dropped = 0
        self._room = capacity
        self._leave = leave
        # Marks of gaps come on top of the capacity; between any two there is an event.
        self._buffer: deque[Event] = deque()
        self._gap = 0
        self._ended = False
        self._waiter: anyio.Event | None = None
        self._is_woken = False
        self._read = 0

    @property
    def buffered(self) -> int:
        """How many events wait to be read."""
        return len(self._buffer) + bool(self._gap)

    def offer(self, event: Event) -> bool:
        """Hand over an event now, or count it as dropped and say False."""
        if self._room <= 0:
            self._gap += 1
            self.dropped += 1
            return False
        if self._gap:
            self._mark_gap()
        self._buffer.append(event)
        self._room -= 1
        if self._waiter is not None and not self._is_woken:
            self._is_woken = True  # once for all that comes before it reads
            self._waiter.set()
        return True

    def end(self) -> None:
        """No more events will come; what is buffered can still be read."""
        self._ended = True
        if self._waiter is not None:
            self._waiter.set()

    def close(self) -> None:
        """Stop listening and forget what is buffered; whoever waits for an event waits no longer."""
        self._leave(self)
        self._buffer.clear()
        self._gap = 0
        self.end()

    def drain(self) -> list[Event]:
        """Take what is buffered now, without waiting: for a view that looks a few times a second."""
        if self._gap:
            self._mark_gap()
        events = list(self._buffer)
        self._buffer.clear()
        self._room += sum(not isinstance(event, EventsDropped) for event in events)
        return events

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next event.

        :raises anyio.BusyResourceError: if another task waits for it already.
        """
        self._read += 1
        if self._read % _YIELD_EVERY == 0:
            await anyio.lowlevel.checkpoint()  # a reader with a full buffer must let the others run
        buffer = self._buffer
        if not buffer:
            await self._filled()
        event = buffer.popleft()
        if type(event) is not EventsDropped:
            self._room += 1
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _mark_gap(self) -> None:
        self._buffer.append(EventsDropped(self._gap))
        self._gap = 0

    async def _filled(self) -> None:
        """When there is something to read.

        :raises StopAsyncIteration: if nothing more will come.
        """
        while not self._buffer:
            if self._gap:
                self._mark_gap()
            elif self._ended:
                raise StopAsyncIteration
            else:
                await self._wait()

    async def _wait(self) -> None:
        if self._waiter is not None:
            raise anyio.BusyResourceError("reading from")
        self._waiter, self._is_woken = anyio.Event(), False
        try:
            await self._waiter.wait()
        finally:
            self._waiter = None


class EventBus:
    """Tells each event to every subscriber, without ever waiting for one. For one thread: the event loop's.

    :ivar dropped: how many events slow subscribers have missed, over all of them.
    """

    def __init__(self) -> None:
        self.dropped = 0
        # Weak: who lets go of a subscription without closing it has left.
        self._subscriptions: tuple[weakref.ref[Subscription], ...] = ()
        self._closed = False

    @property
    def is_heard(self) -> bool:
        """Whether anybody listens; lets a hot path skip building an event."""
        return bool(self._subscriptions)

    def publish(self, event: Event) -> None:
        """Tell everybody who listens now. After ``close`` it tells nobody."""
        for reference in self._subscriptions:
            subscription = reference()
            if subscription is None:
                self._forget(reference)
            elif not subscription.offer(event):
                self.dropped += 1

    def subscribe(self, *, capacity: int = 10_000) -> Subscription:
        """Listen from now on. What comes too late, after ``close``, ends at once.

        :param capacity: events held for a slow reader; what comes on top is dropped and counted.
        :raises ConfigError: if the capacity is below 1.
        """
        if capacity < 1:
            raise ConfigError(f"expected at least 1, found {capacity!r}", path=("capacity",))
        subscription = Subscription(capacity, self._left)
        if self._closed:
            subscription.end()
        else:
            self._subscriptions += (weakref.ref(subscription),)
        return subscription

    def close(self) -> None:
        """Tell every subscriber that nothing more will come."""
        self._closed = True
        references, self._subscriptions = self._subscriptions, ()
        for subscription in filter(None, (reference() for reference in references)):
            subscription.end()

    def _left(self, leaving: Subscription) -> None:
        self._subscriptions = tuple(one for one in self._subscriptions if one() is not leaving)

    def _forget(self, reference: weakref.ref[Subscription]) -> None:
        self._subscriptions = tuple(one for one in self._subscriptions if one is not reference)
