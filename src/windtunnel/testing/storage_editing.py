"""The part of the storage's contract that is about changes by hand while an experiment runs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import Connection, Table

from windtunnel.errors import (
    ConfigError,
    NotFound,
    StaleTrial,
    StorageError,
    TrialAlreadyFinished,
    TunableError,
)
from windtunnel.model import Status
from windtunnel.storage import INTERRUPTED, Experiment, Storage, editing
from windtunnel.storage.schema import telemetry, trial_attempt
from windtunnel.testing.storage_fixtures import (
    LEASE,
    TARGETS,
    TUNABLES,
    Clock,
    StorageFixtures,
    at,
    claim_one,
    ended,
    new,
    point,
)
from windtunnel.tunables import TunableGroups

__all__ = ["EditingContract"]


async def _statuses(experiment: Experiment) -> dict[int, tuple[Status, str | None]]:
    return {one.trial_id: (one.status, one.failure) async for one in experiment.trials()}


async def _rows(storage: Storage, table: Table) -> list[Any]:
    def all_of(connection: Connection) -> list[Any]:
        return list(connection.execute(table.select()))

    return await storage._database.read(all_of)  # noqa: SLF001 - no public read tells of these


class EditingContract(StorageFixtures):
    """Trials are enqueued and canceled by hand, experiments deleted and renamed."""

    # Enqueuing

    async def test_enqueue_values_and_the_others_are_defaults(self, experiment: Experiment) -> None:
        trial = await experiment.enqueue({"size": "7"})
        assert dict(trial.tunables) == {"size": 7, "mode": "a"}
        assert (await claim_one(experiment)).tunables == trial.tunables

    async def test_enqueue_a_stored_configuration(self, experiment: Experiment) -> None:
        (first,) = await experiment.add_trials([new(5)])
        again = await experiment.enqueue(config_id=first.config_id)
        assert again.trial_id == 2
        assert (again.config_id, again.tunables) == (first.config_id, first.tunables)

    async def test_enqueue_the_best_with_changes(self, experiment: Experiment) -> None:
        await experiment.add_trials([new(5), new(6)])
        for trial, score in zip(await experiment.claim("w1", limit=2, lease=LEASE), (2.0, 1.0), strict=True):
            await experiment.finish(trial, ended(score))
        assert dict((await experiment.enqueue(best_with={"mode": "ü"})).tunables) == {"size": 6, "mode": "ü"}
        assert dict((await experiment.enqueue(best_with={})).tunables) == {"size": 6, "mode": "a"}

    async def test_enqueuing_what_violates_a_constraint_is_refused(self, storage: Storage) -> None:
        space = TunableGroups(TUNABLES.definition(), constraints=["size <= 3 or mode == 'a'"])
        async with storage.experiment(experiment_id="e", tunables=space, opt_targets=TARGETS) as made:
            await made.enqueue({"size": 5})
        opened = await storage.open_experiment("e")
        assert opened.tunables == space
        with pytest.raises(TunableError, match=r"the constraint .* to hold, found mode='ü', size=5"):
            await opened.enqueue({"size": 5, "mode": "ü"})

    async def test_enqueuing_a_value_without_effect_is_refused(self, storage: Storage) -> None:
        definition = TUNABLES.definition()
        definition["cache"]["params"]["size"]["when"] = {"mode": "ü"}
        async with storage.experiment(experiment_id="e", tunables=definition, opt_targets=TARGETS) as made:
            assert (await made.enqueue({"size": 5, "mode": "ü"})).tunables["size"] == 5
            with pytest.raises(TunableError, match="'size' cannot be 5: it is active only when mode is 'ü'"):
                await made.enqueue({"size": 5})

    async def test_enqueued_trials_obey_priority_and_earliest_start(
        self, experiment: Experiment, clock: Clock
    ) -> None:
        await experiment.add_trials([new(1)])
        await experiment.enqueue({"size": 2}, priority=5, not_before=at(10))
        await experiment.enqueue({"size": 3}, priority=1)
        assert [t.trial_id for t in await experiment.claim("w1", limit=3, lease=LEASE)] == [3, 1]
        clock.now = at(11)
        assert [t.trial_id for t in await experiment.claim("w1", limit=3, lease=LEASE)] == [2]

    async def test_an_enqueued_trial_counts_against_the_budget(self, experiment: Experiment) -> None:
        await experiment.enqueue({"size": 1})
        assert len(await experiment.add_trials([new(2), new(3)], at_most=2)) == 1
        assert (await experiment.enqueue({"size": 4})).trial_id == 3, "a person's wish goes beyond it"

    @pytest.mark.parametrize(
        ("wish", "error", "said"),
        [
            ({"values": {"size": 200_000}}, TunableError, r"'size': 200000 is out of range.*\[0, 100000\]"),
            ({"values": {"siez": 1}}, TunableError, "no tunable 'siez'.*'size'"),
            ({"config_id": 99}, NotFound, "no configuration 99"),
            ({"best_with": {"size": 1}}, NotFound, "no succeeded trial to start from in experiment 'e'"),
            ({}, ConfigError, "expected one of values, config_id and best_with, found none"),
            ({"values": {}, "config_id": 1}, ConfigError, r"found \['values', 'config_id'\]"),
            ({"values": {}, "priority": 2**31}, ConfigError, "expected a priority from"),
            ({"values": {}, "not_before": datetime(2030, 1, 1)}, ValueError, "zone"),  # noqa: DTZ001
        ],
    )
    async def test_a_wrong_wish_is_refused_and_nothing_is_added(
        self, experiment: Experiment, wish: dict[str, Any], error: type[Exception], said: str
    ) -> None:
        with pytest.raises(error, match=said):
            await experiment.enqueue(**wish)
        assert (await experiment.counts()).total == 0

    async def test_a_configuration_of_other_tunables_is_refused(
        self, storage: Storage, experiment: Experiment
    ) -> None:
        other = TunableGroups({"g": {"params": {"y": {"type": "int", "range": [0, 9], "default": 1}}}})
        async with storage.experiment(experiment_id="o", tunables=other, opt_targets=TARGETS) as foreign:
            theirs = await foreign.enqueue({})
        with pytest.raises(TunableError, match=r"of other tunables: it has \['y'\]"):
            await experiment.enqueue(config_id=theirs.config_id)

    # Canceling

    async def test_a_canceled_trial_is_never_claimed_nor_queued_again(self, experiment: Experiment) -> None:
        await experiment.add_trials([new(1), new(2)])
        await experiment.cancel(1, reason="not needed")
        assert [t.trial_id for t in await experiment.claim("w1", limit=2, lease=LEASE)] == [2]
        assert await experiment.recover(lambda _owner: False) == 0
        assert (await _statuses(experiment))[1] == (Status.CANCELED, "canceled: not needed")

    async def test_whatever_the_reason_it_is_not_taken_for_an_interruption(
        self, experiment: Experiment
    ) -> None:
        await experiment.add_trials([new(1)])
        await experiment.cancel(1, reason=INTERRUPTED)
        assert await experiment.recover(lambda _owner: True) == 0

    async def test_an_interrupted_trial_still_waits_and_can_be_canceled(self, experiment: Experiment) -> None:
        await experiment.add_trials([new(1)])
        trial = await claim_one(experiment)
        await experiment.finish(trial, ended(status=Status.CANCELED), failure=INTERRUPTED)
        await experiment.cancel(1)
        assert await experiment.recover(lambda _owner: True) == 0

    async def test_the_worker_of_a_canceled_trial_learns_of_it_and_is_refused(
        self, experiment: Experiment
    ) -> None:
        await experiment.add_trials([new(1), new(2)])
        first, second = await experiment.claim("w1", limit=2, lease=LEASE)
        await experiment.record(first, [point(1, "m", 1.0)])
        await experiment.cancel(first.trial_id)
        assert await experiment.extend("w1", lease=LEASE) == {second.trial_id: second.token}
        with pytest.raises(StaleTrial):
            await experiment.record(first, [point(2, "m", 2.0)])
        for late in (ended(1.0), ended(status=Status.CANCELED)):
            with pytest.raises(StaleTrial):
                await experiment.finish(first, late)
        assert (await _statuses(experiment))[1] == (Status.CANCELED, "canceled: on request")
        assert [one.value for one in await experiment.load_telemetry(1)] == [1.0]

    async def test_the_attempt_of_a_canceled_trial_is_kept(
        self, storage: Storage, experiment: Experiment
    ) -> None:
        await experiment.add_trials([new(1), new(2)])
        await claim_one(experiment, "w7")
        for trial_id in (1, 2):
            await experiment.cancel(trial_id, reason="x")
        found = await _rows(storage, trial_attempt)
        assert [(row.trial_id, row.attempt, row.owner, row.status, row.reason) for row in found] == [
            (1, 1, "w7", Status.CANCELED.value, "canceled: x")
        ]

    async def test_the_story_of_a_canceled_trial_has_its_attempt_once(self, experiment: Experiment) -> None:
        await experiment.add_trials([new(1)])
        await experiment.release(await claim_one(experiment, "w1"), reason="moved")
        await experiment.record(await claim_one(experiment, "w2"), [point(1, "m", 1.0)])
        await experiment.cancel(1, reason="x")
        told = [(one.attempt, one.owner, one.reason) for one in (await experiment.story(1)).attempts]
        assert told == [(1, "w1", "moved"), (2, "w2", "canceled: x")]

    async def test_what_has_ended_cannot_be_canceled(self, experiment: Experiment) -> None:
        await experiment.add_trials([new(1), new(2)])
        await experiment.finish(await claim_one(experiment), ended(3.0))
        with pytest.raises(TrialAlreadyFinished, match="trial 1 is SUCCEEDED already"):
            await experiment.cancel(1)
        await experiment.cancel(2)
        with pytest.raises(TrialAlreadyFinished, match="trial 2 is CANCELED already"):
            await experiment.cancel(2)
        with pytest.raises(NotFound, match="no trial 9"):
            await experiment.cancel(9)
        assert (await experiment.load()).scores == [{"score": 3.0}]

    # Deleting and renaming

    async def test_delete_removes_one_experiment_and_no_other(
        self, storage: Storage, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(editing, "_POINTS_AT_ONCE", 2)
        async with storage.experiment(experiment_id="o", tunables=TUNABLES, opt_targets=TARGETS) as other:
            for one in (experiment, other):
                await one.add_trials([new(1), new(1)])
                for trial in await one.claim("w1", limit=2, lease=LEASE):
                    await one.record(trial, [point(i, m, 1.0) for i in range(3) for m in "ab"])
                    await one.finish(trial, ended(1.0))
            await storage.delete_experiment("e")
            with pytest.raises(NotFound, match="no experiment 'e'; there are: o"):
                await storage.open_experiment("e")
            assert (await experiment.counts()).total == 0
            assert len((await other.load()).trial_ids) == 2
            assert len(await other.load_telemetry(2)) == 6
        assert len(await _rows(storage, telemetry)) == 12
        with pytest.raises(NotFound):
            await storage.delete_experiment("e")

    async def test_an_experiment_in_use_is_deleted_by_force_only(
        self, storage: Storage, experiment: Experiment
    ) -> None:
        await experiment.add_trials([new(1)])
        trial = await claim_one(experiment, "w7")
        for is_dead in (None, lambda _owner: False):
            with pytest.raises(StorageError, match="found 1 of its trials running, the first by 'w7'"):
                await storage.delete_experiment("e", is_dead=is_dead)
        assert (await experiment.counts()).running == 1
        await storage.delete_experiment("e", force=True)
        with pytest.raises(StorageError):
            await experiment.finish(trial, ended(1.0))

    async def test_dead_workers_and_ended_leases_do_not_keep_an_experiment(
        self, storage: Storage, experiment: Experiment, clock: Clock
    ) -> None:
        await experiment.add_trials([new(1)])
        await claim_one(experiment, "w7")
        await storage.delete_experiment("e", is_dead=lambda owner: owner == "w7")
        async with storage.experiment(experiment_id="e", tunables=TUNABLES, opt_targets=TARGETS) as again:
            await again.add_trials([new(1)])
            await claim_one(again)
            clock.advance(LEASE * 2)
            await storage.delete_experiment("e")
        assert await storage.experiments() == []

    async def test_rename_keeps_everything_and_the_handles_in_use(
        self, storage: Storage, experiment: Experiment
    ) -> None:
        await experiment.add_trials([new(1)])
        trial = await claim_one(experiment)
        await storage.rename_experiment("e", "größer")
        await experiment.finish(trial, ended(4.0))
        assert (await (await storage.open_experiment("größer")).load()).scores == [{"score": 4.0}]
        with pytest.raises(NotFound):
            await storage.open_experiment("e")

    async def test_rename_refuses_a_name_that_is_taken_or_impossible(
        self, storage: Storage, experiment: Experiment
    ) -> None:
        await experiment.add_trials([new(1)])
        async with storage.experiment(experiment_id="o", tunables=TUNABLES, opt_targets=TARGETS):
            with pytest.raises(StorageError, match="'o' exists already"):
                await storage.rename_experiment("e", "o")
        for name in ("", " x", "a\nb", "x" * 256):
            with pytest.raises(ConfigError, match="expected a name of 1 to 255"):
                await storage.rename_experiment("e", name)
        with pytest.raises(NotFound, match="no experiment 'nobody'"):
            await storage.rename_experiment("nobody", "n")
        await storage.rename_experiment("e", "e")
        assert (await experiment.counts()).total == 1
