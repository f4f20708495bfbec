"""JSON5, which includes JSON and JSON with comments."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import json5
from json5 import model
from json5.loader import ModelLoader

from windtunnel.config.places import Place
from windtunnel.errors import ConfigError

__all__ = ["parse"]


def parse(text: str) -> tuple[Any, Callable[[], Place]]:
    """The data of a JSON5 text and a function that gives its places.

    :raises ConfigError: with its line, if the text is not valid, or a key stands twice in an object.
    """
    try:
        root: Any = json5.loads(text, loader=ModelLoader()).value
    except json5.JSON5DecodeError as exc:
        raise _syntax_error(exc, text) from None
    data, place = _build(root, root.lineno or 1)
    return data, lambda: place


def _build(node: Any, line: int) -> tuple[Any, Place]:
    place = Place(line)
    match node:
        case model.JSONObject():
            return _object(node, place), place
        case model.JSONArray():
            items = []
            for index, child in enumerate(node.values):
                item, place.inside[index] = _build(child, child.lineno or line)
                items.append(item)
            return items, place
        case model.UnaryOp():
            number: Any = node.value
            value = abs(number.value)  # the library gives -Infinity its sign twice
            return (-value if node.op == "-" else value), place
        case model.String():
            return _text(node), place
    return node.value, place


def _object(node: Any, place: Place) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key_node, value_node in node.key_value_pairs:
        key = key_node.name if isinstance(key_node, model.Identifier) else _text(key_node)
        if key in data:
            first = place.inside[key].line
            raise ConfigError(f"key {key!r} stands twice, first in line {first}", line=key_node.lineno)
        data[key], place.inside[key] = _build(value_node, key_node.lineno)
    return data


def _text(node: Any) -> str:
    """The string's characters; the library leaves ``\\ud83d\\ude00`` as two halves."""
    halves = str(node.characters).encode("utf-16", "surrogatepass")
    try:
        return halves.decode("utf-16")
    except UnicodeDecodeError:
        raise ConfigError("not valid JSON5: a string holds half a surrogate pair", line=node.lineno) from None


_SYMBOLS = {
    "COMMA": "','",
    "COLON": "':'",
    "LBRACE": "'{'",
    "RBRACE": "'}'",
    "LBRACKET": "'['",
    "RBRACKET": "']'",
}


def _syntax_error(exc: json5.JSON5DecodeError, text: str) -> ConfigError:
    """The parser's first complaint in our words: where, what stood there and what could have."""
    complaint = next((line.strip() for line in str(exc).splitlines() if line.startswith("\t")), str(exc))
    expected = re.search(r"[Ww]as expecting (.+?)(?= in or near|$)", complaint)
    token = getattr(exc, "token", None)
    if token is not None:
        index, found = token.index, token.value.strip()[:40]
    elif illegal := re.search(r"at index (\d+)", complaint):
        index, found = int(illegal[1]), text[int(illegal[1])]
    else:
        index, found = len(text.rstrip()), None
    if token is not None and token.type.startswith("UNTERMINATED"):
        message = f"the string {found!r} has no closing quote"
    elif expected:
        wanted = " or ".join(sorted(_SYMBOLS.get(name, name.lower()) for name in expected[1].split(" or ")))
        message = f"expected {wanted}, found " + ("the end of the file" if found is None else repr(found))
    elif reason := _reason(complaint):
        message = reason + (f", found {found!r}" if token is not None else "")
    else:
        message = f"{found!r} is not expected here"
    return ConfigError(f"not valid JSON5: {message}", line=text.count("\n", 0, index) + 1)


def _reason(complaint: str) -> str:
    """The complaint without its preamble and without the parser's own words for the place."""
    reason = re.sub(r"^Syntax Error[:.]?\s*", "", complaint)
    reason = re.sub(r"\s*(\(line .*|in or near token.*|at index \d+|\.? Unexpected EOF.*)$", "", reason)
    return reason[:1].lower() + reason[1:]
