"""Texts that every database can keep, and texts that nobody shall see."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path

from windtunnel.errors import ResultsInvalid

__all__ = ["METRIC_NAME", "Secrets", "check_metric_name", "check_text", "many", "shown_value", "unreadable"]

METRIC_NAME = 512
"""Characters in the name of a metric: what every database can index."""


def check_metric_name(name: str) -> str:
    """``name``, which can be that of a metric.

    :raises ResultsInvalid: see ``check_text``.
    """
    return check_text(name, "the name of a metric", longest=METRIC_NAME)


def check_text(value: str, what: str, *, longest: int | None = None) -> str:
    """``value``, which every database can keep.

    :param longest: the most characters it may have.
    :raises ResultsInvalid: if it is no text, too long, or holds half of a surrogate pair or the character 0.
    """
    if not isinstance(value, str):
        raise ResultsInvalid(f"{what} must be text, found {shown_value(value)}")
    if longest is not None and len(value) > longest:
        raise ResultsInvalid(
            f"{what} may have {longest} characters, found {len(value)}: {shown_value(value)}"
        )
    if "\0" in value:  # PostgreSQL keeps no text with it
        raise ResultsInvalid(f"{what} must not hold the character 0, found {shown_value(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ResultsInvalid(f"{what} must be valid Unicode, found {shown_value(value)}") from None
    return value


_SHORTEST = 4


class Secrets:
    """Values that were taken from somewhere by reference, to be found and hidden in texts."""

    def __init__(self) -> None:
        self._references: dict[str, str] = {}

    def add(self, value: str, reference: str) -> None:
        """From now on ``value`` is shown as ``reference``, likewise each of its lines; fewer than 4
        characters are no secret."""
        for part in dict.fromkeys((value.strip(), *map(str.strip, value.splitlines()))):
            if len(part) >= _SHORTEST:
                self._references.setdefault(part, reference)

    def hide(self, text: str) -> str:
        """``text`` with each secret replaced by its reference, also where it was quoted by ``repr``."""
        for value in sorted(self._references, key=len, reverse=True):
            reference = self._references[value]
            for written in dict.fromkeys((value, repr(value)[1:-1], json.dumps(value)[1:-1])):
                text = text.replace(written, reference)
        return text


def shown_value(value: object) -> str:
    """What it is, and as much of it as fits into a message."""
    return f"{type(value).__name__} {reprlib.repr(value)}"


def unreadable(path: Path, error: OSError | UnicodeDecodeError, what: str = "file") -> str:
    """Why a file cannot be used; ``what`` it is."""
    if isinstance(error, FileNotFoundError):
        return f"there is no {what} {str(path)!r}"
    reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
    return f"cannot read the {what} {str(path)!r}: {reason}"


def many(count: int, noun: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
