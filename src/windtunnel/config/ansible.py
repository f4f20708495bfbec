"""Ansible inventories: which hosts there are, in which groups, and what is said of each.

INI and YAML files are read, with groups and their children, variables of groups and hosts, and ranges; not
so the folders ``group_vars`` and ``host_vars``, scripts, plugins, vaults and templates.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

from windtunnel.config.places import Place
from windtunnel.config.ranges import MOST_NAMES, expand_ranges
from windtunnel.errors import ConfigError
from windtunnel.options import nearest, shown

__all__ = ["AnsibleHost", "parse_ini", "parse_mapping"]

_WITH_PORT = re.compile(r"((?:[^\[\]:]|\[[^\]]*\])+):([0-9]{1,5})")
_SECTION = re.compile(r"\[([^\[\]:\s]+)(?::([^\[\]]*))?\]\s*(?:[#;].*)?")
_IMPLIED = frozenset({"all", "ungrouped"})
_PARTS = ("hosts", "children", "vars")


@dataclass(frozen=True, slots=True)
class AnsibleHost:
    """A host of an inventory.

    :ivar line: where it stands first.
    :ivar groups: in which it is, also through others; without ``all`` and ``ungrouped``.
    :ivar variables: those of its groups and its own, which win.
    """

    name: str
    line: int
    groups: frozenset[str]
    variables: Mapping[str, object]


@dataclass(slots=True)
class _Group:
    """A group of hosts.

    :ivar line: where it is named first.
    :ivar is_described: whether it is more than a name.
    :ivar parents: the groups it is in → the line that says so.
    """

    line: int
    is_described: bool = False
    hosts: dict[str, int] = field(default_factory=dict)
    parents: dict[str, int] = field(default_factory=dict)
    variables: dict[str, object] = field(default_factory=dict)


class _Inventory:
    """What was read so far."""

    def __init__(self) -> None:
        self._groups = {name: _Group(1, is_described=True) for name in _IMPLIED}
        self._lines: dict[str, int] = {}
        self._variables: dict[str, dict[str, object]] = {}

    def group(self, name: str, line: int, *, is_described: bool = True) -> _Group:
        group = self._groups.setdefault(name, _Group(line))
        group.is_described |= is_described
        return group

    def add_host(self, group: _Group, pattern: str, variables: Mapping[str, object], line: int) -> None:
        match = _WITH_PORT.fullmatch(pattern)
        port = {"ansible_port": match[2]} if match else {}
        for name in expand_ranges(match[1] if match else pattern, separator=":"):
            if name in group.hosts:
                first = group.hosts[name]
                raise ConfigError(
                    f"host {name!r} stands twice in one group, first in line {first}", line=line
                )
            if len(self._lines) >= MOST_NAMES:
                raise ConfigError(f"expected at most {MOST_NAMES} hosts", line=line)
            group.hosts[name] = line
            self._lines.setdefault(name, line)
            self._variables.setdefault(name, {}).update({**port, **variables})

    def hosts(self) -> list[AnsibleHost]:
        """:raises ConfigError: for a group that nobody describes, or that is inside itself."""
        for name, group in self._groups.items():
            if not group.is_described:
                known = (one for one, other in self._groups.items() if other.is_described)
                raise ConfigError(f"there is no group {name!r}{nearest(name, known)}", line=group.line)
        depths = self._depths()
        members: dict[str, set[str]] = {name: {"all"} for name in self._lines}
        for name, group in self._groups.items():
            around = self._with_parents(name) if group.hosts else set()
            for host in group.hosts:
                members[host] |= around
        return [self._host(name, groups, depths) for name, groups in members.items()]

    def _host(self, name: str, groups: set[str], depths: Mapping[str, int]) -> AnsibleHost:
        variables: dict[str, object] = {}
        for group in sorted(groups, key=lambda one: (depths[one], one)):
            variables.update(self._groups[group].variables)
        variables.update(self._variables[name])
        return AnsibleHost(name, self._lines[name], frozenset(groups - _IMPLIED), variables)

    def _depths(self) -> dict[str, int]:
        """How far each group is inside others: what it says wins over what they say."""
        depths = {"all": 0}
        try:
            for name in TopologicalSorter(
                {n: group.parents for n, group in self._groups.items()}
            ).static_order():
                parents = self._groups[name].parents
                depths.setdefault(name, 1 + max((depths[parent] for parent in parents), default=0))
        except CycleError as exc:
            circle: list[str] = exc.args[1]
            line = self._groups[circle[1]].parents[circle[0]]
            raise ConfigError(
                f"the groups are inside each other in a circle: {' → '.join(circle)}", line=line
            ) from None
        return depths

    def _with_parents(self, name: str) -> set[str]:
        found, left = set[str](), [name]
        while left:
            one = left.pop()
            if one not in found:
                found.add(one)
                left += self._groups[one].parents
        return found


# INI


def parse_ini(text: str) -> list[AnsibleHost]:
    """The hosts of an inventory in Ansible's INI format.

    :raises ConfigError: with its line, for what cannot be understood.
    """
    inventory = _Inventory()
    section, kind = "ungrouped", "hosts"
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        try:
            if line[0] == "[":
                section, kind = _section(line)
                inventory.group(section, number, is_described=kind != "vars")
            else:
                _read_line(inventory, section, kind, line, number)
        except ConfigError as exc:
            exc.line = exc.line or number
            raise
    return inventory.hosts()


def _section(line: str) -> tuple[str, str]:
    match = _SECTION.fullmatch(line)
    if match is None:
        raise ConfigError(f"expected [GROUP], [GROUP:children] or [GROUP:vars], found {shown(line)}")
    kind = match[2] or "hosts"
    if kind not in _PARTS:
        raise ConfigError(f"unknown kind of section {kind!r}{nearest(kind, _PARTS)}")
    return match[1], kind


def _read_line(inventory: _Inventory, section: str, kind: str, line: str, number: int) -> None:
    group = inventory.group(section, number, is_described=False)
    if kind == "vars":
        name, equals, value = line.partition("=")
        if not equals:
            raise ConfigError(f"expected a variable as NAME=VALUE, found {shown(line)}")
        group.variables[name.strip()] = _unquoted(value)
        return
    words = _words(line)
    if kind == "children":
        inventory.group(words[0], number, is_described=False).parents.setdefault(section, number)
        return
    variables: dict[str, object] = {}
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"expected a variable as NAME=VALUE, found {shown(word)}")
        variables[name] = value
    inventory.add_host(group, words[0], variables, number)


def _unquoted(value: str) -> str:
    """A value of a whole line; a number sign begins a comment, unless it is in quotes."""
    words = _words(value)
    return words[0] if len(words) == 1 else value.strip()


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError as exc:
        raise ConfigError(f"{str(exc).lower()} in {shown(line)}") from None


# YAML


def parse_mapping(data: object, place: Place) -> list[AnsibleHost]:
    """The hosts of an inventory in Ansible's YAML format.

    :param place: the lines of ``data``.
    :raises ConfigError: with its line, for what cannot be understood.
    """
    inventory = _Inventory()
    for name, raw in _mapping(data, place).items():
        _read_group(inventory, name, raw, place.find((name,)))
    return inventory.hosts()


def _read_group(inventory: _Inventory, name: str, raw: object, place: Place) -> None:
    parts = _mapping(raw, place)
    for key in parts:
        if key not in _PARTS:
            line = place.find((key,)).line
            raise ConfigError(f"unknown key {key!r}{nearest(key, _PARTS)}", line=line)
    group = inventory.group(name, place.line)
    hosts, children, variables = (_mapping(parts.get(key), place.find((key,))) for key in _PARTS)
    group.variables.update(variables)
    for host, own in hosts.items():
        where = place.find(("hosts", host))
        inventory.add_host(group, host, _mapping(own, where), where.line)
    for child, inside in children.items():
        where = place.find(("children", child))
        _read_group(inventory, child, inside, where)
        inventory.group(child, where.line).parents.setdefault(name, where.line)


def _mapping(value: object, place: Place) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"expected a mapping, found {shown(value)}", line=place.line)
    return value
