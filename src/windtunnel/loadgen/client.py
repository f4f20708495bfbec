"""What the loops ask of a client: places from which requests are sent, at most so many at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from windtunnel.loadgen.recorder import Recorder

__all__ = ["Client", "Freed", "Slot"]


class Slot(Protocol):
    """Sends one session at a time."""

    def begin(self, due: int, now: int) -> None:
        """Start a session, and call ``freed`` when it is over, not before this returns.

        :param due: when it was to start, by ``time.monotonic_ns``.
        :param now: the same clock, now.
        """


class Freed(Protocol):
    """What a client calls when a slot has ended its session.

    ``unreached`` says that it found nobody to talk to, so that trying again at once is of no use.
    """

    def __call__(self, slot: Slot, now: int, *, unreached: bool = False) -> None: ...


class Client(AbstractAsyncContextManager[Any], ABC):
    """Makes slots as they are needed, and keeps those that have nothing to do.

    :param limit: how many slots there may be.
    :ivar idle: the one used last is used next, so that there are no more connections than it takes.
    :ivar freed: set by the loop that uses the client, before it asks for a slot.
    """

    freed: Freed

    def __init__(self, recorder: Recorder, *, limit: int) -> None:
        self.recorder = recorder
        self.limit = limit
        self.idle: list[Slot] = []
        self.slots: list[Slot] = []

    def slot(self) -> Slot | None:
        """One that is idle; None if as many as allowed are busy."""
        if self.idle:
            return self.idle.pop()
        if len(self.slots) >= self.limit:
            return None
        self.slots.append(made := self._made())
        return made

    @property
    def in_flight(self) -> int:
        """How many sessions are under way."""
        return len(self.slots) - len(self.idle)

    async def prepare(self, count: int) -> None:
        """Have ``count`` slots ready, if that takes time.

        :raises LoadFailed: if the target cannot be reached.
        """

    def sweep(self, now: int) -> None:
        """End what has taken too long; call it several times within a timeout."""

    @abstractmethod
    def cut(self, now: int) -> None:
        """End all sessions at once, as timed out."""

    def take_received(self) -> int:
        """Bytes since the last call."""
        return 0

    @abstractmethod
    def _made(self) -> Slot: ...
