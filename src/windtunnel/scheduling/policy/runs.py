"""Runs of configurations, and one score for several of them."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from windtunnel.model import Direction

__all__ = ["Run", "Score", "aggregate", "mean"]

Score = Literal["mean", "median", "min", "max", "worst_host"]
"""What stands for several runs of one configuration."""


class Run(NamedTuple):
    """One trial that has ended.

    :ivar host: None if nobody knows.
    :ivar score: the first objective; None if the trial gave none.
    """

    trial_id: int
    config_id: int
    host: str | None
    score: float | None


def aggregate(runs: Iterable[Run], how: Score, direction: Direction) -> float:
    """The score of a configuration, from its runs that have one.

    ``min`` and ``max`` are meant literally, whatever the direction; ``worst_host`` is the mean on the host
    where it is worst.

    :raises ValueError: if no run has a score.
    """
    scored = [(run.host, run.score) for run in runs if run.score is not None]
    if not scored:
        raise ValueError("expected at least one run with a score, found none")
    scores = [score for _, score in scored]
    match how:
        case "mean":
            return mean(scores)
        case "median":
            return statistics.median(scores)
        case "min":
            return min(scores)
        case "max":
            return max(scores)
        case "worst_host":
            return _worst_host(scored, direction)


def _worst_host(scored: Iterable[tuple[str | None, float]], direction: Direction) -> float:
    by_host: defaultdict[str | None, list[float]] = defaultdict(list)
    for host, score in scored:
        by_host[host].append(score)
    means = map(mean, by_host.values())
    return max(means) if direction == "min" else min(means)


def mean(scores: Sequence[float]) -> float:
    """The mean, never outside of what it is the mean of."""
    return min(max(sum(scores) / len(scores), min(scores)), max(scores))
