"""Which of the free hosts are meant for which of the trials that wait."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

__all__ = ["Matching", "Offer"]

H = TypeVar("H", bound=Hashable)


class Offer(Generic[H]):
    """The hosts that would do, the best first; looked at as far as is needed.

    One offer for all that can use the same hosts saves looking again.

    :ivar is_used_up: nobody will get a host from it any more.
    """

    def __init__(self, hosts: Iterable[H]) -> None:
        self.is_used_up = False
        self._rest = iter(hosts)
        self._seen: list[H] = []
        self._begin = 0

    def __iter__(self) -> Iterator[H]:
        return self._from(0)

    def with_room(self, is_full: Callable[[H], bool]) -> Iterator[H]:
        """Those after the first ones, which are full and will stay so."""
        for host in self._from(self._begin):
            if not is_full(host):
                break
            self._begin += 1
        return self._from(self._begin)

    def _from(self, index: int) -> Iterator[H]:
        while True:
            if index == len(self._seen):
                for host in self._rest:
                    self._seen.append(host)
                    break
                else:
                    return
            yield self._seen[index]
            index += 1


class Matching(Generic[H]):
    """Gives hosts to trials in the order in which they are added, moving earlier ones where that helps.

    Each trial has as many hosts as it can have beside those before it: none of those ever has fewer because
    of it. A trial has no host twice. The paths are those of Edmonds and Karp.

    :param room: how many trials a host can take.
    :ivar size: how many hosts are given in all.
    """

    def __init__(self, room: Callable[[H], int]) -> None:
        self.size = 0
        self._room = room
        self._needs: dict[Hashable, list[_Need[H]]] = {}
        self._on: dict[H, dict[_Need[H], None]] = {}
        self._uses: dict[tuple[Hashable, H], _Need[H]] = {}

    def add(self, trial: Hashable, offers: Sequence[Offer[H]]) -> int:
        """Give ``trial`` a host of each offer, or as many as it can have; how many."""
        needs = self._needs[trial] = [_Need(trial, offer) for offer in offers]
        placed = sum(self._place(need) for need in needs)
        self.size += placed
        return placed

    def hosts(self, trial: Hashable) -> list[H | None]:
        """What each of its offers came to, until the next trial is added."""
        return [need.host for need in self._needs[trial]]

    def _place(self, first: _Need[H]) -> bool:
        """Find a host for ``first``; others may have to move on, each to where the next one was."""
        if first.offer.is_used_up:
            return False
        for host in first.offer.with_room(self._is_full):
            if self._takes(host, first):
                self._move(first, host, {first: None})
                return True
        came_from: dict[_Need[H], _Need[H] | None] = {first: None}
        queue, stands_in_its_own_way = deque([first]), False
        while queue:
            need = queue.popleft()
            for host in need.offer:
                if self._takes(host, need):
                    self._move(need, host, came_from)
                    return True
                own = self._uses.get((need.trial, host))
                stands_in_its_own_way |= own is not None and own is not need
                for other in self._on.get(host, ()) if own is None else (own,):
                    if other not in came_from:
                        came_from[other] = need
                        queue.append(other)
        # What has no way to a free host now will have none later, whoever wants it.
        first.offer.is_used_up = not stands_in_its_own_way
        return False

    def _is_full(self, host: H) -> bool:
        return len(self._on.get(host, ())) >= self._room(host)

    def _takes(self, host: H, need: _Need[H]) -> bool:
        return (need.trial, host) not in self._uses and not self._is_full(host)

    def _move(self, last: _Need[H], target: H, came_from: dict[_Need[H], _Need[H] | None]) -> None:
        steps = list(_steps(last, target, came_from))
        for need, _ in steps:  # all leave before any arrives: one may go to where its own trial still is
            if need.host is not None:
                del self._on[need.host][need], self._uses[need.trial, need.host]
        for need, host in steps:
            need.host = host
            self._on.setdefault(host, {})[need] = None
            self._uses[need.trial, host] = need


class _Need(Generic[H]):
    """One host that a trial needs.

    :ivar host: the one it has for now.
    """

    __slots__ = ("host", "offer", "trial")

    def __init__(self, trial: Hashable, offer: Offer[H]) -> None:
        self.trial = trial
        self.offer = offer
        self.host: H | None = None


def _steps(
    last: _Need[H], target: H, came_from: dict[_Need[H], _Need[H] | None]
) -> Iterator[tuple[_Need[H], H]]:
    """Who goes where, the last first; the first of them had no host."""
    need: _Need[H] | None = last
    host: H | None = target
    while need is not None and host is not None:
        yield need, host
        host = need.host
        need = came_from[need]
