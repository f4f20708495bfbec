"""TOML. Its parser keeps no positions: lines are found by parsing the text again, statement by statement."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from windtunnel.config.places import Place
from windtunnel.errors import ConfigError

__all__ = ["parse"]

Path = tuple[str | int, ...]


def parse(text: str) -> tuple[dict[str, Any], Callable[[], Place]]:
    """The data of a TOML text and a function that finds its places.

    :raises ConfigError: with its line, if the text is not valid, or a key stands twice in a table.
    """
    text = text.replace("\r\n", "\n")
    try:
        return tomllib.loads(text), partial(_places, text)
    except tomllib.TOMLDecodeError as exc:
        raise _syntax_error(exc, text) from None


def _places(text: str) -> Place:
    root = Place(1)
    table: Path = ()
    tables_in: dict[Path, int] = {}
    for line, statement in _statements(text.split("\n")):
        if statement[0].lstrip().startswith("["):
            table = _table(tomllib.loads(statement[0]), tables_in)
            _put(root, table, line, _column(statement[0], table))
        else:
            for path, offset in _paths_by_line(statement).items():
                _put(root, table + path, line + offset, _column(statement[offset], path))
    return root


def _column(line: str, path: Path) -> int:
    """Where the last key of ``path`` begins in its line; for an item of a list, where the line does."""
    begin = len(line) - len(line.lstrip()) + 1
    names = [step for step in path if isinstance(step, str)]
    if not names or path[-1] is not names[-1]:
        return begin
    found = re.search(rf"(?<![\w-])[\"']?{re.escape(names[-1])}[\"']?(?=\s*[=.\]])", line)
    return begin if found is None else found.start() + 1


def _statements(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Each table header and each assignment, with the number of its first line."""
    start = 0
    for end in range(1, len(lines) + 1):
        statement = lines[start:end]
        if _parsed("\n".join(statement)) is None:
            continue
        if statement[0].strip():
            yield start + 1, statement
        start = end


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _table(header: dict[str, Any], tables_in: dict[Path, int]) -> Path:
    """The path a header such as ``[a.b]`` or ``[[a.b]]`` leads to; for an array of tables, to its newest."""
    path: Path = ()
    inner: Any = header
    while inner:
        (key,) = inner
        path, inner = (*path, key), inner[key]
        if isinstance(inner, list):
            tables_in[path] = tables_in.get(path, 0) + 1
            inner = inner[0]
        if path in tables_in:
            path = (*path, tables_in[path] - 1)
    return path


_CLOSINGS = ("", "\n]", "\n]]", "\n]}", "\n]}]", "\n]}}", "\n]}}]")


def _paths_by_line(statement: list[str]) -> dict[Path, int]:
    """The paths an assignment defines, each with the line of the statement (from 0) that completes it."""
    found: dict[Path, int] = {}
    for offset in range(len(statement)):
        beginning = "\n".join(statement[: offset + 1])
        data = next((data for end in _CLOSINGS if (data := _parsed(beginning + end)) is not None), {})
        for path in _paths(data):
            found.setdefault(path, offset)
    # The key itself stands in the first line, though the text or list after it may end much later.
    key_path: Path = ()
    inner: Any = _parsed("\n".join(statement))
    while isinstance(inner, dict) and len(inner) == 1:
        ((key, inner),) = inner.items()
        key_path = (*key_path, key)
        found[key_path] = 0
    return found


def _paths(value: object, path: Path = ()) -> Iterator[Path]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield (*path, key)
        yield from _paths(inner, (*path, key))


def _put(root: Place, path: Path, line: int, column: int) -> None:
    here = root
    for step in path:
        here = here.inside.setdefault(step, Place(line, column))


def _syntax_error(exc: tomllib.TOMLDecodeError, text: str) -> ConfigError:
    message = str(exc)
    position = re.search(r" \(at line (\d+), column (\d+)\)$", message)
    line = int(position[1]) if position else len(text.rstrip().split("\n"))
    column = int(position[2]) if position else None
    message = re.sub(r" \(at [^()]*\)$", "", message)
    ending = "" if position else " at the end of the file"
    return ConfigError(f"not valid TOML: {message[0].lower()}{message[1:]}{ending}", line=line, column=column)
