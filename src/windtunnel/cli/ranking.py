"""Trials grouped by configuration: means and their spread over repeats."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from windtunnel.cli.words import number
from windtunnel.model import TrialRecord
from windtunnel.objectives import Objective, weights
from windtunnel.pareto import scale, weighted

__all__ = ["ConfigurationStats", "by_configuration", "ranked"]


@dataclass(slots=True)
class ConfigurationStats:
    """The succeeded trials of one configuration.

    :ivar values: metric → its finite numbers, in order of the trials.
    :ivar others: metric → its last value that is no such number.
    """

    config_id: int
    config: Mapping[str, Any]
    trials: int = 0
    values: dict[str, list[float]] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)

    def add(self, trial: TrialRecord) -> None:
        """Count a succeeded trial in."""
        self.trials += 1
        for metric, value in (trial.metrics or {}).items():
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                self.values.setdefault(metric, []).append(value)
            else:
                self.others[metric] = value

    def mean(self, metric: str) -> float | None:
        """The mean, None if no trial gave a number."""
        found = self.values.get(metric)
        return statistics.fmean(found) if found else None

    def described(self, metric: str) -> str:
        """``mean ± standard deviation``, the value itself if there is but one."""
        found = self.values.get(metric)
        if not found:
            return number(self.others.get(metric))
        if len(found) == 1:
            return number(found[0])
        return f"{number(statistics.fmean(found))} ± {number(statistics.stdev(found))}"

    @property
    def metrics(self) -> list[str]:
        """Every metric that a trial gave."""
        return [*self.values, *(metric for metric in self.others if metric not in self.values)]


def by_configuration(trials: Iterable[TrialRecord]) -> dict[int, ConfigurationStats]:
    """config_id → its statistics, of configurations that succeeded at least once."""
    found: dict[int, ConfigurationStats] = {}
    for trial in trials:
        if trial.status.is_succeeded:
            stats = found.get(trial.config_id)
            if stats is None:
                stats = found[trial.config_id] = ConfigurationStats(trial.config_id, trial.config)
            stats.add(trial)
    return found


def ranked(
    stats: Iterable[ConfigurationStats], objectives: Mapping[str, Objective], *, most: int
) -> list[ConfigurationStats]:
    """The best configurations by the means of their runs, best first; those that lack a number are left out.

    By the first objective or, if they have weights, by the weighted sum of all: see ``Experiment.best``.
    """
    shares = weights(objectives)
    counting = dict(objectives if shares is not None else list(objectives.items())[:1])
    scored = [(losses, one) for one in stats if (losses := _losses(one, counting)) is not None]
    if not scored:
        return []
    scaled, shares = scale(losses for losses, _ in scored), shares or (1.0,)
    scored.sort(key=lambda pair: (weighted(scaled(pair[0]), shares), pair[1].config_id))
    return [one for _, one in scored[:most]]


def _losses(one: ConfigurationStats, objectives: Mapping[str, Objective]) -> tuple[float, ...] | None:
    means = [(one.mean(metric), objective.direction) for metric, objective in objectives.items()]
    losses = [mean if direction == "min" else -mean for mean, direction in means if mean is not None]
    return tuple(losses) if len(losses) == len(means) else None
