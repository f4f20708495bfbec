"""Where trials run: hosts with slots, and one environment a slot, reused from trial to trial."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel

from windtunnel.environments.base import Environment

__all__ = ["Host", "MakeEnvironment", "Slot", "SlotPool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine that trials run on.

    :ivar slots: how many trials it runs at once.
    """

    name: str = "localhost"
    slots: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)


MakeEnvironment = Callable[[Host, int], Environment]
"""Makes the environment of a slot: (host, runner_id) → environment."""


class Slot:
    """One place where a trial can run.

    :ivar runner_id: numbered from 1 over all hosts; scripts see it as ``trial_runner_id``.
    """

    __slots__ = ("_environment", "_make", "host", "runner_id")

    def __init__(self, host: Host, runner_id: int, make: MakeEnvironment) -> None:
        self.host = host
        self.runner_id = runner_id
        self._make = make
        self._environment: Environment | None = None

    @property
    def environment(self) -> Environment:
        """Made when it is first asked for; raises whatever its class raises."""
        if self._environment is None:
            self._environment = self._make(self.host, self.runner_id)
        return self._environment

    def renew(self) -> None:
        """An environment that could not be torn down is not used again."""
        if self._environment is not None and not self._environment.is_clean:
            self._environment = None


class SlotPool:
    """Hands out slots: one of the host that runs least, of its slots the one that was used last.

    Taking a slot and giving it back take the same time however many hosts and slots there are.
    """

    def __init__(self, hosts: Sequence[Host], make_environment: MakeEnvironment) -> None:
        # Numbered round-robin over the hosts: the first few slots are on as many hosts.
        numbered = sorted((i, n) for n, host in enumerate(hosts) for i in range(host.slots))
        places = [_Place(host.name) for host in hosts]
        self._place_of = [places[n] for _, n in numbered]
        for number, (_, n) in reversed(list(enumerate(numbered, 1))):
            places[n].free.append(Slot(hosts[n], number, make_environment))
        places = [place for place in places if place.free]
        self._names = frozenset(place.name for place in places)
        self.size = self._idle = len(numbered)
        # Hosts with a free slot, by how many trials they run; the last of a level is taken first.
        self._levels: list[dict[_Place, None]] = [{} for _ in range(max((h.slots for h in hosts), default=0))]
        self._open: list[int] = []  # a heap of the levels with hosts, and of some that have become empty
        self._is_listed = [False] * len(self._levels)
        self._waiters: dict[_Waiter, None] = {}
        for place in reversed(places):
            self._enter(place)

    @property
    def free(self) -> int:
        """How many more trials there is room for: slots without a trial, less trials that wait for one."""
        return max(0, self._idle - len(self._waiters))

    def take(self, avoid: Collection[str] = ()) -> Slot | None:
        """A free slot on a host that is not to be avoided; None if one has to be waited for.

        :param avoid: names of hosts. If all are to be avoided any will do: in a Counter, one with the least
            count.
        """
        place = self._fitting(avoid) if avoid else self._idlest()
        return None if place is None else self._take_from(place)

    async def acquire(self, avoid: Collection[str] = ()) -> Slot:
        """The same, but waits for it, until it is cancelled.

        A slot goes to the one that has waited longest of those it fits.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        slot = self.take(avoid)
        if slot is not None:
            return slot
        waiter = _Waiter(frozenset() if self._is_everywhere(avoid) else frozenset(avoid))
        self._waiters[waiter] = None
        try:
            await waiter.served.wait()
            slot, waiter.slot = waiter.slot, None
            assert slot is not None, "served with a slot"  # noqa: S101
            return slot
        finally:
            self._waiters.pop(waiter, None)
            if waiter.slot is not None:  # cancelled after it was served
                self.give_back(waiter.slot)

    def give_back(self, slot: Slot) -> None:
        """The slot's trial has ended."""
        slot.renew()
        place = self._place_of[slot.runner_id - 1]
        waiter = self._first_fitting(place.name) if self._waiters else None
        if waiter is not None:
            del self._waiters[waiter]
            waiter.slot = slot
            waiter.served.set()
            return
        if place.free:
            del self._levels[place.busy][place]
        place.busy -= 1
        place.free.append(slot)
        self._enter(place)
        self._idle += 1

    def _take_from(self, place: _Place) -> Slot:
        del self._levels[place.busy][place]
        place.busy += 1
        slot = place.free.pop()
        if place.free:
            self._enter(place)
        self._idle -= 1
        return slot

    def _enter(self, place: _Place) -> None:
        busy = place.busy
        self._levels[busy][place] = None
        if not self._is_listed[busy]:
            self._is_listed[busy] = True
            heapq.heappush(self._open, busy)

    def _idlest(self) -> _Place | None:
        while self._open:
            level = self._levels[self._open[0]]
            if level:
                return next(reversed(level))
            self._is_listed[heapq.heappop(self._open)] = False
        return None

    def _fitting(self, avoid: Collection[str]) -> _Place | None:
        self._forget_empty_levels()
        places = (place for busy in self._open for place in reversed(self._levels[busy]))
        if not self._is_everywhere(avoid):
            return next((place for place in places if place.name not in avoid), None)
        uses = avoid if isinstance(avoid, Mapping) else {}
        return min(places, key=lambda place: uses.get(place.name, 0), default=None)

    def _forget_empty_levels(self) -> None:
        self._open.sort()  # which is a heap as well
        for busy in self._open:
            self._is_listed[busy] = bool(self._levels[busy])
        self._open = [busy for busy in self._open if self._is_listed[busy]]

    def _is_everywhere(self, avoid: Collection[str]) -> bool:
        return len(avoid) >= len(self._names) and all(name in avoid for name in self._names)

    def _first_fitting(self, name: str) -> _Waiter | None:
        return next((waiter for waiter in self._waiters if name not in waiter.avoid), None)


class _Place:
    """A host as the pool sees it.

    :ivar free: its slots without a trial; the last is the next.
    :ivar busy: how many have one.
    """

    __slots__ = ("busy", "free", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.free: list[Slot] = []
        self.busy = 0


class _Waiter:
    """One who waits for a slot.

    :ivar slot: what it was served with, until it takes it.
    """

    __slots__ = ("avoid", "served", "slot")

    def __init__(self, avoid: frozenset[str]) -> None:
        self.avoid = avoid
        self.served = anyio.Event()
        self.slot: Slot | None = None
