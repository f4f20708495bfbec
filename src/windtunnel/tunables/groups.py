"""Tunables in groups, with a value each: the configuration that travels through the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from windtunnel.errors import TunableError
from windtunnel.options import nearest
from windtunnel.tunables.constraint import Constraint
from windtunnel.tunables.definition import (
    CONSTRAINTS,
    CovariantGroup,
    Definition,
    check_declared_once,
    encode,
    parse_definition,
)
from windtunnel.tunables.tunable import Tunable, TunableValue

__all__ = ["CovariantGroup", "TunableGroups"]


class TunableGroups(Mapping[str, TunableValue]):
    """All tunables of an experiment with a value each; immutable, and a mapping of tunable name to value.

    :param groups: the ``tunables`` section of a config, ``{group: {cost: 1, params: {name: {...}}}}``; values
        are then the defaults. Another object of this class is copied.
    :param constraints: what must be true of a configuration, such as ``a + b <= 10``; see ``constraint``.
        They come on top of those that ``groups`` has.
    :raises TunableError: if a definition is wrong, a tunable's name is used twice, or the defaults violate a
        constraint; its path leads to the wrong part, from ``groups`` or from where ``constraints`` stands.
    """

    __slots__ = ("_definition", "_digest", "_values")

    _definition: Definition
    _values: tuple[TunableValue, ...]
    _digest: str | None

    def __init__(self, groups: Mapping[str, Any], *, constraints: Iterable[str | Constraint] = ()) -> None:
        if isinstance(groups, TunableGroups):
            definition, self._values = groups._definition, groups._values  # noqa: SLF001 - a copy
        else:
            definition = parse_definition(groups)
            self._values = definition.defaults
        self._definition = definition.constrained(constraints)
        self._digest = None

    # A mapping of names to values

    def __getitem__(self, name: str) -> TunableValue:
        return self._values[self._definition.positions[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._definition.positions)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        """Equal definitions and equal values, whatever their order."""
        if not isinstance(other, TunableGroups):
            return NotImplemented
        if self._definition is other._definition:
            return self._values == other._values
        return (
            self._definition.groups == other._definition.groups
            and set(self.constraints) == set(other.constraints)
            and dict(self) == dict(other)
        )

    def __hash__(self) -> int:
        return hash(tuple([self._values[position] for position in self._definition.canonical]))

    def __repr__(self) -> str:
        groups = (
            f"{name}: " + ", ".join(f"{tunable.name}={self[tunable.name]!r}" for tunable in group.tunables)
            for name, group in self._definition.groups.items()
        )
        return f"TunableGroups({'; '.join(groups)})"

    def __reduce__(self) -> tuple[object, ...]:
        return (_restore, (self._definition, self._values))

    # New values

    def assign(self, values: Mapping[str, object]) -> TunableGroups:
        """A copy with these values; the others stay. An empty mapping gives the object itself.

        A tunable that is not active then has its default, whatever is given for it. Constraints may be
        violated: see ``is_feasible``, and ``choose`` for what a person wants.

        :raises TunableError: if a name is unknown or a value is outside its domain.
        """
        if not values:
            return self
        definition = self._definition
        new = list(self._values)
        for name, value in values.items():
            position = definition.positions.get(name)
            if position is None:
                raise self._unknown(name)
            new[position] = definition.tunables[name].check(value)
        return _restore(definition, definition.settled(new))

    def choose(self, values: Mapping[str, object]) -> TunableGroups:
        """A copy with exactly these values, as somebody wants them; the others stay.

        :raises TunableError: if a name is unknown, a value is outside its domain or has no effect because
            its tunable is not active, or a constraint is violated.
        """
        chosen = self.assign(values)
        for name, value in values.items():
            if chosen[name] != self._definition.tunables[name].check(value):
                when = " and ".join(
                    f"{parent} is {' or '.join(map(repr, allowed))}"
                    for parent, allowed in self.tunable(name).when.items()
                )
                raise TunableError(f"tunable {name!r} cannot be {value!r}: it is active only when {when}")
        broken = next((one for one in self.constraints if not one.holds(chosen)), None)
        if broken is not None:
            found = ", ".join(f"{name}={chosen[name]!r}" for name in sorted(broken.names))
            raise TunableError(f"expected the constraint {broken.text!r} to hold, found {found}")
        return chosen

    def defaults(self) -> TunableGroups:
        """A copy in which every tunable has its default."""
        return self if self.is_defaults() else _restore(self._definition, self._definition.defaults)

    def is_defaults(self) -> bool:
        """Whether every tunable has its default."""
        return self._values == self._definition.defaults

    # Conditions and constraints

    @property
    def active(self) -> frozenset[str]:
        """The tunables whose conditions are met; the others have their defaults and no effect."""
        inactive = self._definition.inactive(self._values)
        if not inactive:
            return self._definition.names
        names = list(self._definition.positions)
        return self._definition.names.difference(names[position] for position in inactive)

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """What must be true of a configuration that is to be tried."""
        return self._definition.constraints

    @property
    def is_feasible(self) -> bool:
        """Whether all constraints hold."""
        return all(one.holds(self) for one in self._definition.constraints)

    @property
    def violated(self) -> tuple[str, ...]:
        """The constraints that do not hold, as they were written."""
        return tuple(one.text for one in self._definition.constraints if not one.holds(self))

    # Groups

    @property
    def groups(self) -> Mapping[str, CovariantGroup]:
        """The groups by name, in the order of declaration."""
        return self._definition.groups

    @property
    def tunables(self) -> Mapping[str, Tunable]:
        """The definitions by name, in the order of declaration."""
        return self._definition.tunables

    def tunable(self, name: str) -> Tunable:
        """The definition of one tunable.

        :raises TunableError: if there is none of that name.
        """
        try:
            return self._definition.tunables[name]
        except KeyError:
            raise self._unknown(name) from None

    def subgroup(self, names: Iterable[str]) -> TunableGroups:
        """Only the groups named, in that order, with their values.

        Of the constraints those are kept that speak of nothing else, and a condition on a tunable that is not
        among them counts as met.

        :raises TunableError: if there is no group of that name.
        """
        definition = self._definition.subset(tuple(dict.fromkeys(names)))
        if definition is self._definition:
            return self
        return _restore(definition, tuple(self[name] for name in definition.positions))

    def merge(self, other: TunableGroups) -> TunableGroups:
        """The groups and constraints of both, own ones first.

        :raises TunableError: if a group of both is not equal in both, or a tunable is in two groups.
        """
        for name in self.groups.keys() & other.groups.keys():
            if self.subgroup([name]) != other.subgroup([name]):
                raise TunableError(
                    f"tunable group {name!r} has two different definitions or values: "
                    f"{self.subgroup([name])!r} and {other.subgroup([name])!r}"
                )
        groups = tuple({**self.groups, **other.groups}.values())
        check_declared_once(groups)
        definition = Definition(groups, (*self.constraints, *other.constraints))
        return _restore(definition, definition.defaults).assign({**self, **other})

    def changed(self, since: TunableGroups) -> tuple[str, ...]:
        """Names of the groups whose values differ, or that only one side has; the most expensive first."""
        return tuple(group.name for group in self._changed(since))

    def cost(self, *, since: TunableGroups) -> int:
        """What it costs to come from ``since`` to these values: the sum over the changed groups."""
        return sum(group.cost for group in self._changed(since))

    # Identity

    @property
    def digest(self) -> str:
        """A hexadecimal SHA-256 of the names of groups and tunables and the values with their types.

        The same in every process; ranges, costs and the order of declaration do not matter.
        """
        if self._digest is None:
            values = encode([self._values[position] for position in self._definition.canonical])
            self._digest = hashlib.sha256(self._definition.prefix + values.encode()).hexdigest()
        return self._digest

    def definition(self) -> dict[str, Any]:
        """The form the constructor takes, made of JSON types; holds no values."""
        groups = {name: group.definition() for name, group in self._definition.groups.items()}
        constraints = [one.text for one in self.constraints]
        return {**groups, CONSTRAINTS: constraints} if constraints else groups

    def _changed(self, since: TunableGroups) -> list[CovariantGroup]:
        if self._definition is since._definition and self._values == since._values:
            return []
        groups = {**since.groups, **self.groups}
        differing = [group for name, group in groups.items() if self._of(name) != since._of(name)]
        return sorted(differing, key=lambda group: (-group.cost, group.name))

    def _of(self, group: str) -> dict[str, TunableValue] | None:
        """The values of one group; None if there is no such group."""
        found = self._definition.groups.get(group)
        return None if found is None else {tunable.name: self[tunable.name] for tunable in found.tunables}

    def _unknown(self, name: object) -> TunableError:
        return TunableError(f"no tunable {name!r}{nearest(name, self._definition.tunables)}")


def _restore(definition: Definition, values: tuple[TunableValue, ...]) -> TunableGroups:
    new = TunableGroups.__new__(TunableGroups)
    new._definition, new._values, new._digest = definition, values, None  # noqa: SLF001 - a constructor
    return new
