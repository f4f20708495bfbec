"""Worse than the worst so far."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

from pydantic import Field

from windtunnel.errors import ConfigError
from windtunnel.model import Direction
from windtunnel.options import Count, Options, nearest
from windtunnel.pruners.base import Abort, Pruner
from windtunnel.pruners.measure import objective

__all__ = ["Worst", "WorstOptions"]


class WorstOptions(Options):
    """The options of ``worst``."""

    metric: str | None = Field(
        default=None, min_length=1, description="an objective that is a duration; default the first"
    )
    scale: float = Field(
        default=1.0,
        strict=True,
        gt=0,
        allow_inf_nan=False,
        description="how many of its units make a second: 1000 for milliseconds; default 1",
    )
    least_trials: Count = Field(default=5, description="succeeded trials to compare with; default 5")
    epsilon: float = Field(
        default=0.01,
        strict=True,
        gt=0,
        allow_inf_nan=False,
        description="the optimizer is told worst * (1 + epsilon); default 0.01",
    )


class Worst(Pruner):
    """Stops a trial that has run longer than the worst succeeded one, where the time it takes is minimized.

    The optimizer is told a little more than that worst score. One of zero or less is no duration: nobody is
    stopped for it. Scores of trials that ran elsewhere or earlier count too. It keeps two numbers.
    """

    options_class = WorstOptions
    ticks = True

    def __init__(
        self,
        *,
        objectives: Mapping[str, Direction],
        metric: str | None = None,
        scale: float = 1.0,
        least_trials: int = 5,
        epsilon: float = 0.01,
    ) -> None:
        super().__init__(objectives=objectives)
        self._metric = _duration(objectives, metric)
        self._scale = scale
        self._least_trials = least_trials
        self._epsilon = epsilon
        self._succeeded = 0
        self._worst = 0.0

    @property
    def metrics(self) -> frozenset[str]:
        return frozenset()

    def observe(self, trial_id: int, metric: str, value: float, elapsed_s: float) -> None:
        return None

    def tick(self, trial_id: int, elapsed_s: float) -> Abort | None:
        elapsed, worst = elapsed_s * self._scale, self._worst
        if self._succeeded < self._least_trials or not elapsed > worst > 0:
            return None
        told = min(worst * (1 + self._epsilon), sys.float_info.max)
        reason = (
            f"worst so far: {self._metric} would be above {elapsed:g}, and the worst of {self._succeeded} "
            f"succeeded trial(s) is {worst:g}"
        )
        return Abort(reason, {self._metric: told})

    def ended(self, trial_id: int, scores: Mapping[str, float] | None) -> None:
        score = None if scores is None else scores.get(self._metric)
        if isinstance(score, int | float) and math.isfinite(score):  # a metric may be a text
            self._succeeded += 1
            self._worst = max(self._worst, score)


def _duration(objectives: Mapping[str, Direction], metric: str | None) -> str:
    """:raises ConfigError: if this is not an objective to be minimized."""
    name = objective(objectives) if metric is None else metric
    direction = objectives.get(name)
    if direction is None:
        message = f"expected an objective, found {name!r}{nearest(name, objectives)}"
        raise ConfigError(message, path=("metric",))
    if direction != "min":
        message = f"expected an objective to be minimized: a duration, found {name!r}, which is maximized"
        raise ConfigError(message, path=("metric",))
    return name
