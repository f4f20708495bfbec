"""The pool of slots: which trial gets which hosts, and when.

Whoever finds no room waits in a queue, and the rule of the queue is:

    A free slot belongs to the one that has waited longest of those it brings nearer to their hosts.

A trial gets all its hosts at once and holds none before: nobody waits for one that waits. What a trial over
several hosts can use is kept for it as it becomes free. A younger trial goes first only onto hosts that help
no older one, now or with whatever becomes free later. (The sets of hosts that a trial can use are a
transversal matroid: a host that adds nothing to some others adds nothing to more of them.) So a trial waits
at most until all trials have ended that ran or waited when it came; those that overtook it do not count.
Only a quarantine can make it longer: then it is all that ran or waited when the quarantine began or ended.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from typing import overload

import anyio
import anyio.lowlevel

from windtunnel.errors import ConfigError
from windtunnel.model import utc_now
from windtunnel.scheduling.matching import Matching, Offer
from windtunnel.scheduling.places import Place, Places
from windtunnel.scheduling.policy.quarantine import HEALTHY, Quarantine, judge_host
from windtunnel.scheduling.requests import Request, Role, at_once, shortage
from windtunnel.scheduling.slots import Host, MakeEnvironment, MakePlaced, Placement, Slot

__all__ = ["Host", "MakeEnvironment", "MakePlaced", "Placement", "Request", "Role", "Slot", "SlotPool"]

_ANY = Role()


class SlotPool:
    """Hands out slots: one of the host that runs least, of its slots the one that was used last.

    Taking a slot and giving it back take the same time however many hosts and slots there are, while nobody
    waits. A trial that says which hosts it wants gets a placement, any other a slot.

    :param make_placed: makes the environment of a trial over several hosts.
    :param quarantine: when a host that fails is left alone; see ``report``.
    :param clock: in seconds.
    :raises ConfigError: if two hosts have the same name.
    """

    def __init__(
        self,
        hosts: Sequence[Host],
        make_environment: MakeEnvironment,
        *,
        make_placed: MakePlaced | None = None,
        quarantine: Quarantine | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make_placed = make_placed
        self._quarantine = quarantine or Quarantine()
        self._clock = clock
        # Numbered round-robin over the hosts: the first few slots are on as many hosts.
        numbered = sorted((i, n) for n, host in enumerate(hosts) for i in range(host.slots))
        places = [Place(host) for host in hosts]
        self._place_of = [places[n] for _, n in numbered]
        for number, (_, n) in reversed(list(enumerate(numbered, 1))):
            places[n].free.append(Slot(hosts[n], number, make_environment))
        self._named = {place.name: place for place in places}
        if len(self._named) < len(places):
            twice = next(name for name, uses in Counter(host.name for host in hosts).items() if uses > 1)
            raise ConfigError(f"two hosts have the name {twice!r}")
        self.size = len(numbered)
        self._places = Places([place for place in places if place.slots])
        self._usable = {place.name for place in places if place.slots}
        self._resting: dict[Place, float] = {}  # → until when, by the clock
        self._possible: set[Request] = set()
        self._waiters: dict[_Waiter, None] = {}
        self._wanted = 0  # slots, by those that wait
        self._is_reserved = False  # whether a free slot is kept for one that waits
        self._is_stale = False  # whether it was kept for one that does not wait any more

    @property
    def free(self) -> int:
        """How many more trials there is room for: slots without a trial, less what waiting trials lack."""
        if self._resting:
            self._readmit()
        return max(0, self._places.room - self._wanted)

    def room(self, request: Request | None = None) -> int:
        """How many more trials with this request there is room for; those that wait are counted out."""
        if request is None:
            return self.free
        if self._resting:
            self._readmit()
        supply = ((place.labels, place.room) for place in self._named.values())
        return max(0, at_once(request, supply) - len(self._waiters))

    def most(self, request: Request | None = None) -> int:
        """How many trials with this request can run at once if no others do."""
        if request is None:
            return self.size
        return at_once(request, ((place.labels, place.slots) for place in self._named.values()))

    @overload
    def take(self, avoid: Collection[str] = (), request: None = None) -> Slot | None: ...
    @overload
    def take(self, avoid: Collection[str], request: Request) -> Placement | None: ...
    @overload
    def take(self, avoid: Collection[str], request: Request | None) -> Slot | Placement | None: ...
    def take(self, avoid: Collection[str] = (), request: Request | None = None) -> Slot | Placement | None:
        """A free slot on a host that is not to be avoided; None if one has to be waited for.

        :param avoid: names of hosts. If the others will never do, these will: in a Counter, those with the
            least count.
        :raises ConfigError: if there are not enough hosts for the request at all.
        """
        if self._resting:
            self._readmit()
        if request is None and not self._is_reserved:
            place = self._fitting(avoid) if avoid else self._places.idlest()
            return None if place is None else self._places.take(place)
        waiter = self._enqueued(avoid, request)
        self._serve()
        self._leave(waiter)
        self._is_reserved = self._is_reserved and bool(self._waiters)
        return waiter.got

    @overload
    async def acquire(self, avoid: Collection[str] = (), request: None = None) -> Slot: ...
    @overload
    async def acquire(self, avoid: Collection[str], request: Request) -> Placement: ...
    @overload
    async def acquire(self, avoid: Collection[str], request: Request | None) -> Slot | Placement: ...
    async def acquire(self, avoid: Collection[str] = (), request: Request | None = None) -> Slot | Placement:
        """The same, but waits for it, until it is cancelled; see the rule above."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        got = self.take(avoid, request)
        if got is not None:
            return got
        waiter = self._enqueued(avoid, request)
        try:
            self._serve()
            await self._wait(waiter)
            got, waiter.got = waiter.got, None
            assert got is not None, "served with something"  # noqa: S101
            return got
        finally:
            if waiter.got is not None:  # cancelled after it was served
                self.give_back(waiter.got)
            elif self._leave(waiter) and self._is_reserved:
                self._pass_on()

    def give_back(self, given: Slot | Placement) -> None:
        """The trial has ended. What is to be reported of its hosts should have been."""
        given.renew()
        if isinstance(given, Slot):
            given.placement = None
            self._places.put(self._place_of[given.runner_id - 1], given)
        else:
            for slot in reversed(given.all_slots):  # so that they are taken in the same order again
                self._places.put(self._place_of[slot.runner_id - 1], slot)
        if self._waiters:
            self._serve()

    def report(self, host: str, ok: bool, *, lost: bool = False) -> timedelta | None:
        """How a host did in a trial; one that keeps failing gets none for a while, and then one at a time.

        What fails during the pause does not count, but a success does: it ends the pause. So does one later.

        :param ok: whether it did its part, however the trial ended.
        :param lost: it could not be reached, which once is enough.
        :returns: the pause that begins with this, if one does.
        """
        place = self._named[host]
        if place.health == HEALTHY if ok else place in self._resting:
            return None
        place.health, pause = judge_host(self._quarantine, place.health, ok=ok, lost=lost)
        if ok:
            self._resting.pop(place, None)
            self._limit(place, place.slots)
        elif pause is not None:
            self._resting[place] = self._clock() + pause.total_seconds()
            self._limit(place, 0)
        return pause

    def quarantined(self) -> dict[str, datetime]:
        """The hosts that get no trials now → until when."""
        if self._resting:
            self._readmit()
        now, today = self._clock(), utc_now()
        return {place.name: today + timedelta(seconds=until - now) for place, until in self._resting.items()}

    # Choosing

    def _fitting(self, avoid: Collection[str]) -> Place | None:
        excluded = () if self._is_everywhere(avoid) else avoid
        return next(iter(self._candidates(_ANY, excluded, () if excluded else avoid)), None)

    def _candidates(self, role: Role, excluded: Collection[str], unloved: Collection[str]) -> Iterable[Place]:
        fitting = (place for place in self._places if place.name not in excluded and role.fits(place.labels))
        if not isinstance(unloved, Mapping):
            return fitting
        return sorted(fitting, key=lambda place: unloved.get(place.name, 0))

    def _is_everywhere(self, avoid: Collection[str]) -> bool:
        return len(avoid) >= len(self._usable) and all(name in avoid for name in self._usable)

    def _excluded(self, avoid: Collection[str], request: Request | None) -> frozenset[str]:
        """What is to be avoided, unless the others would never do."""
        if not avoid or self._is_everywhere(avoid):
            return frozenset()
        if request is not None:
            others = (self._named[name].labels for name in self._usable if name not in avoid)
            if shortage(request, ((labels, 1) for labels in others)) is not None:
                return frozenset()
        return frozenset(avoid)

    # Waiting

    def _enqueued(self, avoid: Collection[str], request: Request | None) -> _Waiter:
        if request is not None:
            self._check(request)
        unloved = Counter(avoid) if isinstance(avoid, Mapping) else frozenset(avoid)
        waiter = _Waiter(unloved, request, self._excluded(unloved, request))
        self._waiters[waiter] = None
        self._wanted += len(waiter.roles)
        return waiter

    def _check(self, request: Request) -> None:
        if request in self._possible:
            return
        supply = ((place.labels, place.slots) for place in self._named.values())
        if (lack := shortage(request, supply)) is not None:
            roles, found = lack
            needed = sum(request.roles[name].count for name in roles)
            raise ConfigError(f"a trial needs {needed} hosts for {', '.join(roles)}, and there are {found}")
        self._possible.add(request)

    def _leave(self, waiter: _Waiter) -> bool:
        """Take it out of the queue; whether it was in."""
        if waiter not in self._waiters:
            return False
        del self._waiters[waiter]
        self._wanted -= len(waiter.roles)
        return True

    async def _wait(self, waiter: _Waiter) -> None:
        while waiter.got is None:
            waiter.woken = anyio.Event()
            soonest = min(self._resting.values(), default=math.inf)
            with anyio.move_on_after(max(0.0, soonest - self._clock())):
                await waiter.woken.wait()
            self._readmit()
            if self._is_stale:
                self._serve()

    def _pass_on(self) -> None:
        """What was kept for one who was cancelled is for others: the next sees to it, unless cancelled too.

        Often all are, and each would go through the queue.
        """
        self._is_stale = True
        for waiter in self._waiters:
            if waiter.woken is not None:
                waiter.woken.set()
            return

    def _serve(self) -> None:
        """Give those who wait what there is, by the rule above, and keep for them what they can use."""
        matching: Matching[Place] = Matching(attrgetter("room"))
        offers: dict[object, Offer[Place]] = {}
        served: list[_Waiter] = []
        for waiter in self._waiters:
            if matching.size >= self._places.room:
                break
            if matching.add(waiter, self._offers(waiter, offers)) == len(waiter.roles):
                served.append(waiter)
        for waiter in served:
            places = [place for place in matching.hosts(waiter) if place is not None]
            self._hand_over(waiter, [self._places.take(place) for place in places])
            self._leave(waiter)
        self._is_stale = False
        self._is_reserved = matching.size > sum(len(waiter.roles) for waiter in served)

    def _offers(self, waiter: _Waiter, known: dict[object, Offer[Place]]) -> list[Offer[Place]]:
        unloved = () if waiter.excluded else waiter.avoid
        found = []
        for _, role in waiter.roles:
            key = (role.labels, waiter.excluded, waiter if unloved else None)
            if key not in known:
                known[key] = Offer(self._candidates(role, waiter.excluded, unloved))
            found.append(known[key])
        return found

    def _hand_over(self, waiter: _Waiter, slots: list[Slot]) -> None:
        waiter.got = slots[0] if waiter.request is None else self._placement(waiter, slots)
        if waiter.woken is not None:
            waiter.woken.set()

    def _placement(self, waiter: _Waiter, slots: list[Slot]) -> Placement:
        by_role: dict[str, list[Slot]] = {}
        for (name, _), slot in zip(waiter.roles, slots, strict=True):
            by_role.setdefault(name, []).append(slot)
        placement = Placement(by_role, self._make_placed)
        last = slots[0].placement
        # Its environment is used again only if no other has been at work on any of the hosts since.
        if last is not None and last.slots == placement.slots and all(s.placement is last for s in slots):
            return last
        for slot in slots:
            slot.placement = placement
        return placement

    # Quarantine

    def _limit(self, place: Place, limit: int) -> None:
        self._places.limit(place, limit)
        if limit:
            self._usable.add(place.name)
        else:
            self._usable.discard(place.name)
        for waiter in self._waiters:
            waiter.excluded = self._excluded(waiter.avoid, waiter.request)
            if waiter.woken is not None:
                waiter.woken.set()  # it may have to wake up earlier
        self._serve()

    def _readmit(self) -> None:
        """Hosts whose pause is over get one trial."""
        now = self._clock()
        for place in [place for place, until in self._resting.items() if until <= now]:
            del self._resting[place]
            self._limit(place, 1)


class _Waiter:
    """One who waits for slots.

    :ivar excluded: the hosts of ``avoid``, if others will do.
    :ivar roles: one for each slot.
    :ivar got: what it was served with, until it takes it.
    :ivar woken: set when it is served, or has to look at the clock again.
    """

    __slots__ = ("avoid", "excluded", "got", "request", "roles", "woken")

    def __init__(self, avoid: Collection[str], request: Request | None, excluded: frozenset[str]) -> None:
        self.avoid = avoid
        self.request = request
        self.excluded = excluded
        roles = {"": _ANY} if request is None else request.roles
        self.roles = [(name, role) for name, role in roles.items() for _ in range(role.count)]
        self.woken: anyio.Event | None = None
        self.got: Slot | Placement | None = None
