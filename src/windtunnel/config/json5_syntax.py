"""JSON5, which includes JSON and JSON with comments."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import json5

from windtunnel.config.places import Place
from windtunnel.errors import ConfigError

__all__ = ["parse"]


def parse(text: str) -> tuple[Any, Callable[[], Place]]:
    """The data of a JSON5 text and a function that gives its places.

    :raises ConfigError: with its line, if the text is not valid, or a key stands twice in an object.
    """
    try:
        data = _data(text)
    except RecursionError:
        raise ConfigError("not valid JSON5: nested too deeply") from None
    except ValueError as exc:
        raise _syntax_error(str(exc), text) from None
    symbols = _symbols(text)
    place = _place(next(symbols), symbols)
    return _whole(data), lambda: place


_COMMENT = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n\r\u2028\u2029]*|/\*.*?\*/', re.DOTALL)
_LAST_COMMA = re.compile(r'("(?:\\.|[^"\\])*"|[{\[]\s*,)|,(?=\s*[}\]])', re.DOTALL)


def _data(text: str) -> Any:
    # Most files are JSON but for comments and last commas. The parser of that is a hundred times faster, and
    # what it takes means the same.
    plain = _LAST_COMMA.sub(r"\1", _COMMENT.sub(lambda match: match[1] or " ", text))
    try:
        return json.loads(plain, strict=False)
    except ValueError:
        return json5.loads(text, strict=False)


_SYMBOL = re.compile(
    r"""(?P<skip>\s+|//[^\n\r\u2028\u2029]*|/\*.*?\*/)
    |(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
    |(?P<mark>[{}\[\],:])
    |(?P<word>[^\s{}\[\],:"'/]+)""",
    re.DOTALL | re.VERBOSE,
)


class _Symbol(NamedTuple):
    text: str
    line: int
    column: int


def _symbols(text: str) -> Iterator[_Symbol]:
    """The symbols of a valid text."""
    line, line_start = 1, 0
    for match in _SYMBOL.finditer(text):
        if match.lastgroup != "skip":
            yield _Symbol(match[0], line, match.start() - line_start + 1)
        if newlines := match[0].count("\n"):
            line += newlines
            line_start = match.start() + match[0].rindex("\n") + 1


def _place(symbol: _Symbol, symbols: Iterator[_Symbol]) -> Place:
    """The places in the value that begins with ``symbol``."""
    place = Place(symbol.line, symbol.column)
    if symbol.text == "{":
        _object_places(symbols, place)
    elif symbol.text == "[":
        _array_places(symbols, place)
    elif symbol.text[0] in "\"'":
        _text(symbol.text, symbol.line)
    return place


def _object_places(symbols: Iterator[_Symbol], place: Place) -> None:
    for symbol in symbols:
        if symbol.text == "}":
            return
        if symbol.text == ",":
            continue
        key = _text(symbol.text if symbol.text[0] in "\"'" else f'"{symbol.text}"', symbol.line)
        if key in place.inside:
            first = place.inside[key].line
            raise ConfigError(f"key {key!r} stands twice, first in line {first}", line=symbol.line)
        next(symbols)  # the colon
        place.inside[key] = Place(symbol.line, symbol.column, _place(next(symbols), symbols).inside)


def _array_places(symbols: Iterator[_Symbol], place: Place) -> None:
    for symbol in symbols:
        if symbol.text == "]":
            return
        if symbol.text != ",":
            place.inside[len(place.inside)] = _place(symbol, symbols)


def _text(symbol: str, line: int) -> str:
    """The text that a quoted symbol stands for."""
    if "\\" not in symbol:
        return symbol[1:-1]
    try:
        return str(_whole(json5.loads(symbol, strict=False)))
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
    place = re.match(r"<string>:(\d+) (.*?)(?: at column (\d+))?$", complaint, re.DOTALL)
    line, reason = (int(place[1]), place[2]) if place else (text.count("\n") + 1, complaint)
    column = int(place[3]) if place and place[3] else None
    return ConfigError(f"not valid JSON5: {reason[:1].lower()}{reason[1:]}", line=line, column=column)
