"""Several objectives at once: the Pareto front, its hypervolume over time, and one score by weights."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import anyio.to_thread

from windtunnel.aggregates import Aggregate, aggregate
from windtunnel.model import ParetoPoint
from windtunnel.objectives import Objective, weights
from windtunnel.pareto import front, hypervolumes, scale, weighted
from windtunnel.storage import blocks, groups, ranking, runs, values
from windtunnel.storage.database import Database

__all__ = ["HypervolumePoint", "Tradeoffs"]


class HypervolumePoint(NamedTuple):
    """How much of what lies between the best and the worst results is dominated.

    :ivar trial_id: the last trial of the configuration that added to it.
    :ivar value: from 0 to 1; None if the front has too many points of more than two objectives.
    """

    timestamp: datetime
    trial_id: int
    value: float | None


class _Run(NamedTuple):
    """A succeeded trial with the value of every objective."""

    trial_id: int
    config_id: int
    host: str | None
    ended_us: int
    values: tuple[float, ...]


_Losses = tuple[float, ...]
"""A number for each objective, of which less is better."""


class Tradeoffs:
    """What ``Experiment`` offers for several objectives. Each of it reads all succeeded trials."""

    objectives: dict[str, Objective]
    _database: Database
    _key: int

    async def pareto(self, how: Aggregate = "mean") -> list[ParetoPoint]:
        """The configurations of which any that is better in one objective is worse in another.

        In order of the first objective, the best first. With one objective, the best configurations.

        :param how: what stands for several runs of a configuration, in each objective.
        :raises ConfigError: if there is no such aggregate.
        """
        ranking.check(how)
        found = await self._results()
        goals = list(self.objectives.values())
        chosen = await anyio.to_thread.run_sync(_front, found, goals, how)
        params = await self._database.read(blocks.params, list(chosen))
        trials = Counter(run.config_id for run in found)
        return [
            ParetoPoint(
                config_id=config_id,
                config=values.load(params[config_id]),
                trials=trials[config_id],
                scores=dict(zip(self.objectives, _signed(losses, goals), strict=True)),
            )
            for config_id, losses in chosen.items()
        ]

    async def hypervolume(self) -> list[HypervolumePoint]:
        """How the hypervolume of the Pareto front grew, one entry each time it did.

        Objectives are scaled from the best mean of a configuration (0) to the worst (1), the reference. A
        configuration counts from the end of its last run, with the mean of all.
        """
        found = await self._results()
        return await anyio.to_thread.run_sync(_growth, found, list(self.objectives.values()))

    async def best_by_weights(self, how: Aggregate = "mean") -> int | None:
        """The best trial of the configuration with the least weighted sum of its objectives, scaled as above.

        Of equals the first; None if no trial has succeeded.

        :param how: see ``pareto``.
        :raises ConfigError: if there is no such aggregate.
        """
        ranking.check(how)
        found = await self._results()
        return await anyio.to_thread.run_sync(_best, found, self.objectives, how)

    async def _results(self) -> list[_Run]:
        """Every succeeded trial that has all objectives, in order of ids."""
        found: list[_Run] = []
        after = 0
        while page := await self._database.read(runs.results, self._key, after):
            after = page[-1].trial_id
            found += await anyio.to_thread.run_sync(_parsed, page, list(self.objectives))
        return found


def _parsed(page: Sequence[runs.Result], names: Sequence[str]) -> list[_Run]:
    found: list[_Run] = []
    for row, metrics in zip(page, values.load_all([row.metrics for row in page]), strict=True):
        numbers = [
            number for name in names if (number := groups.number((metrics or {}).get(name))) is not None
        ]
        if len(numbers) == len(names):
            found.append(_Run(row.trial_id, row.config_id, row.host, row.ended_us, tuple(numbers)))
    return found


def _signed(numbers: Sequence[float], goals: Sequence[Objective]) -> _Losses:
    """Values as losses, or losses as values."""
    pairs = zip(numbers, goals, strict=True)
    return tuple(number if goal.direction == "min" else -number for number, goal in pairs)


def _scored(found: Iterable[_Run], goals: Sequence[Objective], how: Aggregate) -> dict[int, _Losses]:
    """configuration → its losses over all of its runs."""
    by_config: defaultdict[int, list[_Run]] = defaultdict(list)
    for run in found:
        by_config[run.config_id].append(run)

    def score(of: Sequence[_Run], index: int) -> float:
        pairs = ((run.host, run.values[index]) for run in of)
        return aggregate(pairs, how, goals[index].direction)

    return {
        config_id: _signed([score(of, index) for index in range(len(goals))], goals)
        for config_id, of in by_config.items()
    }


def _front(found: Iterable[_Run], goals: Sequence[Objective], how: Aggregate) -> dict[int, _Losses]:
    ranked = sorted(_scored(found, goals, how).items(), key=lambda pair: (pair[1], pair[0]))
    return dict(ranked[index] for index in front([losses for _, losses in ranked]))


def _best(found: Sequence[_Run], objectives: Mapping[str, Objective], how: Aggregate) -> int | None:
    if not found:
        return None
    goals, shares = list(objectives.values()), weights(objectives) or (1.0,) * len(objectives)
    scored = _scored(found, goals, how)
    scaled = scale(scored.values())

    def total(losses: _Losses) -> float:
        return weighted(scaled(losses), shares)

    chosen = min(scored, key=lambda config_id: (total(scored[config_id]), config_id))
    its_runs = [run for run in found if run.config_id == chosen]
    return min(its_runs, key=lambda run: (total(_signed(run.values, goals)), run.trial_id)).trial_id


def _growth(found: Sequence[_Run], goals: Sequence[Objective]) -> list[HypervolumePoint]:
    scored = _scored(found, goals, "mean")
    scaled = scale(scored.values())
    last = {run.config_id: run for run in sorted(found, key=lambda run: (run.ended_us, run.trial_id))}
    in_time = sorted(last.values(), key=lambda run: (run.ended_us, run.trial_id))
    volumes = hypervolumes([scaled(scored[run.config_id]) for run in in_time], (1.0,) * len(goals))
    before: float | None = 0.0
    grown: list[HypervolumePoint] = []
    for run, volume in zip(in_time, volumes, strict=True):
        if volume != before:
            grown.append(HypervolumePoint(values.from_us(run.ended_us), run.trial_id, volume))
        before = volume
    return grown
