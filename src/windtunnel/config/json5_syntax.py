"""JSON5, which includes JSON and JSON with comments."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import json5

from windtunnel.config.places import Place
from windtunnel.errors import ConfigError

__all__ = ["parse"]


def parse(text: str) -> tuple[Any, Callable[[], Place]]:
    """The data of a JSON5 text and a function that gives its places.

    :raises ConfigError: with its line, if the text is not valid, or a key stands twice in an object.
    """
    try:
        data = json5.loads(text, strict=False)
    except RecursionError:
        raise ConfigError("not valid JSON5: nested too deeply") from None
    except ValueError as exc:
        raise _syntax_error(str(exc), text) from None
    tokens = _tokens(text)
    place = _place(*next(tokens), tokens)
    return _whole(data), lambda: place


_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n\r\u2028\u2029]*|/\*.*?\*/)
    |(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
    |(?P<mark>[{}\[\],:])
    |(?P<word>[^\s{}\[\],:"'/]+)""",
    re.DOTALL | re.VERBOSE,
)


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """The tokens of a valid text, each with its line."""
    line = 1
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "skip":
            yield match[0], line
        line += match[0].count("\n")


def _place(token: str, line: int, tokens: Iterator[tuple[str, int]]) -> Place:
    """The places in the value that begins with ``token``."""
    place = Place(line)
    if token == "{":
        _object_places(tokens, place)
    elif token == "[":
        _array_places(tokens, place)
    elif token[0] in "\"'":
        _text(token, line)
    return place


def _object_places(tokens: Iterator[tuple[str, int]], place: Place) -> None:
    for token, line in tokens:
        if token == "}":
            return
        if token == ",":
            continue
        key = _text(token if token[0] in "\"'" else f'"{token}"', line)
        if key in place.inside:
            raise ConfigError(f"key {key!r} stands twice, first in line {place.inside[key].line}", line=line)
        next(tokens)  # the colon
        place.inside[key] = Place(line, _place(*next(tokens), tokens).inside)


def _array_places(tokens: Iterator[tuple[str, int]], place: Place) -> None:
    for token, line in tokens:
        if token == "]":
            return
        if token != ",":
            place.inside[len(place.inside)] = _place(token, line, tokens)


def _text(token: str, line: int) -> str:
    """The text that a quoted token stands for."""
    try:
        return str(_whole(json5.loads(token, strict=False)))
    except UnicodeDecodeError:
        raise ConfigError("not valid JSON5: a string holds half a surrogate pair", line=line) from None


def _whole(data: Any) -> Any:
    """``data`` with ``\\ud83d\\ude00`` as one character; the library leaves it as two halves."""
    if isinstance(data, dict):
        return {_whole(key): _whole(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_whole(value) for value in data]
    if isinstance(data, str) and not data.isascii():
        return data.encode("utf-16", "surrogatepass").decode("utf-16")
    return data


def _syntax_error(complaint: str, text: str) -> ConfigError:
    """The parser's complaint in our words: where, and what stood there."""
    place = re.match(r"<string>:(\d+) (.*)", complaint, re.DOTALL)
    line, reason = (int(place[1]), place[2]) if place else (text.count("\n") + 1, complaint)
    reason = re.sub(r" at column \d+$", "", reason)
    return ConfigError(f"not valid JSON5: {reason[:1].lower()}{reason[1:]}", line=line)
