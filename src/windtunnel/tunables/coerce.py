"""Values as they come from files, shells and other libraries, turned into those a tunable holds."""

from __future__ import annotations

import math
from numbers import Integral, Real

__all__ = ["to_number", "to_text"]


def to_text(value: object) -> str:
    """``value`` as a text; booleans become ``true`` and ``false``."""
    # YAML reads yes, no, on and off as booleans, so both sides of a comparison must spell them alike.
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def to_number(value: object, kind: str) -> int | float:
    """``value`` as a finite number.

    :param kind: ``int`` or ``float``.
    :raises ValueError: with the reason, if it is not a number or would not stay the same.
    """
    if type(value) is int and kind == "int":
        return value
    if type(value) is float and kind == "float" and math.isfinite(value):
        return value + 0.0  # -0.0 becomes 0.0: equal values must have equal digests
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError("is not a number")  # noqa: TRY004 - a text may be at fault as well as a type
    if kind == "int" and isinstance(value, Integral):
        return int(value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("is not a finite number")
    if kind == "float":
        return number + 0.0
    whole = int(number)
    if whole != value:
        raise ValueError("would lose precision as an int")
    return whole


def _parsed(text: str) -> int | float | None:
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return None
