"""Asynchronous successive halving."""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from windtunnel.model import Direction
from windtunnel.options import Count
from windtunnel.pruners.base import MOST_ENDED, Abort, Pruner
from windtunnel.pruners.measure import Amount, Measure, MeasureOptions, Partial

__all__ = ["Halving", "HalvingOptions"]

Taken = Literal["last", "mean", "best"]


class HalvingOptions(MeasureOptions):
    """The options of ``halving``."""

    least: Amount = Field(default=1.0, gt=0, description="progress of the first rung; default 1")
    factor: Annotated[int, Field(strict=True, ge=2, le=1000)] = Field(
        default=4, description="one in so many goes on, to so many times the progress; default 4"
    )
    most: Annotated[Count, Field(le=64)] = Field(default=10, description="rungs; default 10")
    value: Taken = Field(
        default="last",
        description="what stands for a trial at a rung: its last, mean or best value; default last",
    )


@dataclass(slots=True)
class _Running:
    """A running trial, and the rung it comes to next."""

    partial: Partial = field(default_factory=Partial)
    rung: int = 0


class _Rung:
    """The losses of the trials that came to a rung, the newest ``MOST_ENDED``; each counts once."""

    def __init__(self) -> None:
        self._entries: dict[int, float] = {}
        self._ordered: array[float] = array("d")

    def enter(self, trial_id: int, loss: float) -> tuple[int, int]:
        """How many were better, and how many there are now. A trial that comes again takes its old place."""
        if trial_id in self._entries:
            self._leave(trial_id)
        elif len(self._entries) == MOST_ENDED:
            self._leave(next(iter(self._entries)))
        self._entries[trial_id] = loss
        insort(self._ordered, loss)
        return bisect_left(self._ordered, loss), len(self._ordered)

    def _leave(self, trial_id: int) -> None:
        del self._ordered[bisect_left(self._ordered, self._entries.pop(trial_id))]


class Halving(Pruner):
    """Stops a trial at a rung if it is not among the best ``1/factor`` of those that reached the rung so far.

    Rung k lies at a progress of ``least * factor**k``. At least one goes on, so the first always does, and
    so do those that are as good as the last to go on. After the last rung nobody is stopped. It is ASHA of
    Li et al., A System for Massively Parallel Hyperparameter Tuning, MLSys 2020, in the form that stops
    trials where the paper pauses them. Partial values tell the optimizer: the one that counted at the rung.
    """

    options_class = HalvingOptions

    def __init__(
        self,
        *,
        objectives: Mapping[str, Direction],
        metric: str | None = None,
        direction: Direction | None = None,
        budget: str = "elapsed",
        least: float = 1.0,
        factor: int = 4,
        most: int = 10,
        value: Taken = "last",
    ) -> None:
        super().__init__(objectives=objectives)
        self._measure = Measure(objectives=objectives, metric=metric, direction=direction, budget=budget)
        self._factor = factor
        self._value = value
        self._resources = [least * float(factor) ** k for k in range(most)]
        self._rungs = [_Rung() for _ in range(most)]
        self._running: dict[int, _Running] = {}

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
        partial.progress = measure.progress(partial, metric, value, elapsed_s)
        if metric != measure.metric:
            return None
        partial.take(measure.loss(value))
        return self._climb(trial_id, trial)

    def ended(self, trial_id: int, scores: Mapping[str, float] | None) -> None:
        self._running.pop(trial_id, None)

    def _climb(self, trial_id: int, trial: _Running) -> Abort | None:
        """Enter every rung that the trial has come to, until one is its last."""
        partial = trial.partial
        while trial.rung < len(self._rungs) and partial.progress >= self._resources[trial.rung]:
            loss = self._standing(partial)
            if loss != loss:  # infinities of both signs
                return None
            better, count = self._rungs[trial.rung].enter(trial_id, loss)
            trial.rung += 1
            if better >= max(1, count // self._factor):
                return self._verdict(partial, trial.rung, loss, better, count)
        return None

    def _standing(self, partial: Partial) -> float:
        if self._value == "last":
            return partial.last
        return partial.mean if self._value == "mean" else partial.best

    def _verdict(self, partial: Partial, rung: int, loss: float, better: int, count: int) -> Abort:
        measure = self._measure
        reason = (
            f"halving: the {self._value} {measure.metric}, {measure.loss(loss):g} "
            f"{measure.at(partial.progress)}, is number {better + 1} of {count} at rung {rung}, "
            f"of which {max(1, count // self._factor)} may go on"
        )
        return Abort(reason, measure.scores(loss))
