"""The part of the storage's contract that is about several objectives at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from windtunnel.errors import ConfigError
from windtunnel.model import RunResult, Status
from windtunnel.objectives import Objective
from windtunnel.storage import Experiment, Storage
from windtunnel.testing.storage_fixtures import LEASE, TUNABLES, StorageFixtures, at, new

__all__ = ["TradeoffContract"]

FAST_AND_CHEAP = {"qps": Objective(direction="max"), "cost": Objective(direction="min")}
WEIGHED = {"qps": Objective(direction="max", weight=3), "cost": Objective(direction="min")}

Ran = tuple[int, object, object]
"""A size, and what came of it as qps and cost."""


@asynccontextmanager
async def holding(
    storage: Storage, ran: Sequence[Ran], objectives: dict[str, Objective] = FAST_AND_CHEAP
) -> AsyncIterator[Experiment]:
    """An experiment whose trials ended one a second, on two hosts in turn."""
    async with storage.experiment(
        experiment_id="two", tunables=TUNABLES, opt_targets=objectives
    ) as experiment:
        await experiment.add_trials([new(size) for size, _, _ in ran])
        trials = await experiment.claim("w", limit=100, lease=LEASE)
        for trial, (_, qps, cost) in zip(trials, ran, strict=True):
            result = RunResult(Status.SUCCEEDED, at(trial.trial_id), {"qps": qps, "cost": cost})
            await experiment.finish(trial, result, host=f"h{trial.trial_id % 2}")
        yield experiment


async def sizes(experiment: Experiment) -> list[int]:
    return [one.config["size"] for one in await experiment.pareto()]


class TradeoffContract(StorageFixtures):
    """The Pareto front, its hypervolume, and the best by weights."""

    async def test_the_front_is_of_configurations_by_the_mean_of_their_runs(self, storage: Storage) -> None:
        ran: list[Ran] = [(1, 10, 5), (2, 12, 9), (3, 9, 6), (2, 18, 9), (4, 2, 1), (5, 15, 9.5)]
        async with holding(storage, ran) as experiment:
            first, *_ = await experiment.pareto()
            assert (first.config, first.trials) == ({"size": 2, "mode": "a"}, 2)
            assert first.scores == {"qps": 15, "cost": 9}
            assert await sizes(experiment) == [2, 1, 4]
            assert [one.scores["qps"] for one in await experiment.pareto("max")] == [18, 10, 2]
            assert [one.scores["qps"] for one in await experiment.pareto("min")] == [15, 12, 10, 2]
            with pytest.raises(ConfigError, match="expected one of mean"):
                await experiment.pareto("average")  # type: ignore[arg-type]  # what a caller may do

    async def test_what_failed_or_lacks_an_objective_is_in_no_front(self, storage: Storage) -> None:
        async with holding(storage, [(1, 10, 5), (2, 99, "cheap"), (3, True, 0)]) as experiment:
            await experiment.add_trials([new(4)])
            (trial,) = await experiment.claim("w", limit=1, lease=LEASE)
            failed = RunResult(Status.FAILED, at(9), {"qps": 100, "cost": 0})
            await experiment.finish(trial, failed)
            assert await sizes(experiment) == [1]

    async def test_without_a_success_there_is_no_front(self, storage: Storage) -> None:
        async with holding(storage, [], WEIGHED) as experiment:
            assert await experiment.pareto() == []
            assert await experiment.hypervolume() == []
            assert await experiment.best() is None

    async def test_the_hypervolume_grows_with_what_is_not_dominated(self, storage: Storage) -> None:
        ran: list[Ran] = [(1, 5, 5), (2, 4, 6), (3, 0, 0), (4, 10, 10), (5, 9, 2)]
        async with holding(storage, ran) as experiment:
            grown = await experiment.hypervolume()
        # Scaled from (10, 0) to (0, 10): (5, 5) first, then (9, 2) that dominates it.
        assert [(one.trial_id, one.timestamp) for one in grown] == [(1, at(1)), (5, at(5))]
        assert [one.value for one in grown] == pytest.approx([0.25, 0.72])

    async def test_the_best_is_that_of_the_first_objective_unless_there_are_weights(
        self, storage: Storage
    ) -> None:
        ran: list[Ran] = [(1, 10, 10), (2, 9, 0), (3, 0, 0), (2, 8, 0)]
        async with holding(storage, ran) as experiment:
            assert (best := await experiment.best()) is not None
            assert best.config["size"] == 1
        async with holding(storage, [], WEIGHED) as experiment:
            assert (best := await experiment.best()) is not None
            assert (best.config["size"], best.trial_id) == (2, 2)
        cheap = {**WEIGHED, "cost": Objective(direction="min", weight=100)}
        async with holding(storage, [(4, 5, -1)], cheap) as experiment:
            assert (best := await experiment.best("worst_host")) is not None
            assert best.config["size"] == 4
