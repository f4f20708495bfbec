"""How values become columns: the same on every database, and back without loss."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, SupportsFloat, SupportsIndex

from windtunnel.errors import ResultsInvalid
from windtunnel.texts import check_text, shown_value

__all__ = ["check_text", "dump", "finite", "from_us", "load", "load_all", "pack", "to_us", "unpack"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_EXACT = 2**53
_NON_FINITE = "$float"
_NO_NUMBER = (TypeError, ValueError, OverflowError, RecursionError)
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode


def to_us(moment: datetime) -> int:
    """Microseconds since the epoch.

    :raises ValueError: if ``moment`` has no zone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"expected a time with a zone, found {moment!r}; add tzinfo=UTC")
    return (moment - _EPOCH) // _MICROSECOND


def from_us(value: int) -> datetime:
    """The aware UTC time ``value`` microseconds after the epoch."""
    return _EPOCH + timedelta(microseconds=value)


def pack(value: object) -> tuple[float | None, str | None]:
    """A telemetry value as (number, text), one of which is None.

    Both are set for the numbers that not every database can keep as a double: nan, the infinities and
    integers beyond 2**53. Their text is the literal.

    :raises ResultsInvalid: if it is neither a number nor text.
    """
    if type(value) is float and value - value == 0.0:  # finite
        return value, None
    if isinstance(value, str):
        return None, check_text(value, "telemetry")
    try:
        if isinstance(value, int | SupportsIndex):  # whole numbers, numpy's too
            whole = operator.index(value)
            return (float(whole), None) if -_EXACT <= whole <= _EXACT else (0.0, str(whole))
        number = _as_float(value)
    except _NO_NUMBER:
        raise ResultsInvalid(f"telemetry must be numbers or text, found {shown_value(value)}") from None
    return (number, None) if math.isfinite(number) else (0.0, repr(number))


def finite(value: object) -> float | None:
    """``value`` as a double, for comparisons inside the database; None if it is no finite number."""
    if isinstance(value, str) or not isinstance(value, float | int | SupportsFloat):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def unpack(number: float | None, text: str | None) -> float | int | str:
    """The inverse of ``pack``; whole numbers come back as floats."""
    if text is None:
        return number if number is not None else math.nan
    if number is None:
        return text
    return int(text) if text.lstrip("-").isdecimal() else float(text)


def dump(values: Mapping[str, Any]) -> str:
    """Metrics, parameters or a configuration as JSON text, compact and in the given order.

    :raises ResultsInvalid: if a value is not a number, text, None, or a list or mapping of these.
    """
    try:
        text = _encode(values)
        if _NON_FINITE in text:
            text = _encode(_plain(values, "metrics"))
    except _NO_NUMBER:
        try:
            text = _encode(_plain(values, "metrics"))
        except (ValueError, RecursionError) as exc:
            raise ResultsInvalid(f"metrics cannot be stored: {exc}") from None
    return check_text(text, "metrics")


def load(text: str | None) -> dict[str, Any]:
    """The inverse of ``dump``; an empty mapping for None."""
    if text is None:
        return {}
    found: dict[str, Any] = json.loads(text, object_hook=_revive if _NON_FINITE in text else None)
    return found


def load_all(texts: Sequence[str | None]) -> list[dict[str, Any] | None]:
    """The inverse of ``dump`` for many texts in one go, which takes a third of the time; None stays None."""
    whole = f"[{','.join('null' if text is None else text for text in texts)}]"
    found: list[dict[str, Any] | None] = json.loads(
        whole, object_hook=_revive if _NON_FINITE in whole else None
    )
    return found


def _plain(value: Any, where: str) -> Any:
    """``value`` in terms of JSON; numbers that JSON lacks are marked."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Mapping):
        escape = "$" if len(value) == 1 and _is_mark(next(iter(value))) else ""
        return {f"{escape}{k}": _plain(v, f"{where}[{k!r}]") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    try:
        if isinstance(value, SupportsIndex):
            return operator.index(value)
        number = _as_float(value)
    except _NO_NUMBER:
        raise ResultsInvalid(f"{where} must be a number or text, found {shown_value(value)}") from None
    return number if math.isfinite(number) else {_NON_FINITE: repr(number)}


def _revive(mapping: dict[str, Any]) -> Any:
    if len(mapping) != 1:
        return mapping
    ((key, value),) = mapping.items()
    if key == _NON_FINITE:
        return float(value)
    return {key[1:]: value} if _is_mark(key) else mapping


def _is_mark(key: object) -> bool:
    """Whether ``key`` is the mark of a number, or one that was escaped so as not to be taken for it."""
    return isinstance(key, str) and key.startswith("$") and key.lstrip("$") == "float"


def _as_float(value: object) -> float:
    if not isinstance(value, SupportsFloat):
        raise TypeError
    return float(value)
