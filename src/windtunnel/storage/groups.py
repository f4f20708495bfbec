"""Configurations compared over the trials they ran in: means, their spread and how sure they are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from windtunnel.model import Direction
from windtunnel.quantiles import student_t

__all__ = ["ConfigGroup", "grouped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigGroup:
    """The succeeded trials of one configuration, by one metric.

    :ivar trials: how many gave a finite number; at least 1.
    :ivar stddev: of the sample; None for one trial.
    :ivar ci_low: lower end of the 95 % confidence interval of the mean by Student's t; None for one trial.
    :ivar ci_high: its upper end.
    """

    config_id: int
    config: Mapping[str, Any]
    metric: str
    trials: int
    mean: float
    stddev: float | None
    ci_low: float | None
    ci_high: float | None

    @classmethod
    def of(
        cls, config_id: int, config: Mapping[str, Any], metric: str, found: Sequence[float]
    ) -> ConfigGroup:
        """:raises StatisticsError: if there are no values."""
        mean, trials = statistics.fmean(found), len(found)
        stddev = statistics.stdev(found, mean) if trials > 1 else None
        margin = None if stddev is None else student_t(trials - 1) * stddev / math.sqrt(trials)
        return cls(
            config_id=config_id,
            config=config,
            metric=metric,
            trials=trials,
            mean=mean,
            stddev=stddev,
            ci_low=None if margin is None else mean - margin,
            ci_high=None if margin is None else mean + margin,
        )


def number(value: object) -> float | None:
    """A metric as a finite number; None if it is something else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def grouped(
    found: Mapping[int, Sequence[float]], direction: Direction, most: int | None
) -> list[tuple[int, Sequence[float]]]:
    """(config_id, values) by the mean of the values, the best first, at most ``most`` of them."""
    sign = 1 if direction == "min" else -1
    ranked: Iterable[tuple[int, Sequence[float]]] = sorted(
        found.items(), key=lambda item: (sign * statistics.fmean(item[1]), item[0])
    )
    return list(ranked)[:most]
