"""Values of a configuration tree that remember the file and the line they were written in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from windtunnel.config import json5_syntax
from windtunnel.config.places import Place
from windtunnel.errors import ConfigError
from windtunnel.options import shown

__all__ = ["Node", "made", "parse"]


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it was written.

    :ivar value: a scalar, a list of nodes, or a dict of them.
    :ivar place: with the file, or the flag, as its ``source``; knows nothing of what is inside.
    """

    value: Any
    place: Place

    @property
    def entries(self) -> dict[str, Node]:
        """Those of a mapping.

        :raises ConfigError: if it is something else.
        """
        if not isinstance(self.value, dict):
            raise self.error(f"expected an object, found {shown(plain(self))}")
        return self.value

    @property
    def items(self) -> list[Node]:
        """Those of a list; a single text is a list of one.

        :raises ConfigError: if it is something else.
        """
        if isinstance(self.value, str):
            return [self]
        if not isinstance(self.value, list):
            raise self.error(f"expected a list, found {shown(plain(self))}")
        return self.value

    @property
    def text(self) -> str:
        """:raises ConfigError: if it is no text."""
        if not isinstance(self.value, str):
            raise self.error(f"expected a string, found {shown(plain(self))}")
        return self.value

    def get(self, key: str) -> Node | None:
        """An entry of a mapping; None if there is none, or if it is null."""
        found = self.entries.get(key)
        return None if found is None or found.value is None else found

    def with_value(self, value: Any) -> Node:
        """Another value that stands for what was written here."""
        return Node(value, self.place)

    def error(self, message: str) -> ConfigError:
        """An error about this value."""
        place = self.place
        line = place.line if place.line > 0 else None
        return ConfigError(message, source=place.source, line=line, column=place.column)

    def places(self) -> Place:
        """Where it and everything inside it was written."""
        place, inside = self.place, self.value
        children = inside if isinstance(inside, dict) else dict(enumerate(inside)) if _is_list(inside) else {}
        return Place(
            line=place.line,
            column=place.column,
            source=place.source,
            inside={key: child.places() for key, child in children.items()},
        )

    def plain(self) -> Any:
        """The value without its places."""
        return plain(self)


def plain(node: Node) -> Any:
    """The value of a node without places."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    return [plain(child) for child in node.value] if _is_list(node.value) else node.value


def made(value: Any, place: Place) -> Node:
    """A value of ours that stands for what was written at ``place``; nodes inside it keep their own."""
    if isinstance(value, Node):
        return value
    if isinstance(value, Mapping):
        return Node({key: made(inner, place) for key, inner in value.items()}, place)
    return Node([made(inner, place) for inner in value] if _is_list(value) else value, place)


def parse(text: str, source: str) -> Node:
    """A JSON5 text.

    :param source: the file it was read from, or the flag it was given with.
    :raises ConfigError: with file and line, if it is not valid.
    """
    try:
        data, places = json5_syntax.parse(text)
        return _rooted(data, places(), source)
    except ConfigError as exc:
        exc.source = source
        raise


def _rooted(data: Any, place: Place, source: str) -> Node:
    here = Place(line=place.line, column=place.column, source=source)
    if isinstance(data, dict):
        return Node(_inside(data.items(), place, source), here)
    if isinstance(data, list):
        return Node(list(_inside(enumerate(data), place, source).values()), here)
    return Node(data, here)


def _inside(entries: Iterable[tuple[Any, Any]], place: Place, source: str) -> dict[Any, Node]:
    return {key: _rooted(value, place.inside.get(key, place), source) for key, value in entries}


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)
