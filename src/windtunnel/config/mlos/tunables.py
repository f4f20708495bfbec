"""Tunables of a tree: which are included, which are used, and the values they begin with."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from windtunnel.config.mlos.names import as_seen, escaped, literal
from windtunnel.config.mlos.nodes import Node, made
from windtunnel.config.mlos.remarks import Remarks
from windtunnel.config.mlos.search import SearchPath
from windtunnel.options import nearest

__all__ = ["Groups", "Space", "drawn", "in_our_form", "included", "params_of"]

Groups = Mapping[str, Node]
"""Name of a group → what was written of it."""

_DEFAULT_SEED = 42


def included(files: Iterable[Node], known: Groups, search: SearchPath, remarks: Remarks) -> Groups:
    """The groups that are known and those in the files; of two with the same name the first is taken.

    :raises ConfigError: if their defaults differ.
    """
    groups = dict(known)
    for file in files:
        for name, group in search.load(file).entries.items():
            first = groups.setdefault(name, group)
            if first.plain() != group.plain():
                _compare(name, first, group, remarks)
    return groups


def _compare(name: str, first: Node, second: Node, remarks: Remarks) -> None:
    message = f"tunable group {name!r} is defined otherwise in {first.place.source}:{first.place.line}"
    if _defaults(first) != _defaults(second):
        raise second.error(f"{message}; give one of them another name")
    remarks.note(second, f"{message}, which is taken")


def _defaults(group: Node) -> dict[str, Any]:
    return {name: tunable.plain().get("default") for name, tunable in params_of(group).items()}


def params_of(group: Node) -> dict[str, Node]:
    """The tunables of a group by name."""
    params = group.get("params")
    return {} if params is None else params.entries


class Space:
    """The groups that environments use: what an experiment varies."""

    def __init__(self) -> None:
        self.groups: dict[str, Node] = {}

    def use(self, names: Sequence[Node], known: Groups) -> None:
        """Take these groups in.

        :raises ConfigError: for a group that was not included.
        """
        for node in names:
            name = node.text
            if name not in known:
                raise node.error(f"no tunable group {name!r} is included here{nearest(name, known)}")
            self.groups.setdefault(name, known[name])

    @property
    def tunables(self) -> dict[str, Node]:
        """All tunables by name."""
        return {name: node for group in self.groups.values() for name, node in params_of(group).items()}

    def described(self, at: Node) -> Node:
        """The section of our format."""
        return at.with_value({name: _group(group) for name, group in self.groups.items()})

    def chosen(self, values: Node) -> dict[str, Node]:
        """Tunable → value, as one file gives them.

        :raises ConfigError: for a tunable that no environment uses.
        """
        known = self.tunables
        for name, node in values.entries.items():
            if name not in known:
                raise node.error(f"no environment uses a tunable {name!r}{nearest(name, known)}")
        return in_our_form(values).entries


def in_our_form(values: Node) -> Node:
    """Tunable → value in our form."""
    return values.with_value(
        {name: node.with_value(_value(node.value)) for name, node in values.entries.items()}
    )


def _group(group: Node) -> Node:
    """Costs are whole numbers, and descriptions of groups have no place here."""
    entries = {key: node for key, node in group.entries.items() if key != "description"}
    cost = entries.get("cost")
    if cost is not None and isinstance(cost.value, float):
        entries["cost"] = cost.with_value(int(cost.value))
    if "params" in entries:
        params = {name: _tunable(node) for name, node in entries["params"].entries.items()}
        entries["params"] = entries["params"].with_value(params)
    return group.with_value(entries)


def _tunable(tunable: Node) -> Node:
    entries = dict(tunable.entries)
    is_categorical = "type" in entries and entries["type"].value == "categorical"
    for key, node in entries.items():
        if is_categorical and key == "default":
            entries[key] = node.with_value(_value(node.value))
        elif is_categorical and key == "values":
            entries[key] = node.with_value([one.with_value(_value(one.value)) for one in node.items])
        elif isinstance(node.value, dict):  # the meta
            entries[key] = made(escaped(node.plain()), node.place)
        elif isinstance(node.value, str):
            entries[key] = node.with_value(literal(node.value))
    return tunable.with_value(entries)


def _value(value: Any) -> Any:
    """The value of a tunable; booleans are the texts that scripts there see."""
    return literal(value) if isinstance(value, str) else as_seen(value)


def drawn(tunables: Mapping[str, Node], seed: Node | None) -> dict[str, Node]:
    """The values that ``--random_init`` draws there with the same seed: evenly, from the ranges."""
    chance = random.Random(_DEFAULT_SEED if seed is None else seed.value)  # noqa: S311 - reproducible, not secret
    return {name: node.with_value(_drawn(node, chance)) for name, node in tunables.items()}


def _drawn(tunable: Node, chance: random.Random) -> Any:
    described = tunable.plain()
    if described.get("type") == "categorical":
        return _value(str(chance.choice(described.get("values") or [""])))
    bounds = tunable.get("range")
    if bounds is None or len(bounds.items) != 2:
        raise tunable.error("expected a range of two numbers")
    low, high = bounds.plain()
    return chance.randint(low, high) if described.get("type") == "int" else chance.uniform(low, high)
