"""Log records that say which trial they belong to, and log lines for programs.

The scheduler names the trial around all that it does for it, so that what environments and services log in
between carries the trial's fields too, also from worker threads. Nothing here changes how an application
logs: it adds ``TrialFields`` or ``JsonFormatter`` to handlers of its own::

    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.getLogger("windtunnel").addHandler(handler)
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import NamedTuple

__all__ = ["JsonFormatter", "TrialFields", "trial_fields"]


class _Fields(NamedTuple):
    experiment_id: str | None = None
    trial_id: int | None = None
    attempt: int | None = None
    host: str | None = None


_NO_TRIAL = _Fields()
_current: ContextVar[_Fields] = ContextVar("windtunnel_trial", default=_NO_TRIAL)

_BY_LOGGING = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime"})
"""What every record has; anything else came with ``extra``."""

_DEEPEST = 8


class trial_fields:  # noqa: N801 - a context manager, used as one; a generator would take three times as long
    """Records made in the block belong to this trial; likewise in tasks and threads that it starts."""

    __slots__ = ("_fields", "_token")

    def __init__(self, *, experiment_id: str, trial_id: int, attempt: int, host: str | None = None) -> None:
        self._fields = _Fields(experiment_id, trial_id, attempt, host)

    def __enter__(self) -> None:
        self._token = _current.set(self._fields)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


class TrialFields(logging.Filter):
    """Gives every record ``experiment_id``, ``trial_id``, ``attempt`` and ``host``; None outside a trial.

    What was given with ``extra`` stays. Add it to handlers, not to loggers: those filter only what is logged
    with them directly.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in zip(_Fields._fields, _current.get(), strict=True):
            record.__dict__.setdefault(name, value)
        return True


class JsonFormatter(logging.Formatter):
    """A record as one JSON object on one line, in ASCII.

    Its keys are ``time`` (ISO 8601, UTC), ``level``, ``logger``, ``message``, the trial's fields where there
    is one, what was given with ``extra``, and ``exception`` and ``stack`` as texts. NaN and infinities are
    null; what JSON does not know is written as text. It never raises.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        line |= {name: value for name, value in _current.get()._asdict().items() if value is not None}
        for name, value in vars(record).items():
            if name not in _BY_LOGGING and (value is not None or name not in _Fields._fields):
                line[f"extra_{name}" if name in _RESERVED else name] = _plain(value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            line["exception"] = record.exc_text
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line, allow_nan=False)


_RESERVED = frozenset({"time", "level", "logger", "message", "exception", "stack"})


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - a wrong format string must not cost the line
        return f"{_text(record.msg)} {_text(record.args)}"


def _plain(value: object, depth: int = 0) -> object:
    """``value`` as JSON can hold it."""
    match value:
        case None | bool() | str():
            return value
        case int():
            return int(value)
        case float():
            return float(value) if math.isfinite(value) else None
        case Mapping() if depth < _DEEPEST:
            return {_text(key): _plain(one, depth + 1) for key, one in value.items()}
        case list() | tuple() if depth < _DEEPEST:
            return [_plain(one, depth + 1) for one in value]
        case datetime():
            return value.isoformat()
    return _text(value)


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - whatever a user's class raises
        return f"<{type(value).__name__}>"
