"""What all configurations of a space share: its groups, its conditions and its constraints."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from types import MappingProxyType
from typing import Any, NamedTuple

from windtunnel.errors import TunableError
from windtunnel.options import nearest
from windtunnel.tunables.constraint import Constraint
from windtunnel.tunables.tunable import Tunable, TunableValue, check_name

__all__ = ["CONSTRAINTS", "CovariantGroup", "Definition", "check_declared_once", "encode", "parse_definition"]

CONSTRAINTS = "constraints"
"""The key of a list of constraints beside groups; a mapping there is a group of that name."""

encode = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class CovariantGroup:
    """Tunables that are changed together, at one cost.

    :param cost: what changing any of them costs, 0 or more, in a unit of the user's choice; default 0.
    :param tunables: in the order of declaration.
    :raises TunableError: if the name or the cost is wrong, or a tunable comes twice.
    """

    name: str
    cost: int = 0
    tunables: tuple[Tunable, ...] = ()

    def __post_init__(self) -> None:
        check_name("tunable group", self.name)
        if isinstance(self.cost, bool) or not isinstance(self.cost, int) or self.cost < 0:
            raise TunableError(
                f"tunable group {self.name!r}: cost must be a whole number, 0 or more, found {self.cost!r}",
                path=("cost",),
            )

    @classmethod
    def parse(cls, name: str, config: object) -> CovariantGroup:
        """A group from its form in a config file: ``{cost: 1, params: {name: {...}}}``, both parts optional.

        :raises TunableError: if it is not a valid group; its path leads from ``config`` to the wrong part.
        """
        check_name("tunable group", name)
        parts = _mapping(config, f"tunable group {name!r}", ())
        for key in parts:
            if key not in ("cost", "params"):
                hint = nearest(key, ("cost", "params"))
                raise TunableError(f"tunable group {name!r}: unknown key {key!r}{hint}", path=(key,))
        params = _mapping(parts.get("params"), f"the params of tunable group {name!r}", ("params",))
        return cls(
            name, parts.get("cost", 0), tuple(_parse_tunable(key, value) for key, value in params.items())
        )

    def definition(self) -> dict[str, Any]:
        """The form ``parse`` takes, made of JSON types."""
        return {
            "cost": self.cost,
            "params": {tunable.name: tunable.definition() for tunable in self.tunables},
        }


class _Condition(NamedTuple):
    """When the tunable at ``position`` is active: each parent is, and has one of these values."""

    position: int
    parents: Sequence[tuple[int, Container[TunableValue]]]


class Definition:
    """What all copies of a ``TunableGroups`` share; their values are tuples in the order of ``positions``.

    :param groups: with conditions that were checked; one on a tunable that is in none of them is met.
    """

    __slots__ = (
        "_conditions",
        "_subsets",
        "canonical",
        "constraints",
        "defaults",
        "groups",
        "names",
        "positions",
        "prefix",
        "tunables",
    )

    def __init__(self, groups: Sequence[CovariantGroup], constraints: Iterable[Constraint] = ()) -> None:
        members = {tunable.name: tunable for group in groups for tunable in group.tunables}
        self.groups = MappingProxyType({group.name: group for group in groups})
        self.tunables = MappingProxyType(members)
        self.constraints = tuple(dict.fromkeys(constraints))
        self.names = frozenset(members)
        self.positions = {name: position for position, name in enumerate(members)}
        self.defaults = tuple(tunable.default for tunable in members.values())
        ordered = sorted((group.name, sorted(t.name for t in group.tunables)) for group in groups)
        self.canonical = [self.positions[name] for _, names in ordered for name in names]
        self.prefix = encode(ordered).encode()
        self._conditions = [self._condition(name) for name in _parents_first(members) if members[name].when]
        # One entry for each selection of groups a program makes; environments make one each.
        self._subsets: dict[tuple[str, ...], Definition] = {tuple(self.groups): self}

    def __reduce__(self) -> tuple[object, ...]:
        return (_again, (tuple(self.groups.values()), [one.text for one in self.constraints]))

    def subset(self, names: tuple[str, ...]) -> Definition:
        """The definition of some groups, with the constraints that speak of nothing else.

        :raises TunableError: if there is no group of that name.
        """
        found = self._subsets.get(names)
        if found is None:
            for name in names:
                if name not in self.groups:
                    known = ", ".join(self.groups) or "none"
                    raise TunableError(
                        f"no tunable group {name!r}{nearest(name, self.groups)}; groups: {known}"
                    )
            groups = [self.groups[name] for name in names]
            here = {tunable.name for group in groups for tunable in group.tunables}
            kept = [one for one in self.constraints if one.names <= here]
            found = self._subsets[names] = Definition(groups, kept)
        return found

    def constrained(self, constraints: Iterable[object]) -> Definition:
        """The same with further constraints.

        :raises TunableError: if one is wrong, or the defaults violate it; its path ends with its index.
        """
        if isinstance(constraints, str):
            raise TunableError(f"expected a list of constraints, found {constraints!r}", path=(CONSTRAINTS,))
        defaults = dict(zip(self.positions, self.defaults, strict=True))
        new = [_constraint(i, text, self.tunables, defaults) for i, text in enumerate(constraints)]
        if new and CONSTRAINTS in self.groups:
            raise TunableError(
                f"beside constraints no group can be named {CONSTRAINTS!r}; rename it", path=(CONSTRAINTS,)
            )
        return Definition(tuple(self.groups.values()), (*self.constraints, *new)) if new else self

    def inactive(self, values: Sequence[TunableValue]) -> set[int]:
        """The positions of the tunables that are not active, whatever ``values`` has there."""
        found: set[int] = set()
        for position, parents in self._conditions:
            if any(parent in found or values[parent] not in allowed for parent, allowed in parents):
                found.add(position)
        return found

    def settled(self, values: list[TunableValue]) -> tuple[TunableValue, ...]:
        """``values`` with the default wherever a tunable is not active."""
        if self._conditions:
            for position in self.inactive(values):
                values[position] = self.defaults[position]
        return tuple(values)

    def _condition(self, name: str) -> _Condition:
        when = self.tunables[name].when
        known = [(self.positions[parent], when[parent]) for parent in when if parent in self.positions]
        return _Condition(self.positions[name], known)


def parse_definition(config: object) -> Definition:
    """A definition from the ``tunables`` section of a config.

    :raises TunableError: if it is wrong; its path leads from ``config`` to the wrong part.
    """
    parts = _mapping(config, "the tunables", ())
    groups, constraints = [], []
    for name, part in parts.items():
        if name == CONSTRAINTS and isinstance(part, list | tuple):
            constraints = list(part)
            continue
        try:
            groups.append(CovariantGroup.parse(name, part))
        except TunableError as exc:
            exc.within(name)
            raise
    check_declared_once(groups)
    return Definition(_linked(groups)).constrained(constraints)


def check_declared_once(groups: Iterable[CovariantGroup]) -> None:
    """:raises TunableError: if two groups have a tunable of the same name."""
    home: dict[str, str] = {}
    for group in groups:
        for tunable in group.tunables:
            if tunable.name in home:
                raise TunableError(
                    f"tunable {tunable.name!r} is declared twice, in group {home[tunable.name]!r} "
                    f"and in group {group.name!r}; rename one of them",
                    path=(group.name, "params", tunable.name),
                )
            home[tunable.name] = group.name


def _linked(groups: Sequence[CovariantGroup]) -> list[CovariantGroup]:
    """The groups with conditions whose values are those that the tunables named can have.

    :raises TunableError: if a condition can never be met, or tunables wait for each other.
    """
    known = {tunable.name: tunable for group in groups for tunable in group.tunables}
    linked = [
        replace(group, tunables=tuple(_with_parents(group.name, one, known) for one in group.tunables))
        for group in groups
    ]
    try:
        _parents_first(known)
    except CycleError as exc:
        circle: list[str] = exc.args[1]
        home = next(group.name for group in groups if known[circle[0]] in group.tunables)
        raise TunableError(
            f"conditions must not form a circle, found {' → '.join(map(repr, circle))}",
            path=(home, "params", circle[0], "when"),
        ) from None
    return linked


def _with_parents(group: str, tunable: Tunable, known: Mapping[str, Tunable]) -> Tunable:
    if not tunable.when:
        return tunable
    when: dict[str, tuple[TunableValue, ...]] = {}
    for name, allowed in tunable.when.items():
        path = (group, "params", tunable.name, "when", name)
        if name not in known:
            message = f"tunable {tunable.name!r}: when: no tunable {name!r}{nearest(name, known)}"
            raise TunableError(message, path=path)
        try:
            when[name] = tuple(dict.fromkeys(map(known[name].check, allowed)))
        except TunableError as exc:
            raise TunableError(f"tunable {tunable.name!r}: when: {exc.message}", path=path) from None
    return replace(tunable, when=when)


def _parents_first(tunables: Mapping[str, Tunable]) -> list[str]:
    """The names, each after those its condition names.

    :raises CycleError: if there is no such order.
    """
    parents = {name: [one for one in tunable.when if one in tunables] for name, tunable in tunables.items()}
    return list(TopologicalSorter(parents).static_order())


def _constraint(
    index: int, text: object, tunables: Mapping[str, Tunable], defaults: Mapping[str, TunableValue]
) -> Constraint:
    try:
        constraint = text if isinstance(text, Constraint) else Constraint.parse(text, tunables)
    except TunableError as exc:
        raise exc.within(CONSTRAINTS, index) from None
    if not constraint.holds(defaults):
        found = ", ".join(f"{name}={defaults[name]!r}" for name in sorted(constraint.names))
        message = f"the defaults violate the constraint {constraint.text!r}: {found}; change one or the other"
        raise TunableError(message, path=(CONSTRAINTS, index))
    return constraint


def _again(groups: Sequence[CovariantGroup], constraints: Sequence[str]) -> Definition:
    return Definition(groups).constrained(constraints)


def _parse_tunable(name: str, config: object) -> Tunable:
    try:
        check_name("tunable", name)
        return Tunable.parse(name, _mapping(config, f"tunable {name!r}", ()))
    except TunableError as exc:
        exc.within("params", name)
        raise


def _mapping(value: object, what: str, path: Sequence[str]) -> Mapping[Any, Any]:
    """``value``, which must be a mapping; None, as YAML reads an empty entry, is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TunableError(f"{what}: expected a mapping, found {value!r}", path=path)
    return value
