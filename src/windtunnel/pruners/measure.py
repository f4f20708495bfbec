"""What a rule compares: the values of one metric, and the progress at which they came."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationInfo

from windtunnel.errors import ConfigError
from windtunnel.model import Direction
from windtunnel.options import Also, Options, nearest, parse_duration, shown

__all__ = ["Amount", "Measure", "MeasureOptions", "Partial", "objective"]

_ELAPSED, _SAMPLES = "elapsed", "samples"


class MeasureOptions(Options):
    """The options of a rule that compares trials at the same progress."""

    metric: str | None = Field(
        default=None, min_length=1, description="the telemetry compared; default the first objective"
    )
    direction: Direction | None = Field(
        default=None, description="min or max; default that of the objective of this name"
    )
    budget: str = Field(
        default=_ELAPSED,
        min_length=1,
        description="what progress is counted in: elapsed (seconds of the run), samples (of the metric), "
        "or the name of a metric that grows; default elapsed",
    )


def _in_seconds(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str | timedelta):
        return value
    if info.data.get("budget") == _ELAPSED:
        return parse_duration(value).total_seconds()
    raise ValueError(f"expected a number, found {shown(value)}; only elapsed time is counted in durations")


Amount = Annotated[
    float, Field(strict=True, allow_inf_nan=False), BeforeValidator(_in_seconds), Also({"type": "string"})
]
"""Progress: a number in units of the budget; with ``budget: elapsed`` also a duration."""


@dataclass(slots=True)
class Partial:
    """A running trial so far. Values are kept as losses: lower is better.

    :ivar progress: never falls; minus infinity while it is not known.
    """

    progress: float = -math.inf
    count: int = 0
    total: float = 0.0
    last: float = math.nan
    best: float = math.inf

    def take(self, loss: float) -> None:
        """Count one more value."""
        self.count += 1
        self.total += loss
        self.last = loss
        self.best = min(self.best, loss)

    @property
    def mean(self) -> float:
        """NaN without any value."""
        return self.total / self.count if self.count else math.nan


class Measure:
    """One metric, which way is better, and what progress is counted in; see ``MeasureOptions``.

    A value counts at the progress known when it arrives: a metric that says the progress is best emitted
    before the values that belong to it.

    :raises ConfigError: if the metric's direction is not known or not its own, or it would measure itself.
    """

    def __init__(
        self,
        *,
        objectives: Mapping[str, Direction],
        metric: str | None,
        direction: Direction | None,
        budget: str,
    ) -> None:
        self.metric = objective(objectives) if metric is None else metric
        own = objectives.get(self.metric)
        known = direction or own
        if own not in (None, known):
            message = f"the objective {self.metric!r} is {own}, found {direction}; leave direction out"
            raise ConfigError(message, path=("direction",))
        if known is None:
            raise ConfigError(
                f"{self.metric!r} is not an objective{nearest(self.metric, objectives)}; "
                "for other telemetry give direction: min or max",
                path=("metric",),
            )
        if budget == self.metric:
            raise ConfigError(f"the progress of {budget!r} cannot be counted in itself", path=("budget",))
        self.budget = budget
        self.metrics = frozenset({self.metric, budget} - {_ELAPSED, _SAMPLES} | {self.metric})
        self._sign = 1.0 if known == "min" else -1.0
        self._is_objective = self.metric in objectives

    def progress(self, trial: Partial, metric: str, value: float, elapsed_s: float) -> float:
        """How far the trial is with this sample of one of ``metrics``."""
        if self.budget == _ELAPSED:
            reached = elapsed_s
        elif self.budget == _SAMPLES:
            reached = trial.count + 1
        else:
            reached = value if metric == self.budget else trial.progress
        return reached if trial.progress < reached < math.inf else trial.progress

    def loss(self, value: float) -> float:
        """The value, turned so that lower is better; and back."""
        return self._sign * value

    def scores(self, loss: float) -> dict[str, float] | None:
        """What an optimizer can be told of this loss: nothing, unless it is finite and of an objective."""
        return {self.metric: self.loss(loss)} if self._is_objective and math.isfinite(loss) else None

    def at(self, progress: float) -> str:
        """Progress, for people."""
        unit = {_ELAPSED: "s", _SAMPLES: "samples"}.get(self.budget)
        return f"at {self.budget} {progress:g}" if unit is None else f"after {progress:g} {unit}"


def objective(objectives: Mapping[str, Direction]) -> str:
    """The most important objective.

    :raises ConfigError: if there is none.
    """
    for metric in objectives:
        return metric
    raise ConfigError("there is no objective; name the metric to look at", path=("metric",))
