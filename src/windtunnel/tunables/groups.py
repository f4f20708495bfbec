"""Tunables in groups, with a value each: the configuration that travels through the engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from windtunnel.errors import TunableError
from windtunnel.options import nearest
from windtunnel.tunables.tunable import Tunable, TunableValue, check_name

__all__ = ["CovariantGroup", "TunableGroups"]

_encode = json.JSONEncoder(separators=(",", ":")).encode


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


class TunableGroups(Mapping[str, TunableValue]):
    """All tunables of an experiment with a value each; immutable, and a mapping of tunable name to value.

    :param groups: the ``tunables`` section of a config, ``{group: {cost: 1, params: {name: {...}}}}``; values
        are then the defaults. Another object of this class is copied.
    :raises TunableError: if a definition is wrong or a tunable's name is used twice; its path leads from
        ``groups`` to the wrong part.
    """

    __slots__ = ("_definition", "_digest", "_values")

    _definition: _Definition
    _values: tuple[TunableValue, ...]
    _digest: str | None

    def __init__(self, groups: Mapping[str, Any]) -> None:
        if isinstance(groups, TunableGroups):
            self._definition, self._values = groups._definition, groups._values  # noqa: SLF001 - a copy
        else:
            self._definition = _parse_definition(groups)
            self._values = self._definition.defaults
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
        return self._definition.groups == other._definition.groups and dict(self) == dict(other)

    def __hash__(self) -> int:
        return hash(self.digest)

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
        return _restore(definition, tuple(new))

    def defaults(self) -> TunableGroups:
        """A copy in which every tunable has its default."""
        return self if self.is_defaults() else _restore(self._definition, self._definition.defaults)

    def is_defaults(self) -> bool:
        """Whether every tunable has its default."""
        return self._values == self._definition.defaults

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

        :raises TunableError: if there is no group of that name.
        """
        definition = self._definition.subset(tuple(dict.fromkeys(names)))
        if definition is self._definition:
            return self
        return _restore(definition, tuple(self[name] for name in definition.positions))

    def merge(self, other: TunableGroups) -> TunableGroups:
        """The groups of both, own ones first.

        :raises TunableError: if a group of both is not equal in both, or a tunable is in two groups.
        """
        for name in self.groups.keys() & other.groups.keys():
            if self.subgroup([name]) != other.subgroup([name]):
                raise TunableError(
                    f"tunable group {name!r} has two different definitions or values: "
                    f"{self.subgroup([name])!r} and {other.subgroup([name])!r}"
                )
        definition = _Definition(tuple({**self.groups, **other.groups}.values()))
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
            values = _encode([self._values[position] for position in self._definition.canonical])
            self._digest = hashlib.sha256(self._definition.prefix + values.encode()).hexdigest()
        return self._digest

    def definition(self) -> dict[str, Any]:
        """The form the constructor takes, made of JSON types; holds no values."""
        return {name: group.definition() for name, group in self._definition.groups.items()}

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


class _Definition:
    """What all copies of a ``TunableGroups`` share; their values are tuples in the order of ``positions``."""

    __slots__ = ("_subsets", "canonical", "defaults", "groups", "positions", "prefix", "tunables")

    def __init__(self, groups: Sequence[CovariantGroup]) -> None:
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
        members = {tunable.name: tunable for group in groups for tunable in group.tunables}
        self.groups = MappingProxyType({group.name: group for group in groups})
        self.tunables = MappingProxyType(members)
        self.positions = {name: position for position, name in enumerate(members)}
        self.defaults = tuple(tunable.default for tunable in members.values())
        ordered = sorted((group.name, sorted(t.name for t in group.tunables)) for group in groups)
        self.canonical = [self.positions[name] for _, names in ordered for name in names]
        self.prefix = _encode(ordered).encode()
        # One entry for each selection of groups a program makes; environments make one each.
        self._subsets: dict[tuple[str, ...], _Definition] = {tuple(self.groups): self}

    def __reduce__(self) -> tuple[object, ...]:
        return (_Definition, (tuple(self.groups.values()),))

    def subset(self, names: tuple[str, ...]) -> _Definition:
        found = self._subsets.get(names)
        if found is None:
            for name in names:
                if name not in self.groups:
                    known = ", ".join(self.groups) or "none"
                    raise TunableError(
                        f"no tunable group {name!r}{nearest(name, self.groups)}; groups: {known}"
                    )
            found = self._subsets[names] = _Definition([self.groups[name] for name in names])
        return found


def _restore(definition: _Definition, values: tuple[TunableValue, ...]) -> TunableGroups:
    new = TunableGroups.__new__(TunableGroups)
    new._definition, new._values, new._digest = definition, values, None  # noqa: SLF001 - a constructor
    return new


def _parse_definition(config: object) -> _Definition:
    groups = []
    for name, part in _mapping(config, "the tunables", ()).items():
        try:
            groups.append(CovariantGroup.parse(name, part))
        except TunableError as exc:
            exc.within(name)
            raise
    return _Definition(groups)


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
