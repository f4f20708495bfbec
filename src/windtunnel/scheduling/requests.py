"""What hosts a trial asks for, and whether there are enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from types import MappingProxyType

from windtunnel.errors import ConfigError

__all__ = ["MOST_ROLES", "Request", "Role", "Supply", "at_once", "shortage"]

MOST_ROLES = 8
"""Every set of roles is looked at: one more role doubles the work."""


@dataclass(frozen=True, slots=True)
class Role:
    """Hosts that do the same thing in a trial.

    :ivar count: how many, each another one.
    :ivar labels: all of which each must have.
    """

    count: int = 1
    labels: frozenset[str] = frozenset()

    def fits(self, labels: Collection[str]) -> bool:
        """Whether a host with these labels can take the role."""
        return not self.labels or all(label in labels for label in self.labels)


@dataclass(frozen=True, slots=True)
class Request:
    """The hosts of one trial, by role; no host has two roles in one trial.

    :raises ConfigError: for none or more than ``MOST_ROLES``.
    """

    roles: Mapping[str, Role]
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.roles) <= MOST_ROLES:
            raise ConfigError(f"expected 1 to {MOST_ROLES} roles, found {len(self.roles)}")
        object.__setattr__(self, "roles", MappingProxyType(dict(self.roles)))
        object.__setattr__(self, "_hash", hash(tuple(self.roles.items())))

    def __hash__(self) -> int:
        return self._hash

    @property
    def width(self) -> int:
        """How many hosts it asks for."""
        return sum(role.count for role in self.roles.values())


Supply = Iterable[tuple[Collection[str], int]]
"""Hosts: the labels of each and how many trials it could take."""


def at_once(request: Request, supply: Supply) -> int:
    """How many trials with this request the hosts could run at once."""
    offers = _offers(request, supply)
    least, most = 0, min(_most(request, roles, offers) for roles in _subsets(request))
    while least < most:
        middle = (least + most + 1) // 2
        if _missing(request, offers, middle) is None:
            least = middle
        else:
            most = middle - 1
    return least


def shortage(request: Request, supply: Supply) -> tuple[tuple[str, ...], int] | None:
    """The fewest roles for which there are not enough hosts, and how many there are; None if there are."""
    return _missing(request, _offers(request, supply), 1)


_Offers = Counter[tuple[frozenset[str], int]]
"""(roles it can take, trials it could take) → number of hosts."""


def _offers(request: Request, supply: Supply) -> _Offers:
    offers = _Offers()
    able: dict[Collection[str], frozenset[str]] = {}
    for labels, room in supply:
        if room > 0:
            if labels not in able:
                able[labels] = frozenset(name for name, role in request.roles.items() if role.fits(labels))
            offers[able[labels], room] += 1
    return offers


def _missing(request: Request, offers: _Offers, trials: int) -> tuple[tuple[str, ...], int] | None:
    # Hall's theorem: it can be done if every set of roles finds as many hosts as it needs. A host that takes
    # part in several of the trials counts once in each, whence the minimum.
    for roles in _subsets(request):
        found = _found(roles, offers, trials)
        if found < trials * sum(request.roles[name].count for name in roles):
            return roles, found
    return None


def _found(roles: tuple[str, ...], offers: _Offers, trials: int) -> int:
    return sum(
        min(room, trials) * hosts for (able, room), hosts in offers.items() if not able.isdisjoint(roles)
    )


def _most(request: Request, roles: tuple[str, ...], offers: _Offers) -> int:
    everything = sum(room * hosts for (able, room), hosts in offers.items() if not able.isdisjoint(roles))
    return everything // sum(request.roles[name].count for name in roles)


def _subsets(request: Request) -> Iterator[tuple[str, ...]]:
    """Every set of roles, small ones first."""
    for size in range(1, len(request.roles) + 1):
        yield from combinations(request.roles, size)
