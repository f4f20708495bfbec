"""Facts about a running experiment, and the bus that tells them to whoever listens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from windtunnel.model import RunResult, Sample, Trial

__all__ = [
    "Event",
    "EventBus",
    "Subscription",
    "TelemetryRecorded",
    "TrialAdded",
    "TrialClaimed",
    "TrialFinished",
    "TrialRetried",
    "TrialStarted",
]


@dataclass(frozen=True, slots=True)
class TrialAdded:
    """A trial was stored and waits to be claimed."""

    trial: Trial


@dataclass(frozen=True, slots=True)
class TrialClaimed:
    """This worker holds the trial's lease."""

    trial: Trial


@dataclass(frozen=True, slots=True)
class TrialStarted:
    """The trial has a slot and its environment is being set up."""

    trial: Trial
    host: str
    runner_id: int


@dataclass(frozen=True, slots=True)
class TelemetryRecorded:
    """Samples of one trial have reached the database."""

    trial: Trial
    samples: Sequence[Sample]


@dataclass(frozen=True, slots=True)
class TrialFinished:
    """The trial's outcome has reached the database.

    :ivar failure: why it did not succeed, None if it did.
    """

    trial: Trial
    result: RunResult
    failure: str | None = None
    host: str | None = None


@dataclass(frozen=True, slots=True)
class TrialRetried:
    """The trial went back to the queue without an outcome."""

    trial: Trial
    reason: str


Event = TrialAdded | TrialClaimed | TrialStarted | TelemetryRecorded | TrialFinished | TrialRetried


class Subscription:
    """A bounded view of the events. When it is full the newest are dropped and counted, nobody waits."""

    def __init__(self, capacity: int) -> None:
        send, receive = anyio.create_memory_object_stream[Event](capacity)
        self._send: MemoryObjectSendStream[Event] = send
        self._receive: MemoryObjectReceiveStream[Event] = receive
        self.dropped = 0

    def offer(self, event: Event) -> None:
        """Hand over an event now, or count it as dropped."""
        try:
            self._send.send_nowait(event)
        except anyio.WouldBlock:
            self.dropped += 1

    def drain(self) -> list[Event]:
        """Take what is buffered now, without waiting: for a view that looks a few times a second."""
        events: list[Event] = []
        with suppress(anyio.WouldBlock, anyio.EndOfStream):
            while True:
                events.append(self._receive.receive_nowait())
        return events

    def close(self) -> None:
        """No more events will come; what is buffered can still be read."""
        self._send.close()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._receive.__aiter__()

    def detach(self) -> None:
        self._send.close()
        self._receive.close()


class EventBus:
    """Tells each event to every subscriber, without ever waiting for one."""

    def __init__(self) -> None:
        self._subscriptions: tuple[Subscription, ...] = ()
        self._closed = False

    @property
    def is_heard(self) -> bool:
        """Whether anybody listens; lets a hot path skip building an event."""
        return bool(self._subscriptions) and not self._closed

    def publish(self, event: Event) -> None:
        """Tell everybody who listens now. After ``close`` it tells nobody."""
        if self._closed:
            return
        for subscription in self._subscriptions:
            subscription.offer(event)

    @asynccontextmanager
    async def subscribe(self, *, capacity: int = 10_000) -> AsyncIterator[Subscription]:
        """Listen while the block runs. What comes too late, after ``close``, ends at once.

        :param capacity: events held for a slow reader; what comes on top is dropped and counted.
        """
        subscription = Subscription(capacity)
        self._subscriptions += (subscription,)
        if self._closed:
            subscription.close()
        try:
            yield subscription
        finally:
            self._subscriptions = tuple(s for s in self._subscriptions if s is not subscription)
            subscription.detach()

    def close(self) -> None:
        """Tell every subscriber that nothing more will come."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.close()
