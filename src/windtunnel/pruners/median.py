"""The median stopping rule."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import Field

from windtunnel.model import Direction
from windtunnel.options import Count
from windtunnel.pruners.averages import MOST_POINTS, Averages, Curve
from windtunnel.pruners.base import Abort, Pruner
from windtunnel.pruners.measure import Amount, Measure, MeasureOptions, Partial

__all__ = ["Median", "MedianOptions"]


class MedianOptions(MeasureOptions):
    """The options of ``median``."""

    warmup: Amount = Field(
        default=0.0, ge=0, description="progress before which no trial is stopped; default 0"
    )
    least_trials: Count = Field(default=5, description="succeeded trials to compare with; default 5")
    interval: Amount = Field(
        default=1.0,
        gt=0,
        description="progress from one judgement to the next; doubled whenever a trial outlasts "
        f"{MOST_POINTS} of them; default 1",
    )


@dataclass(slots=True)
class _Running:
    """A running trial.

    :ivar points: its curve, up to the last point that no further sample can change.
    :ivar judged: the point it was judged at last.
    """

    partial: Partial = field(default_factory=Partial)
    points: array[float] = field(default_factory=lambda: array("d"))
    judged: int = -1


class Median(Pruner):
    """Stops a trial whose best value by some progress is worse than the median of the succeeded trials'
    running averages up to that progress.

    The rule of Golovin et al., Google Vizier: A Service for Black-Box Optimization, KDD 2017. Averages are
    compared at multiples of ``interval``, once for each that a trial reaches; one that succeeded with less
    progress is compared with all it has. Partial values tell the optimizer: the best one, by which the trial
    was judged. A running trial takes about 2 KiB, and what is kept of the others at most 4 MiB.
    """

    options_class = MedianOptions

    def __init__(
        self,
        *,
        objectives: Mapping[str, Direction],
        metric: str | None = None,
        direction: Direction | None = None,
        budget: str = "elapsed",
        warmup: float = 0.0,
        least_trials: int = 5,
        interval: float = 1.0,
    ) -> None:
        super().__init__(objectives=objectives)
        self._measure = Measure(objectives=objectives, metric=metric, direction=direction, budget=budget)
        self._warmup = warmup
        self._least_trials = least_trials
        self._running: dict[int, _Running] = {}
        self._averages = Averages(interval)

    @property
    def metrics(self) -> frozenset[str]:
        return self._measure.metrics

    def observe(self, trial_id: int, metric: str, value: float, elapsed_s: float) -> Abort | None:
        measure = self._measure
        if value != value or metric not in measure.metrics:
            return None
        trial = self._running.get(trial_id)
        if trial is None:
            trial = self._running[trial_id] = _Running()
        partial = trial.partial
        self._advance(trial, measure.progress(partial, metric, value, elapsed_s))
        if metric != measure.metric:
            return None
        partial.take(measure.loss(value))
        return self._judged(trial) if partial.progress >= self._warmup else None

    def ended(self, trial_id: int, scores: Mapping[str, float] | None) -> None:
        trial = self._running.pop(trial_id, None)
        if trial is not None and scores is not None:
            self._averages.add(Curve(trial.points, trial.partial.mean))

    def _advance(self, trial: _Running, progress: float) -> None:
        """Fix the points that lie before ``progress``: what comes from now on lies behind them."""
        trial.partial.progress = progress
        while progress / self._averages.step > MOST_POINTS:
            self._coarsen()
        if progress > 0:
            fixed = math.ceil(progress / self._averages.step) - len(trial.points)
            trial.points.extend([trial.partial.mean] * fixed)

    def _coarsen(self) -> None:
        self._averages.coarsen()
        for trial in self._running.values():
            del trial.points[1::2]
            trial.judged //= 2

    def _judged(self, trial: _Running) -> Abort | None:
        partial = trial.partial
        point = math.floor(partial.progress / self._averages.step)
        if point <= trial.judged:
            return None
        trial.judged = point
        averages = self._averages.at(point)
        if len(averages) < self._least_trials:
            return None
        median = _median(averages)
        return self._verdict(partial, median, len(averages)) if partial.best > median else None

    def _verdict(self, partial: Partial, median: float, count: int) -> Abort:
        measure = self._measure
        reason = (
            f"median rule: the best {measure.metric}, {measure.loss(partial.best):g} "
            f"{measure.at(partial.progress)}, is worse than {measure.loss(median):g}, "
            f"the median of the averages of {count} succeeded trial(s)"
        )
        return Abort(reason, measure.scores(partial.best))


def _median(ordered: array[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
