"""Which configuration is the best, by one number for all of its runs."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

from windtunnel.errors import ConfigError
from windtunnel.model import Direction
from windtunnel.storage.runs import ScoredRun

__all__ = ["Aggregate", "best", "check"]

Aggregate = Literal["mean", "median", "min", "max", "worst_host"]

_OF_SCORES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "median": statistics.median,
    "min": min,
    "max": max,
}


def check(aggregate: str) -> None:
    """:raises ConfigError: if there is no such aggregate."""
    if aggregate not in get_args(Aggregate):
        raise ConfigError(f"expected one of {', '.join(get_args(Aggregate))}, found {aggregate!r}")


def best(runs: Sequence[ScoredRun], direction: Direction, aggregate: Aggregate) -> int | None:
    """The best trial of the configuration whose runs have the best aggregate; of equals the first."""
    if not runs:
        return None
    sign = 1 if direction == "min" else -1
    by_config: defaultdict[int, list[ScoredRun]] = defaultdict(list)
    for run in runs:
        by_config[run.config_id].append(run)
    ranked = ((sign * _aggregate(of, direction, aggregate), pk) for pk, of in by_config.items())
    _, chosen = min(ranked)
    return min(by_config[chosen], key=lambda run: (sign * run.score, run.trial_id)).trial_id


def _aggregate(runs: Sequence[ScoredRun], direction: Direction, aggregate: Aggregate) -> float:
    if aggregate != "worst_host":
        return _OF_SCORES[aggregate]([run.score for run in runs])
    by_host: defaultdict[str | None, list[float]] = defaultdict(list)
    for run in runs:
        by_host[run.host].append(run.score)
    means = map(statistics.fmean, by_host.values())
    return max(means) if direction == "min" else min(means)
