"""YAML with the meaning of version 1.2: ``on``, ``yes`` and dates are strings, ``1e3`` is a number."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.tag import Tag

from windtunnel.config.places import Place
from windtunnel.errors import ConfigError

__all__ = ["parse"]

_TAG = "tag:yaml.org,2002:"
_MOST_VALUES = 100_000


def parse(text: str) -> tuple[Any, Callable[[], Place]]:
    """The data of a YAML text and a function that gives its places.

    :raises ConfigError: with its line, if the text is not valid, or a key stands twice in a mapping.
    """
    node = _compose(text)
    if node is None:
        return None, lambda: Place(1)
    data, place = _Builder().build(node, _place(node))
    return data, lambda: place


def _compose(text: str) -> Node | None:
    library = _Library(typ="safe", pure=True)
    library.Resolver = _Resolver
    library.composer.warn_double_anchors = False  # they are refused below
    try:
        node: Node | None = library.compose(text)
    except ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        raise ConfigError(
            f"not valid YAML: character {chr(exc.character)!r} is not allowed", line=line
        ) from None
    except MarkedYAMLError as exc:
        raise _syntax_error(exc) from None
    except (ValueError, OverflowError):
        raise ConfigError(
            "not valid YAML: an escape '\\U' names no character, the last is '\\U0010FFFF'"
        ) from None
    return node


_PLAIN = [
    (Tag(suffix=_TAG + name), re.compile(pattern))
    for name, pattern in (
        ("null", r"~|null|Null|NULL|"),
        ("bool", r"true|True|TRUE|false|False|FALSE"),
        ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
        ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"),
        ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"),
        ("merge", r"<<"),
    )
]


class _Resolver(VersionedResolver):
    """The core schema of 1.2 to the letter; the library's own also knows ``0b1``, ``1_000`` and dates."""

    @property
    def processing_version(self) -> tuple[int, int]:
        return 1, 2

    def resolve(self, kind: type[Node], value: str | None, implicit: Any) -> Tag:
        if kind is ScalarNode and value is not None and implicit[0]:
            for tag, pattern in _PLAIN:
                if pattern.fullmatch(value):
                    return tag
        default: Tag = super().resolve(kind, value, (False, False))
        return default


def _int(text: str) -> int:
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


_SCALARS: dict[str, Callable[[str], object]] = {
    _TAG + "null": lambda _: None,
    _TAG + "bool": lambda text: text.lower() == "true",
    _TAG + "int": _int,
    _TAG + "float": lambda text: float(re.sub(r"\.(?=[iInN])", "", text)),
    _TAG + "str": str,
}


class _Library(YAML):
    """Reads every text as 1.2: ``%YAML 1.1`` changes nothing, and ``%YAML 1.3`` is no failed assertion."""

    @property
    def version(self) -> None:
        return None

    @version.setter
    def version(self, _: object) -> None:
        pass


class _Builder:
    """Data and places from the nodes of one document; an alias is built again wherever it stands."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._built = 0
        self._anchored: dict[str, Node] = {}

    def build(self, node: Node, place: Place) -> tuple[Any, Place]:
        self._built += 1
        if id(node) in self._open:
            raise ConfigError("an alias must not stand inside its own anchor", line=place.line)
        if self._built > _MOST_VALUES:
            raise ConfigError(f"the aliases unfold to more than {_MOST_VALUES} values", line=place.line)
        self._check_anchor(node)
        self._open.add(id(node))
        try:
            return self._build(node, place)
        finally:
            self._open.discard(id(node))

    def _build(self, node: Node, place: Place) -> tuple[Any, Place]:
        match node:
            case MappingNode(tag=tag) if tag == _TAG + "map":
                return self._mapping(node, place), place
            case SequenceNode(tag=tag) if tag == _TAG + "seq":
                return self._sequence(node, place), place
            case ScalarNode(tag=tag) if tag in _SCALARS:
                return _scalar(node), place
        tag = _tag(node).replace(_TAG, "!!")
        raise ConfigError(f"the tag {tag!r} is not supported here", line=_line(node))

    def _check_anchor(self, node: Node) -> None:
        if node.anchor is None:
            return
        first = self._anchored.setdefault(node.anchor, node)
        if first is not node:
            raise ConfigError(
                f"anchor {node.anchor!r} stands twice, first in line {_line(first)}", line=_line(node)
            )

    def _sequence(self, node: SequenceNode, place: Place) -> list[Any]:
        items = []
        for index, child in enumerate(node.value):
            item, place.inside[index] = self.build(child, _place(child))
            items.append(item)
        return items

    def _mapping(self, node: MappingNode, place: Place) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        own_places: dict[object, Place] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                self._merge(value_node, merged, place)
                continue
            self._check_anchor(key_node)
            key = _key(key_node)
            if key in own:
                first = own_places[key].line
                raise ConfigError(f"key {key!r} stands twice, first in line {first}", line=_line(key_node))
            own[key], own_places[key] = self.build(value_node, _place(key_node))
        place.inside.update(own_places)
        return {**merged, **own}

    def _merge(self, node: Node, into: dict[str, Any], place: Place) -> None:
        """``<<: *anchor`` or a list of them: of two, the earlier one's keys win."""
        for source in node.value if isinstance(node, SequenceNode) else [node]:
            data, source_place = self.build(source, _place(source))
            if not isinstance(data, dict):
                raise ConfigError("'<<' takes a mapping or a list of mappings", line=_line(node))
            for key in data.keys() - into.keys():
                into[key], place.inside[key] = data[key], source_place.inside[key]


def _key(node: Node) -> str:
    if isinstance(node, ScalarNode) and node.tag == _TAG + "str":
        return str(node.value)
    found = f"{node.value or 'nothing'}; quote it" if isinstance(node, ScalarNode) else "a list or mapping"
    raise ConfigError(f"expected a key that is a string, found {found}", line=_line(node))


def _scalar(node: ScalarNode) -> object:
    try:
        return _SCALARS[_tag(node)](node.value)
    except ValueError:
        kind = _tag(node).removeprefix(_TAG)
        raise ConfigError(
            f"expected a value of type {kind}, found {node.value[:80]!r}", line=_line(node)
        ) from None


def _tag(node: Node) -> str:
    return str(node.ctag)


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _place(node: Node) -> Place:
    return Place(_line(node), int(node.start_mark.column) + 1)


def _syntax_error(exc: MarkedYAMLError) -> ConfigError:
    mark = exc.problem_mark or exc.context_mark
    parts = [part for part in (exc.context, exc.problem) if part]
    hint = "; indent with spaces" if "'\\t'" in (exc.problem or "") else ""
    message = f"not valid YAML: {', '.join(parts)}{hint}"
    if mark is None:
        return ConfigError(message)
    return ConfigError(message, line=mark.line + 1, column=mark.column + 1)
