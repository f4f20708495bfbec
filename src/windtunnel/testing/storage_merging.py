"""The contract of a storage: experiments that learn from others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from windtunnel.errors import ConfigError, ExperimentMismatch, MergeCycle, NotFound
from windtunnel.model import Direction, NewTrial, Status
from windtunnel.storage import Experiment, Storage
from windtunnel.testing.storage_fixtures import LEASE, TARGETS, TUNABLES, StorageFixtures, ended, new
from windtunnel.tunables import TunableGroups

__all__ = ["MergeContract"]


def space(**ranges: tuple[int, int]) -> TunableGroups:
    """Whole numbers with these ranges; the lower end is the default."""
    params = {name: {"type": "int", "range": list(ends), "default": ends[0]} for name, ends in ranges.items()}
    return TunableGroups({"g": {"params": params}})


@asynccontextmanager
async def holding(
    storage: Storage,
    name: str,
    tunables: TunableGroups = TUNABLES,
    *trials: NewTrial,
    targets: Mapping[str, Direction] = TARGETS,
) -> AsyncIterator[Experiment]:
    """An experiment in which these trials have succeeded."""
    async with storage.experiment(experiment_id=name, tunables=tunables, opt_targets=targets) as experiment:
        await experiment.add_trials(trials)
        for trial in await experiment.claim("w", limit=100, lease=LEASE):
            await experiment.finish(trial, ended(float(trial.trial_id)))
        yield experiment


def trials(tunables: TunableGroups, *configs: dict[str, Any], **parameters: int) -> list[NewTrial]:
    return [NewTrial(tunables=tunables.assign(config), parameters=parameters) for config in configs]


class MergeContract(StorageFixtures):
    """What ``merge``, ``load`` and ``load_merged`` promise."""

    async def test_load_tells_merged_trials_and_then_its_own(self, storage: Storage) -> None:
        async with (
            holding(storage, "a", TUNABLES, new(1), new(2)) as a,
            holding(storage, "b", TUNABLES, new(3)),
            holding(storage, "c", TUNABLES, new(4)) as c,
        ):
            await a.merge(["c"])
            await c.merge(["b"])
            history = await a.load()
            assert [config["size"] for config in history.configs] == [3, 4, 1, 2]
            assert history.scores == [{"score": 1.0}, {"score": 1.0}, {"score": 1.0}, {"score": 2.0}]
            assert history.status == [Status.SUCCEEDED] * 4
            assert history.trial_ids[2:] == [1, 2]
            assert max(history.trial_ids[:2]) < 0
            assert len(set(history.trial_ids)) == 4
            assert history == await a.load()
            assert (await a.load(1)).trial_ids == [2]
            assert (await a.load(0)).trial_ids == [1, 2]
            origins = (await a.load_merged()).origins
            assert [origins[trial_id] for trial_id in history.trial_ids[:2]] == [("b", 1), ("c", 1)]

    async def test_what_is_not_active_is_told_with_its_default(self, storage: Storage) -> None:
        free = space(x=(0, 9), y=(0, 9))
        definition = free.definition()
        definition["g"]["params"]["y"]["when"] = {"x": [1, 2]}
        bound = TunableGroups(definition, constraints=["x <= 5"])
        told = trials(free, {"x": 1, "y": 4}, {"x": 8, "y": 4})
        async with holding(storage, "a", bound) as a, holding(storage, "b", free, *told):
            await a.merge(["b"])
            # What violates a constraint of today was measured all the same.
            assert (await a.load()).configs == [{"x": 1, "y": 4}, {"x": 8, "y": 0}]

    async def test_merging_again_changes_nothing(self, storage: Storage) -> None:
        async with holding(storage, "a") as a, holding(storage, "b", TUNABLES, new(3)):
            await a.merge(["b", "b"])
            await a.merge(["b"])
            await a.merge([])
            assert len((await a.load()).trial_ids) == 1

    async def test_trials_that_come_later_count_too(self, storage: Storage) -> None:
        async with holding(storage, "a") as a, holding(storage, "b") as b:
            await a.merge(["b"])
            assert (await a.load()).trial_ids == []
            await b.add_trials([new(3), new(4)])
            (trial,) = await b.claim("w", limit=1, lease=LEASE)
            await b.finish(trial, ended())
            assert len((await a.load()).trial_ids) == 1

    async def test_all_or_none_are_merged(self, storage: Storage) -> None:
        async with holding(storage, "a") as a, holding(storage, "b", TUNABLES, new(3)):
            with pytest.raises(NotFound, match="no experiment 'c'; there are: a, b"):
                await a.merge(["b", "c"])
            assert (await a.load()).trial_ids == []

    async def test_no_experiment_learns_from_itself(self, storage: Storage) -> None:
        async with (
            holding(storage, "a") as a,
            holding(storage, "b", TUNABLES, new(3)) as b,
            holding(storage, "c") as c,
        ):
            with pytest.raises(MergeCycle, match="'a' cannot be merged into itself"):
                await a.merge(["a"])
            await a.merge(["b"])
            await c.merge(["a"])
            with pytest.raises(MergeCycle, match="'a' cannot be merged into 'b'"):
                await b.merge(["a"])
            with pytest.raises(MergeCycle, match="'c' cannot be merged into 'b'"):
                await b.merge(["c"])
            await c.merge(["b"])  # twice, on two ways, is no circle
            assert len((await c.load()).trial_ids) == 1

    @pytest.mark.parametrize("targets", [{"score": "max"}, {"other": "min"}, {"score": "min", "x": "min"}])
    async def test_other_objectives_are_refused(
        self, storage: Storage, targets: Mapping[str, Direction]
    ) -> None:
        async with holding(storage, "a") as a, holding(storage, "b", targets=targets):
            with pytest.raises(ExperimentMismatch, match="its objectives are"):
                await a.merge(["b"])

    async def test_the_first_objective_has_to_be_the_same(self, storage: Storage) -> None:
        x: dict[str, Direction] = {"x": "min", "y": "max", "z": "min"}
        async with (
            holding(storage, "a", targets=x) as a,
            holding(storage, "b", targets={"x": "min", "z": "min", "y": "max"}),
            holding(storage, "c", targets={"y": "max", "x": "min", "z": "min"}),
        ):
            await a.merge(["b"])
            with pytest.raises(ExperimentMismatch, match="its objectives are"):
                await a.merge(["c"])

    async def test_a_shared_tunable_is_needed(self, storage: Storage) -> None:
        async with holding(storage, "a", space(x=(0, 9))) as a, holding(storage, "b", space(y=(0, 9))):
            with pytest.raises(ExperimentMismatch, match=r"its tunables are \['y'\], expected .* \['x'\]"):
                await a.merge(["b"])

    async def test_a_text_is_no_list(self, experiment: Experiment) -> None:
        with pytest.raises(ConfigError, match="expected a list of experiment ids, found 'abc'"):
            await experiment.merge("abc")

    async def test_what_merged_trials_lack_is_imputed_and_marked(self, storage: Storage) -> None:
        ours, theirs = space(x=(0, 9), y=(5, 9), z=(7, 9)), space(x=(0, 9), w=(1, 2))
        done = [*trials(theirs, {"x": 1}, {"x": 2}, z=8), *trials(theirs, {"x": 3})]
        async with holding(storage, "a", ours) as a, holding(storage, "b", theirs, *done):
            await a.merge(["b"])
            merged = await a.load_merged()
            assert merged.history.configs == [
                {"x": 1, "y": 5, "z": 8},
                {"x": 2, "y": 5, "z": 8},
                {"x": 3, "y": 5, "z": 7},
            ]
            assert list(merged.imputed.values()) == [("y",), ("y",), ("y", "z")]
            (report,) = merged.experiments
            assert (report.experiment_id, report.trials, report.left_out) == ("b", 3, 0)
            assert report.imputed == {"y": 3, "z": 1}
            assert report.from_parameters == {"z": 2}
            assert report.dropped == ("w",)

    async def test_values_outside_todays_domain_are_reported_and_left_out(self, storage: Storage) -> None:
        ours, theirs = space(x=(0, 9), y=(0, 9)), space(x=(0, 99), y=(0, 99))
        done = trials(theirs, {"x": 5}, {"x": 10}, {"x": 11, "y": 12})
        async with holding(storage, "a", ours) as a, holding(storage, "b", theirs, *done):
            await a.merge(["b"])
            assert [config["x"] for config in (await a.load()).configs] == [5]
            (report,) = (await a.load_merged()).experiments
            assert (report.trials, report.left_out) == (1, 2)
            assert report.outside == {"x": 2, "y": 1}
