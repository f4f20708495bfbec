"""How values become columns: the same on every database, and back without loss."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from windtunnel.errors import ResultsInvalid

__all__ = ["dump", "from_us", "load", "pack", "to_us", "unpack"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_EXACT = 2**53
_NON_FINITE = "$float"


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

    Both are set for the numbers that not every database can keep as a double: nan, the infinities and integers
    beyond 2**53. Their text is the literal.

    :raises ResultsInvalid: if it is neither a number nor text.
    """
    if type(value) is float and value - value == 0.0:  # finite
        return value, None
    if isinstance(value, str):
        return None, value
    if isinstance(value, int):
        return (float(value), None) if -_EXACT <= value <= _EXACT else (0.0, str(int(value)))
    try:
        number = float(value)  # type: ignore[arg-type]  # numpy's scalars and Decimal come here
    except (TypeError, ValueError):
        raise ResultsInvalid(f"telemetry must be numbers or text, found {value!r}") from None
    return (number, None) if math.isfinite(number) else (0.0, repr(number))


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
        return json.dumps(values, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    except (TypeError, ValueError):
        return json.dumps(
            _plain(values, "metrics"), allow_nan=False, separators=(",", ":"), ensure_ascii=False
        )


def load(text: str | None) -> dict[str, Any]:
    """The inverse of ``dump``; an empty mapping for None."""
    if text is None:
        return {}
    found: dict[str, Any] = json.loads(text, object_hook=_revive if _NON_FINITE in text else None)
    return found


def _plain(value: Any, where: str) -> Any:
    """``value`` in terms of JSON; numbers that JSON lacks are marked."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{where}[{k!r}]") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ResultsInvalid(
            f"{where} must be a number or text, found {type(value).__name__} {value!r}"
        ) from None
    if not math.isfinite(number):
        return {_NON_FINITE: repr(number)}
    whole = int(number)
    return whole if not isinstance(value, float) and whole == number else number


def _revive(mapping: dict[str, Any]) -> Any:
    return float(mapping[_NON_FINITE]) if mapping.keys() == {_NON_FINITE} else mapping
