"""YAML with the meaning of version 1.2: ``on``, ``yes`` and dates are strings, ``1e3`` is a number."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml
from yaml.error import MarkedYAMLError
from yaml.reader import ReaderError

from windtunnel.config.places import Place
from windtunnel.errors import ConfigError

__all__ = ["parse"]

_TAG = "tag:yaml.org,2002:"
_MOST_VALUES = 100_000


def parse(text: str) -> tuple[Any, Callable[[], Place]]:
    """The data of a YAML text and a function that gives its places.

    :raises ConfigError: with its line, if the text is not valid, or a key stands twice in a mapping.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
    except MarkedYAMLError as exc:
        raise _syntax_error(exc) from None
    finally:
        loader.dispose()
    if node is None:
        return None, lambda: Place(1)
    data, place = _Builder().build(node, _line(node))
    return data, lambda: place


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - the library's own way; it holds those of 1.1 otherwise

    def __init__(self, text: str) -> None:
        try:
            super().__init__(text)
        except ReaderError as exc:
            line = text.count("\n", 0, exc.position) + 1
            raise ConfigError(
                f"not valid YAML: character {chr(exc.character)!r} is not allowed", line=line
            ) from None


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern})$"), _first)


def _int(text: str) -> int:
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


_SCALARS: dict[str, Callable[[str], object]] = {
    _TAG + "null": lambda _: None,
    _TAG + "bool": lambda text: text.lower() == "true",
    _TAG + "int": _int,
    _TAG + "float": lambda text: float(re.sub(r"\.(?=[iInN])", "", text)),
    _TAG + "str": str,
}


class _Builder:
    """Data and places from the nodes of one document; an alias is built again wherever it stands."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._built = 0

    def build(self, node: yaml.Node, line: int) -> tuple[Any, Place]:
        self._built += 1
        if id(node) in self._open:
            raise ConfigError("an alias must not stand inside its own anchor", line=line)
        if self._built > _MOST_VALUES:
            raise ConfigError(f"the aliases unfold to more than {_MOST_VALUES} values", line=line)
        self._open.add(id(node))
        try:
            return self._build(node, Place(line))
        finally:
            self._open.discard(id(node))

    def _build(self, node: yaml.Node, place: Place) -> tuple[Any, Place]:
        match node:
            case yaml.MappingNode(tag=tag) if tag == _TAG + "map":
                return self._mapping(node, place), place
            case yaml.SequenceNode(tag=tag) if tag == _TAG + "seq":
                return self._sequence(node, place), place
            case yaml.ScalarNode(tag=tag) if tag in _SCALARS:
                return _scalar(node), place
        raise ConfigError(f"the tag {node.tag.replace(_TAG, '!!')!r} is not supported here", line=_line(node))

    def _sequence(self, node: yaml.SequenceNode, place: Place) -> list[Any]:
        items = []
        for index, child in enumerate(node.value):
            item, place.inside[index] = self.build(child, _line(child))
            items.append(item)
        return items

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        own_places: dict[object, Place] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                self._merge(value_node, merged, place)
                continue
            key = _key(key_node)
            if key in own:
                first = own_places[key].line
                raise ConfigError(f"key {key!r} stands twice, first in line {first}", line=_line(key_node))
            own[key], own_places[key] = self.build(value_node, _line(key_node))
        place.inside.update(own_places)
        return {**merged, **own}

    def _merge(self, node: yaml.Node, into: dict[str, Any], place: Place) -> None:
        """``<<: *anchor`` or a list of them: of two, the earlier one's keys win."""
        for source in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            data, source_place = self.build(source, _line(source))
            if not isinstance(data, dict):
                raise ConfigError("'<<' takes a mapping or a list of mappings", line=_line(node))
            for key in data.keys() - into.keys():
                into[key], place.inside[key] = data[key], source_place.inside[key]


def _key(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode) and node.tag == _TAG + "str":
        return str(node.value)
    found = f"{node.value}; quote it" if isinstance(node, yaml.ScalarNode) else "a list or mapping"
    raise ConfigError(f"expected a key that is a string, found {found}", line=_line(node))


def _scalar(node: yaml.ScalarNode) -> object:
    try:
        return _SCALARS[node.tag](node.value)
    except ValueError:
        kind = node.tag.removeprefix(_TAG)
        raise ConfigError(
            f"expected a value of type {kind}, found {node.value[:80]!r}", line=_line(node)
        ) from None


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _syntax_error(exc: MarkedYAMLError) -> ConfigError:
    mark = exc.problem_mark or exc.context_mark
    parts = [part for part in (exc.context, exc.problem) if part]
    hint = "; indent with spaces" if "'\\t'" in (exc.problem or "") else ""
    return ConfigError(
        f"not valid YAML: {', '.join(parts)}{hint}", line=mark.line + 1 if mark is not None else None
    )
