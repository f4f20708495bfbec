"""What ``$name`` means in a tree: the globals, and the constants of the composites around an environment."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from windtunnel.config.mlos.nodes import Node, made
from windtunnel.config.mlos.remarks import Remarks

__all__ = [
    "LATE",
    "Globals",
    "Scope",
    "as_seen",
    "escaped",
    "literal",
    "ours",
    "references",
    "rewritten",
    "substituted",
]

LATE = frozenset({"trial_id", "trial_runner_id"})
"""Names that only a trial has."""

_REFERENCE = re.compile(r"\$(?:\$|(?P<brace>\{)?(?P<name>[A-Za-z_]\w*)(?(brace)\}))", re.ASCII)
_OURS = frozenset({"config_dir", "host", "host_address", "host_index"})
"""Names that every trial of ours has, which are nobody's there."""


def ours(name: str) -> str:
    """The name of a parameter of the tree in our format."""
    return f"param_{name}" if name in _OURS else name


def as_seen(value: object) -> object:
    """A parameter as scripts there see it: ``True``, ``None`` and lists are written as in Python."""
    return str(value) if value is None or isinstance(value, bool | list | dict) else value


def literal(text: str) -> str:
    """``text`` so that it is itself when it has been expanded."""
    return text.replace("$", "$$")


def escaped(value: Any) -> Any:
    """A value whose texts are themselves when they have been expanded."""
    if isinstance(value, str):
        return literal(value)
    if isinstance(value, dict):
        return {key: escaped(inner) for key, inner in value.items()}
    return [escaped(inner) for inner in value] if isinstance(value, list) else value


def references(text: str) -> Iterator[str]:
    """The names in a text."""
    return (match["name"] for match in _REFERENCE.finditer(text) if match["name"])


def rewritten(text: str, replacement: Callable[[str, str], str]) -> str:
    """``text`` in our form, in which every other dollar sign is itself.

    :param replacement: what a reference becomes: called with its name, and as it was written.
    """
    parts, end = [], 0
    for match in _REFERENCE.finditer(text):
        new = "$$" if match["name"] is None else replacement(match["name"], match[0])
        parts += [literal(text[end : match.start()]), new]
        end = match.end()
    return "".join((*parts, literal(text[end:])))


def substituted(text: str, value: Callable[[str], object | None]) -> object:
    """``text`` with the names that have a value replaced; one that is exactly a name keeps its type."""
    whole = _REFERENCE.fullmatch(text)
    if whole and whole["name"] and (known := value(whole["name"])) is not None:
        return known

    def replacement(match: re.Match[str]) -> str:
        if match["name"] is None:
            return "$"
        known = value(match["name"])
        return match[0] if known is None else str(known)

    return _REFERENCE.sub(replacement, text)


class Globals:
    """The global parameters, each of which may name others and variables of the operating system.

    :param written: name → what was written.
    """

    def __init__(self, written: Mapping[str, Node], system: Mapping[str, str]) -> None:
        self.written = dict(written)
        self._system = system
        self._open: list[str] = []

    def __contains__(self, name: object) -> bool:
        return name in self.written

    def node(self, name: str) -> Node:
        """What was written."""
        return self.written[name]

    def value(self, name: str) -> object:
        """The value, in which only names that nobody knows are left.

        :raises ConfigError: if globals name each other in a circle.
        """
        node = self.written[name]
        if name in self._open:
            circle = " → ".join([*self._open[self._open.index(name) :], name])
            raise node.error(f"the globals name each other in a circle: {circle}")
        self._open.append(name)
        try:
            return self.evaluated(node.plain())
        finally:
            self._open.pop()

    def evaluated(self, value: Any) -> Any:
        """A value with the names in all its texts replaced."""
        if isinstance(value, str):
            return substituted(value, self._known)
        if isinstance(value, dict):
            return {key: self.evaluated(inner) for key, inner in value.items()}
        return [self.evaluated(inner) for inner in value] if isinstance(value, list) else value

    def is_late(self, name: str) -> bool:
        """Whether its value can only be known to a trial."""
        value = self.value(name)
        return isinstance(value, str) and not LATE.isdisjoint(references(value))

    def described(self, needed: Iterable[str], remarks: Remarks) -> dict[str, Node]:
        """These and the globals that they name, as our format has them.

        Variables of the operating system stay names: they may be secrets.
        """
        found: dict[str, Node] = {}
        wanted = list(needed)
        while wanted:
            name = wanted.pop(0)
            if ours(name) not in found:
                node = self.written[name]
                named = list(references(node.value)) if isinstance(node.value, str) else []
                found[ours(name)] = self._described(node, remarks)
                wanted += [other for other in named if other in self.written]
        return found

    def late_text(self, name: str) -> str:
        """What stands for a global that only a trial can know."""
        return rewritten(str(self.value(name)), lambda other, form: form if other in LATE else literal(form))

    def _described(self, node: Node, remarks: Remarks) -> Node:
        def replacement(name: str, form: str) -> str:
            if name in self.written:
                return form.replace(name, ours(name))
            if name in self._system or name == "experiment_id":
                return form
            remarks.note(node, f"${name} is neither a global nor a variable that is set; it stays as it is")
            return literal(form)

        if isinstance(node.value, str):
            return node.with_value(rewritten(node.value, replacement))
        return node.with_value(escaped(as_seen(node.plain())))

    def _known(self, name: str) -> object | None:
        if name in self.written:
            return self.value(name)
        return self._system.get(name)


@dataclass(frozen=True, slots=True)
class Scope:
    """What an environment may take from outside: the globals, then the constants of those around it.

    :ivar constants: name → value, as far as it is known before a trial; the outermost wins.
    """

    globals: Globals
    constants: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))

    def __contains__(self, name: object) -> bool:
        return name in self.globals or name in self.constants

    def value(self, name: str) -> object:
        """The value of a name that it holds."""
        return self.globals.value(name) if name in self.globals else self.constants[name]

    def evaluated(self, value: Any, own: Mapping[str, object]) -> Any:
        """A constant: its names are looked up among ``own``, then here."""
        if isinstance(value, str):
            return substituted(value, lambda name: own[name] if name in own else self._known(name))
        return value

    def within(self, constants: Mapping[str, object]) -> Scope:
        """The scope of the children of a composite with these constants."""
        return replace(self, constants=MappingProxyType({**constants, **self.constants}))

    def merged(self, config: Node) -> Node:
        """A configuration, in which names that are known here override what was written."""
        entries = config.entries
        changed = {key: self.node(key, entries[key]) for key in entries if key in self}
        return config.with_value({**entries, **changed})

    def node(self, name: str, otherwise: Node) -> Node:
        """A known value as a node: of the global, or else of the value it overrides."""
        place = self.globals.node(name).place if name in self.globals else otherwise.place
        return made(self.value(name), place)

    def _known(self, name: str) -> object | None:
        return self.value(name) if name in self else None
