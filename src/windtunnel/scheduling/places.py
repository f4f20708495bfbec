"""Hosts in the order in which they should be used next."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

from windtunnel.scheduling.policy.quarantine import HEALTHY, Health
from windtunnel.scheduling.slots import Host, Slot

__all__ = ["Place", "Places"]


class Place:
    """A host as the pool sees it.

    :ivar free: its slots without a trial; the last is the next.
    :ivar busy: how many have one.
    :ivar limit: how many may have one now; there can be more, if it was lowered.
    """

    __slots__ = ("busy", "free", "health", "labels", "limit", "name", "slots")

    def __init__(self, host: Host) -> None:
        self.name = host.name
        self.labels = host.labels
        self.slots = self.limit = host.slots
        self.health: Health = HEALTHY
        self.free: list[Slot] = []
        self.busy = 0

    @property
    def room(self) -> int:
        """How many more trials it may run now."""
        return max(0, self.limit - self.busy)


class Places:
    """Hosts with room for a trial: the one that runs least first, of these the one that was used last.

    Each step takes the same time however many hosts and slots there are.

    :ivar room: how many trials there is room for.
    """

    def __init__(self, places: Sequence[Place]) -> None:
        self.room = 0
        # By how many trials they run; the last of a level is taken first.
        self._levels: list[dict[Place, None]] = [{} for _ in range(max((p.slots for p in places), default=0))]
        self._open: list[int] = []  # a heap of the levels with hosts, and of some that have become empty
        self._is_listed = [False] * len(self._levels)
        for place in reversed(places):
            self.room += place.limit
            self._enter(place)

    def take(self, place: Place) -> Slot:
        """A slot of a place with room."""
        busy = place.busy
        del self._levels[busy][place]
        place.busy = busy = busy + 1
        if busy < place.limit:
            self._enter(place)
        self.room -= 1
        return place.free.pop()

    def put(self, place: Place, slot: Slot) -> None:
        """The slot has no trial any more."""
        place.free.append(slot)
        busy, limit = place.busy, place.limit
        if busy < limit:
            del self._levels[busy][place]
        place.busy = busy - 1
        if busy <= limit:
            self._enter(place)
            self.room += 1

    def limit(self, place: Place, limit: int) -> None:
        """From now on it may run so many."""
        self.room -= place.room
        if place.room:
            del self._levels[place.busy][place]
        place.limit = limit
        self.room += place.room
        if place.room:
            self._enter(place)

    def idlest(self) -> Place | None:
        """The first; None if there is none."""
        while self._open:
            level = self._levels[self._open[0]]
            if level:
                return next(reversed(level))
            self._is_listed[heapq.heappop(self._open)] = False
        return None

    def __iter__(self) -> Iterator[Place]:
        """All in order; nothing may be taken or put back meanwhile."""
        self._forget_empty_levels()
        return (place for busy in self._open for place in reversed(self._levels[busy]))

    def _enter(self, place: Place) -> None:
        busy = place.busy
        self._levels[busy][place] = None
        if not self._is_listed[busy]:
            self._is_listed[busy] = True
            heapq.heappush(self._open, busy)

    def _forget_empty_levels(self) -> None:
        self._open.sort()  # which is a heap as well
        for busy in self._open:
            self._is_listed[busy] = bool(self._levels[busy])
        self._open = [busy for busy in self._open if self._is_listed[busy]]
