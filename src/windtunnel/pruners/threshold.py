"""Limits that telemetry has to keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from windtunnel.errors import ConfigError
from windtunnel.model import Direction
from windtunnel.options import Count, OptionalDuration, Options, nearest
from windtunnel.pruners.base import Abort, Pruner

__all__ = ["Limit", "Threshold", "ThresholdOptions"]


class Limit(Options):
    """One service level: what a metric must not be, and for how long."""

    metric: str = Field(min_length=1, description="the telemetry watched")
    above: float | None = Field(default=None, strict=True, description="a value above it is a violation")
    below: float | None = Field(default=None, strict=True, description="a value below it is a violation")
    lasting: OptionalDuration = Field(
        default=None,
        alias="for",
        description="how long without a value that keeps the limit; default at once",
    )
    samples: Count | None = Field(
        default=None, description="how many in a row, instead of a duration; default 1"
    )
    warmup: OptionalDuration = Field(
        default=None, description="since the run began, in which nothing counts; default none"
    )
    tell: Literal["none", "partial"] = Field(
        default="none",
        description="what the optimizer learns: that the trial was canceled, or the violating value; "
        "default none",
    )

    @model_validator(mode="after")
    def _check_alternatives(self) -> Limit:
        given = [value for value in (self.above, self.below) if value is not None]
        if len(given) != 1 or math.isnan(given[0]):
            raise ValueError(f"expected a number for one of above and below, found {len(given)} of them")
        if self.lasting is not None and self.samples is not None:
            raise ValueError("expected for or samples, found both; a second rule can have the other")
        return self

    def is_violated(self, value: float) -> bool:
        """NaN keeps every limit."""
        if self.above is not None:
            return value > self.above
        return self.below is not None and value < self.below


class ThresholdOptions(Options):
    """The options of ``threshold``: those of one limit, or several limits as ``rules``."""

    rules: tuple[Limit, ...] = Field(min_length=1, description="limits, each of which may stop a trial")

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        several = handler.resolve_ref_schema(handler(core))
        one = handler.resolve_ref_schema(several["properties"]["rules"]["items"])
        return {"anyOf": [several, one]}

    @model_validator(mode="before")
    @classmethod
    def _from_one(cls, raw: Any) -> Any:
        return {"rules": [raw]} if isinstance(raw, Mapping) and "rules" not in raw else raw


@dataclass(slots=True)
class _Streak:
    """Violations in a row."""

    began_s: float
    samples: int = 0


class Threshold(Pruner):
    """Stops a trial that breaks a limit for as long, or as often in a row, as the limit says.

    Only samples count: silence neither breaks a limit nor keeps it. It keeps one streak for each running
    trial and limit.
    """

    options_class = ThresholdOptions

    def __init__(self, *, objectives: Mapping[str, Direction], rules: Sequence[Limit]) -> None:
        super().__init__(objectives=objectives)
        for index, limit in enumerate(rules):
            if limit.tell == "partial" and limit.metric not in objectives:
                raise ConfigError(
                    f"only an objective can be told to the optimizer, found "
                    f"{limit.metric!r}{nearest(limit.metric, objectives)}",
                    path=("tell",) if len(rules) == 1 else ("rules", index, "tell"),
                )
        self._limits: dict[str, list[tuple[int, Limit]]] = {}
        for index, limit in enumerate(rules):
            self._limits.setdefault(limit.metric, []).append((index, limit))
        self._running: dict[int, dict[int, _Streak]] = {}

    @property
    def metrics(self) -> frozenset[str]:
        return frozenset(self._limits)

    def observe(self, trial_id: int, metric: str, value: float, elapsed_s: float) -> Abort | None:
        verdict = None
        for index, limit in self._limits.get(metric, ()):
            if elapsed_s < _seconds(limit.warmup):
                continue
            if not limit.is_violated(value):
                self._running.get(trial_id, {}).pop(index, None)
                continue
            streak = self._running.setdefault(trial_id, {}).setdefault(index, _Streak(elapsed_s))
            streak.samples += 1
            if verdict is None and _has_lasted(limit, streak, elapsed_s):
                verdict = _verdict(limit, streak, value, elapsed_s)
        return verdict

    def ended(self, trial_id: int, scores: Mapping[str, float] | None) -> None:
        self._running.pop(trial_id, None)


def _seconds(duration: timedelta | None) -> float:
    return 0.0 if duration is None else duration.total_seconds()


def _has_lasted(limit: Limit, streak: _Streak, elapsed_s: float) -> bool:
    if limit.lasting is not None:
        return elapsed_s - streak.began_s >= _seconds(limit.lasting)
    return streak.samples >= (limit.samples or 1)


def _verdict(limit: Limit, streak: _Streak, value: float, elapsed_s: float) -> Abort:
    side = f"above {limit.above:g}" if limit.above is not None else f"below {limit.below:g}"
    lasted = f" for {elapsed_s - streak.began_s:g} s" if limit.lasting is not None else ""
    reason = (
        f"threshold: {limit.metric} is {value:g}, {side}{lasted}, {streak.samples} sample(s) in a row, "
        f"{elapsed_s:g} s into the run"
    )
    told = limit.tell == "partial" and math.isfinite(value)
    return Abort(reason, {limit.metric: float(value)} if told else None)
