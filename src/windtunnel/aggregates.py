"""One number for several runs of a configuration."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Literal

__all__ = ["Aggregate", "aggregate", "mean"]

Aggregate = Literal["mean", "median", "min", "max", "worst_host"]
"""What stands for several runs: ``worst_host`` is their mean on the host where it is worst."""


def aggregate(
    runs: Iterable[tuple[str | None, float]], how: Aggregate, direction: Literal["min", "max"]
) -> float:
    """The score of a configuration, from (host, score) of its runs.

    ``min`` and ``max`` are meant literally, whatever the direction.

    :raises ValueError: if there are no runs.
    """
    found = list(runs)
    if not found:
        raise ValueError("expected at least one run with a score, found none")
    scores = [score for _, score in found]
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
            return _worst_host(found, direction)


def mean(scores: Sequence[float]) -> float:
    """The mean, never outside of what it is the mean of."""
    return min(max(sum(scores) / len(scores), min(scores)), max(scores))


def _worst_host(runs: Iterable[tuple[str | None, float]], direction: Literal["min", "max"]) -> float:
    by_host: defaultdict[str | None, list[float]] = defaultdict(list)
    for host, score in runs:
        by_host[host].append(score)
    means = map(mean, by_host.values())
    return max(means) if direction == "min" else min(means)
