"""Hosts for trials, in order of age: as many as a plain search over all possibilities finds."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.scheduling.matching import Matching, Offer
from windtunnel.scheduling.requests import Request, Role, at_once, shortage

HOSTS = "abcd"
Wants = list[list[str]]


def _assignments(wants: Wants) -> Iterable[tuple[str | None, ...]]:
    """Every way to give hosts to one trial, none twice."""
    for hosts in itertools.product(*([None, *some] for some in wants)):
        given = [host for host in hosts if host is not None]
        if len(set(given)) == len(given):
            yield hosts


def _best(trials: Sequence[Wants], room: Counter[str]) -> tuple[int, ...]:
    """How many hosts each trial can have, the first as many as it can, then the second, …"""
    return max(
        tuple(sum(host is not None for host in hosts) for hosts in chosen)
        for chosen in itertools.product(*map(_assignments, trials))
        if Counter(host for hosts in chosen for host in hosts if host is not None) <= room
    )


wants = st.lists(st.lists(st.sampled_from(HOSTS), max_size=3, unique=True), min_size=1, max_size=3)


@settings(deadline=None)
@given(
    trials=st.lists(wants, min_size=1, max_size=3),
    room=st.lists(st.integers(0, 2), min_size=4, max_size=4),
)
def test_every_trial_has_as_many_hosts_as_it_can_beside_the_earlier_ones(
    trials: list[Wants], room: list[int]
) -> None:
    left = Counter(dict(zip(HOSTS, room, strict=True)))
    matching: Matching[str] = Matching(left.__getitem__)
    offers: dict[tuple[str, ...], Offer[str]] = {}  # the same for all that can use the same
    for number, trial in enumerate(trials):
        matching.add(number, [offers.setdefault(tuple(some), Offer(some)) for some in trial])
    had = [matching.hosts(number) for number in range(len(trials))]
    counts = tuple(sum(host is not None for host in hosts) for hosts in had)
    assert counts == _best(trials, left)
    assert matching.size == sum(counts)


def test_an_earlier_trial_moves_on_where_that_helps_a_later_one() -> None:
    matching: Matching[str] = Matching(lambda _: 1)
    assert matching.add("first", [Offer("ab")]) == 1
    assert matching.hosts("first") == ["a"]
    assert matching.add("second", [Offer("a")]) == 1
    assert (matching.hosts("first"), matching.hosts("second")) == (["b"], ["a"])


def test_one_that_stands_in_its_own_way_stands_in_nobody_elses() -> None:
    matching: Matching[str] = Matching(lambda _: 2)
    offer = Offer("a")
    assert matching.add("first", [offer, offer]) == 1
    assert matching.add("second", [offer, offer]) == 1
    assert matching.add("third", [offer]) == 0


# How many trials fit at once


def _request(**roles: tuple[int, str]) -> Request:
    return Request({name: Role(count, frozenset(labels)) for name, (count, labels) in roles.items()})


def _supply(hosts: Collection[tuple[str, int]]) -> list[tuple[frozenset[str], int]]:
    return [(frozenset(labels), room) for labels, room in hosts]


@settings(deadline=None)
@given(
    counts=st.lists(
        st.tuples(st.integers(1, 2), st.sampled_from(["", "x", "y", "xy"])), min_size=1, max_size=3
    ),
    hosts=st.lists(st.tuples(st.sampled_from(["", "x", "y", "xy"]), st.integers(0, 3)), max_size=5),
)
def test_so_many_trials_fit_as_can_be_placed_one_beside_the_other(
    counts: list[tuple[int, str]], hosts: list[tuple[str, int]]
) -> None:
    request = _request(**{f"r{number}": role for number, role in enumerate(counts)})
    supply = _supply(hosts)
    matching: Matching[int] = Matching(lambda host: supply[host][1])
    placed = 0
    while matching.add(placed, [_able(role, supply) for role in _each(request)]) == request.width:
        placed += 1
    assert at_once(request, supply) == placed
    assert (shortage(request, supply) is None) == (placed > 0)


def _each(request: Request) -> list[Role]:
    return [role for role in request.roles.values() for _ in range(role.count)]


def _able(role: Role, supply: list[tuple[frozenset[str], int]]) -> Offer[int]:
    return Offer(host for host, (labels, _) in enumerate(supply) if role.fits(labels))


def test_the_fewest_roles_that_lack_hosts_are_named() -> None:
    request = _request(server=(1, "x"), client=(2, "x"), watcher=(1, ""))
    assert shortage(request, _supply([("x", 1), ("", 1), ("", 1)])) == (("client",), 1)
    assert shortage(request, _supply([("x", 1), ("x", 5), ("", 1)])) == (("server", "client"), 2)
    assert shortage(request, _supply([("x", 1)] * 3)) == (("server", "client", "watcher"), 3)
    assert shortage(request, _supply([("x", 1)] * 4)) is None
