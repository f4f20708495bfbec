"""Types for values that were stored as text, and tunables for names of which only values are known."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from windtunnel.errors import TunableError
from windtunnel.tunables import TunableGroups
from windtunnel.tunables.tunable import Tunable

__all__ = ["Inferred", "infer", "measured", "typed"]

GROUP = "imported"
"""The group of tunables whose own groups nobody wrote down."""

_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_UNLIKE_ANY = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def typed(text: str) -> int | float | str:
    """The number that Python would write exactly so, else the text itself.

    ``1.10`` may be a version and ``007`` a code: they stay text, as do ``nan`` and ``inf``.
    """
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if math.isfinite(number) and str(number) == text:
            return number
    return text


def measured(text: str) -> int | float | str:
    """The value of a metric: any decimal number, nan or an infinity, else the text itself."""
    if text in _UNLIKE_ANY:
        return _UNLIKE_ANY[text]
    if not _DECIMAL.fullmatch(text):
        return text
    return int(text) if text.lstrip("-").isdecimal() else float(text)


class Inferred(NamedTuple):
    """Tunables that allow all values seen.

    :ivar names: as it was stored → as it may be called here.
    """

    tunables: TunableGroups
    names: Mapping[str, str]


def infer(seen: Mapping[str, Collection[str]], defaults: Mapping[str, str]) -> Inferred:
    """Tunables in one group: int or float if all values are, within their range, else categorical.

    :param seen: name → all values, at least one each.
    :param defaults: name → value, where it is known; else the first value seen.
    """
    names: dict[str, str] = {}
    params: dict[str, Any] = {}
    for stored, texts in seen.items():
        name = _usable(stored, params)
        names[stored] = name
        params[name] = _definition(name, texts, defaults.get(stored, next(iter(texts))))
    return Inferred(TunableGroups({GROUP: {"params": params}} if params else {}), names)


def _definition(name: str, texts: Collection[str], default: str) -> dict[str, Any]:
    numbers = [value for value in map(typed, texts) if not isinstance(value, str)]
    if len(numbers) == len(texts):
        kind = "int" if all(isinstance(value, int) for value in numbers) else "float"
        low, high = min(numbers), max(numbers)
        if low == high:  # a range must rise
            high = max(low + 1, math.nextafter(low, math.inf)) if kind == "float" else low + 1
        definition = {"type": kind, "range": [low, high], "default": typed(default)}
        try:
            return Tunable.parse(name, definition).definition()
        except TunableError:  # beyond 64 bits
            pass
    return {"type": "categorical", "values": list(texts), "default": default}


def _usable(stored: str, taken: Collection[str]) -> str:
    """A name that a tunable may have, as close as possible to the one it had."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", stored)
    if not re.match(r"[A-Za-z_]", name):
        name = f"_{name}"
    number, chosen = 2, name
    while chosen in taken:
        chosen, number = f"{name}_{number}", number + 1
    return chosen
