"""Which configuration is the best, by one number for all of its runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import get_args

from windtunnel.aggregates import Aggregate, aggregate
from windtunnel.errors import ConfigError
from windtunnel.model import Direction
from windtunnel.storage.runs import ScoredRun

__all__ = ["best", "check"]


def check(how: str) -> None:
    """:raises ConfigError: if there is no such aggregate."""
    if how not in get_args(Aggregate):
        raise ConfigError(f"expected one of {', '.join(get_args(Aggregate))}, found {how!r}")


def best(runs: Sequence[ScoredRun], direction: Direction, how: Aggregate) -> int | None:
    """The best trial of the configuration whose runs have the best aggregate; of equals the first."""
    if not runs:
        return None
    sign = 1 if direction == "min" else -1
    by_config: defaultdict[int, list[ScoredRun]] = defaultdict(list)
    for run in runs:
        by_config[run.config_id].append(run)
    scored = {pk: [(run.host, run.score) for run in of] for pk, of in by_config.items()}
    ranked = ((sign * aggregate(of, how, direction), pk) for pk, of in scored.items())
    _, chosen = min(ranked)
    return min(by_config[chosen], key=lambda run: (sign * run.score, run.trial_id)).trial_id
