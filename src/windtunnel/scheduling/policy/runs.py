"""Runs of configurations, and one score for several of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from windtunnel import aggregates
from windtunnel.aggregates import Aggregate
from windtunnel.model import Direction

__all__ = ["Run", "aggregate"]


class Run(NamedTuple):
    """One trial that has ended.

    :ivar host: None if nobody knows.
    :ivar score: the first objective; None if the trial gave none.
    """

    trial_id: int
    config_id: int
    host: str | None
    score: float | None


def aggregate(runs: Iterable[Run], how: Aggregate, direction: Direction) -> float:
    """The score of a configuration, from its runs that have one.

    :raises ValueError: if no run has a score.
    """
    scored = [(run.host, run.score) for run in runs if run.score is not None]
    return aggregates.aggregate(scored, how, direction)
