"""Limits that a load test has to keep, such as ``p99<50ms``. Pure functions."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from windtunnel.errors import ConfigError
from windtunnel.loadgen.recorder import ErrorKind, Window
from windtunnel.options import shown

__all__ = ["Threshold", "quantile_of"]

_COMPARED: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_FORM = re.compile(
    r"\s*(?P<metric>\w+(?:\.\d+)?)\s*(?P<sign><=|>=|<|>)\s*(?P<limit>\d+(?:\.\d+)?)\s*(?P<unit>\w+|%)?\s*",
    re.ASCII,
)
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_KINDS = frozenset(map(str, ErrorKind))


class Threshold(NamedTuple):
    """One limit.

    :ivar metric: ``p50`` to ``p99.99`` (also ``p999``), ``max`` or ``mean``, of latency in ms; ``errors`` or
        a kind of error, as a share in % if ``is_share``; ``rate`` completed a second.
    """

    text: str
    metric: str
    sign: str
    limit: float
    is_share: bool = False

    @classmethod
    def parse(cls, text: str) -> Threshold:
        """A limit from its text.

        :raises ConfigError: if it is none.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise ConfigError(
                f"expected a threshold such as p99<50ms, errors<1% or rate>1000, found {shown(text)}"
            )
        metric, unit, limit = match["metric"], match["unit"], float(match["limit"])
        is_latency = metric in ("max", "mean") or quantile_of(metric) is not None
        if is_latency and unit in _MILLISECONDS:
            return cls(text, metric, match["sign"], limit * _MILLISECONDS[unit])
        if is_latency and unit is None:
            bare = text.strip()
            raise ConfigError(f"{shown(text)} has no unit of time; write '{bare}ms' or '{bare}s'")
        if metric in ("errors", *_KINDS) and unit in ("%", None):
            return cls(text, metric, match["sign"], limit, unit == "%")
        if metric == "rate" and unit in ("s", None):
            return cls(text, metric, match["sign"], limit)
        raise ConfigError(
            f"expected p50, p99, p999, max or mean in ms or s, errors or one of {', '.join(sorted(_KINDS))} "
            f"with or without %, or rate, found {shown(text)}"
        )

    @property
    def counts_errors(self) -> bool:
        """Whether it says how many requests may fail."""
        return self.metric == "errors" or self.metric in _KINDS

    def value(self, window: Window, *, unsent: int = 0) -> float:
        """The metric of a stretch of time.

        :param unsent: requests that should have been sent in it; they count as errors.
        """
        if self.metric == "rate":
            return window.completed / window.elapsed_s if window.elapsed_s else 0.0
        if self.metric == "mean":
            return window.latency.mean / 1e6
        share = 1.0 if self.metric == "max" else quantile_of(self.metric)
        if share is not None:
            return window.latency.quantile(share) / 1e6
        is_total = self.metric == "errors"
        count = window.errors.total() + unsent if is_total else window.errors[self.metric]
        return count / max(window.begun + unsent, 1) * 100 if self.is_share else count

    def is_kept(self, window: Window, *, unsent: int = 0) -> bool:
        """Whether the limit is kept; a latency that nobody measured keeps none."""
        needs_latency = self.metric in ("max", "mean") or quantile_of(self.metric) is not None
        if needs_latency and not window.latency.count:
            return False
        return _COMPARED[self.sign](self.value(window, unsent=unsent), self.limit)

    def is_missed_anyway(self, window: Window) -> bool:
        """Whether an upper limit of a latency is missed however late the generator was.

        No percentile is longer by more than the longest lateness.
        """
        is_latency = self.metric in ("max", "mean") or quantile_of(self.metric) is not None
        if not is_latency or not window.latency.count or self.sign not in ("<", "<="):
            return False
        return self.value(window) - window.lateness.quantile(1) / 1e6 > self.limit

    def as_data(self, window: Window, *, unsent: int = 0) -> dict[str, Any]:
        """For ``--json``."""
        value = self.value(window, unsent=unsent)
        return {"threshold": self.text, "value": round(value, 6), "kept": self.is_kept(window, unsent=unsent)}


def quantile_of(metric: str) -> float | None:
    """0.999 from ``p999`` or ``p99.9``; None if it is no percentile."""
    if not re.fullmatch(r"p\d{1,2}(\.\d+)?|p99\d+", metric):
        return None
    digits = metric[1:].replace(".", "")
    return float(f"0.{digits}" if len(metric) > 2 else f"0.0{digits}")
