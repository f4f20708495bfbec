"""The part of the storage's contract that is about the queue: adding, claiming, leases."""

from __future__ import annotations

from datetime import datetime, timedelta

import anyio
import pytest

from windtunnel.errors import StaleTrial
from windtunnel.model import NewTrial, Status, Trial, Value
from windtunnel.storage import INTERRUPTED, Experiment
from windtunnel.testing.storage_fixtures import (
    LEASE,
    TUNABLES,
    Clock,
    StorageFixtures,
    at,
    claim_one,
    ended,
    new,
)

__all__ = ["ClaimContract"]


def _ids(trials: list[Trial]) -> list[int]:
    return [trial.trial_id for trial in trials]


class ClaimContract(StorageFixtures):
    """Trials wait, are claimed by one owner at a time, and come back when the lease is over."""

    # Adding

    async def test_trials_are_numbered_from_1_in_order(self, experiment: Experiment) -> None:
        first = await experiment.add_trials([new(5), new(6)])
        second = await experiment.add_trials([new(7)])
        assert _ids(first + second) == [1, 2, 3]
        assert [trial.tunables["size"] for trial in first + second] == [5, 6, 7]
        assert {trial.status for trial in first} == {Status.PENDING}

    async def test_adding_nothing_adds_nothing(self, experiment: Experiment) -> None:
        assert await experiment.add_trials([]) == []
        assert (await experiment.counts()).total == 0

    async def test_equal_configurations_share_an_id(self, experiment: Experiment) -> None:
        first, again, other = await experiment.add_trials([new(5), new(5), new(6)])
        (later,) = await experiment.add_trials([new(5)])
        assert first.config_id == again.config_id == later.config_id != other.config_id

    async def test_parameters_travel_with_the_trial(self, experiment: Experiment) -> None:
        parameters: dict[str, Value] = {"whole": 2**60, "text": "naïve ✓", "ratio": 0.5, "none": None}
        await experiment.add_trials([NewTrial(tunables=TUNABLES, parameters=parameters)])
        assert (await claim_one(experiment)).parameters == parameters

    async def test_a_naive_start_is_refused_and_nothing_is_added(self, experiment: Experiment) -> None:
        with pytest.raises(ValueError, match="with a zone"):
            await experiment.add_trials([new(), new(not_before=datetime(2030, 1, 1))])  # noqa: DTZ001
        assert (await experiment.counts()).total == 0

    async def test_no_more_than_at_most_are_ever_added(self, experiment: Experiment) -> None:
        assert _ids(await experiment.add_trials([new()] * 3, at_most=5)) == [1, 2, 3]
        assert _ids(await experiment.add_trials([new()] * 3, at_most=5)) == [4, 5]
        assert _ids(await experiment.add_trials([new()] * 3, at_most=5)) == []
        assert _ids(await experiment.add_trials([new()], at_most=6)) == [6]

    async def test_at_most_holds_over_all_who_add(self, experiment: Experiment) -> None:
        added: list[int] = []

        async def add() -> None:
            added.extend(_ids(await experiment.add_trials([new()] * 3, at_most=20)))

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(add)
        assert sorted(added) == list(range(1, 21))
        assert (await experiment.counts()).pending == 20

    async def test_very_many_at_once(self, experiment: Experiment) -> None:
        added = await experiment.add_trials([new(i) for i in range(3000)])
        assert _ids(added) == list(range(1, 3001))
        claimed = await experiment.claim("w1", limit=3000, lease=LEASE)
        assert [trial.tunables["size"] for trial in claimed] == list(range(3000))

    # Claiming

    async def test_the_highest_priority_and_then_the_oldest_comes_first(self, experiment: Experiment) -> None:
        await experiment.add_trials([new(), new(priority=5), new(priority=-1), new(priority=5), new()])
        assert _ids(await experiment.claim("w1", limit=3, lease=LEASE)) == [2, 4, 1]
        assert _ids(await experiment.claim("w1", limit=9, lease=LEASE)) == [5, 3]
        assert await experiment.claim("w1", limit=9, lease=LEASE) == []

    @pytest.mark.parametrize("limit", [0, -1])
    async def test_claiming_none_gives_none(self, experiment: Experiment, limit: int) -> None:
        await experiment.add_trials([new()])
        assert await experiment.claim("w1", limit=limit, lease=LEASE) == []

    async def test_a_claimed_trial_is_running_and_has_what_it_needs(self, experiment: Experiment) -> None:
        await experiment.add_trials([new(42)])
        trial = await claim_one(experiment, "w7")
        assert (trial.status, trial.owner, trial.attempt, trial.token) == (Status.RUNNING, "w7", 1, 1)
        assert (trial.experiment_id, trial.tunables["size"]) == (experiment.experiment_id, 42)
        assert (await experiment.counts()).running == 1

    async def test_a_trial_is_not_claimed_before_its_time(self, experiment: Experiment, clock: Clock) -> None:
        await experiment.add_trials([new(not_before=at(10)), new(priority=-1)])
        assert _ids(await experiment.claim("w1", limit=9, lease=LEASE)) == [2]
        clock.advance(timedelta(seconds=10))
        assert _ids(await experiment.claim("w1", limit=9, lease=LEASE)) == [1]

    async def test_many_claimers_share_without_overlap(self, experiment: Experiment) -> None:
        await experiment.add_trials([new(i) for i in range(100)])
        got: list[int] = []

        async def work(owner: str) -> None:
            while trials := await experiment.claim(owner, limit=3, lease=LEASE):
                got.extend(_ids(trials))

        async with anyio.create_task_group() as tasks:
            for i in range(8):
                tasks.start_soon(work, f"w{i}")
        assert sorted(got) == list(range(1, 101))

    # Leases

    async def test_an_expired_lease_goes_to_another_as_a_new_attempt(
        self, experiment: Experiment, clock: Clock
    ) -> None:
        await experiment.add_trials([new()])
        old = await claim_one(experiment, "w1")
        clock.advance(LEASE)
        assert await experiment.claim("w2", limit=1, lease=LEASE) == []  # it ends at this instant, not before
        clock.advance(timedelta(microseconds=1))
        trial = await claim_one(experiment, "w2")
        assert (trial.trial_id, trial.attempt, trial.owner) == (old.trial_id, 2, "w2")
        assert trial.token > old.token

    async def test_ones_own_expired_lease_is_not_claimed_again(
        self, experiment: Experiment, clock: Clock
    ) -> None:
        await experiment.add_trials([new()])
        trial = await claim_one(experiment, "w1")
        clock.advance(2 * LEASE)
        assert await experiment.claim("w1", limit=1, lease=LEASE) == []
        assert await experiment.extend("w1", lease=LEASE) == {trial.trial_id: trial.token}

    async def test_extending_keeps_all_trials_of_the_owner(
        self, experiment: Experiment, clock: Clock
    ) -> None:
        await experiment.add_trials([new()] * 3)
        mine = await experiment.claim("w1", limit=2, lease=LEASE)
        await claim_one(experiment, "other")
        for _ in range(5):
            clock.advance(LEASE * 0.9)
            held = await experiment.extend("w1", lease=LEASE)
            assert held == {trial.trial_id: trial.token for trial in mine}
        assert _ids(await experiment.claim("w2", limit=9, lease=LEASE)) == [3]

    async def test_extending_tells_which_trials_were_lost(self, experiment: Experiment, clock: Clock) -> None:
        await experiment.add_trials([new()] * 2)
        first, second = await experiment.claim("w1", limit=2, lease=LEASE)
        clock.advance(2 * LEASE)
        assert _ids(await experiment.claim("w2", limit=1, lease=LEASE)) == [first.trial_id]
        # The other one went back to the queue at the same time: the silent worker has lost both.
        assert await experiment.extend("w1", lease=LEASE) == {}
        assert _ids(await experiment.claim("w1", limit=1, lease=LEASE)) == [second.trial_id]

    async def test_extending_with_nothing_held_is_fine(self, experiment: Experiment) -> None:
        assert await experiment.extend("nobody", lease=LEASE) == {}

    async def test_a_released_trial_is_queued_again(self, experiment: Experiment) -> None:
        await experiment.add_trials([new(), new()])
        trial = await claim_one(experiment)
        await experiment.release(trial, reason="its host was lost")
        again = await claim_one(experiment, "w2")
        assert (again.trial_id, again.attempt) == (trial.trial_id, 2)
        with pytest.raises(StaleTrial):
            await experiment.release(trial, reason="twice")
        assert (await experiment.counts()).running == 1

    async def test_a_released_trial_shows_nothing_of_its_attempt(self, experiment: Experiment) -> None:
        await experiment.add_trials([new()])
        await experiment.release(await claim_one(experiment), reason="why not")
        (record,) = [record async for record in experiment.trials()]
        assert (record.status, record.started, record.host) == (Status.PENDING, None, None)

    async def test_the_token_grows_with_every_claim(self, experiment: Experiment) -> None:
        await experiment.add_trials([new()])
        tokens = []
        for _ in range(4):
            trial = await claim_one(experiment)
            tokens.append((trial.attempt, trial.token))
            await experiment.release(trial, reason="again")
        assert tokens == sorted(set(tokens))

    # Picking up after an earlier session

    async def test_recover_queues_the_trials_of_dead_workers_only(self, experiment: Experiment) -> None:
        await experiment.add_trials([new()] * 3)
        dead = await claim_one(experiment, "dead")
        alive = await claim_one(experiment, "alive")
        assert await experiment.recover(lambda owner: owner == "dead") == 1
        assert _ids(await experiment.claim("w3", limit=9, lease=LEASE)) == [dead.trial_id, 3]
        assert await experiment.extend("alive", lease=LEASE) == {alive.trial_id: alive.token}

    async def test_recover_queues_interrupted_trials_and_no_others(self, experiment: Experiment) -> None:
        await experiment.add_trials([new()] * 3)
        trials = await experiment.claim("w1", limit=3, lease=LEASE)
        canceled = ended(status=Status.CANCELED)
        await experiment.finish(trials[0], canceled, failure=INTERRUPTED, host="h1")
        await experiment.finish(trials[1], canceled, failure="the user canceled it")
        await experiment.finish(trials[2], ended())
        assert await experiment.recover(lambda _owner: False) == 1
        (waiting,) = [r async for r in experiment.trials() if r.status is Status.PENDING]
        assert (waiting.trial_id, waiting.failure, waiting.host, waiting.ended) == (1, None, None, None)
        assert (await claim_one(experiment)).attempt == 2
        with pytest.raises(StaleTrial):
            await experiment.finish(trials[0], canceled, failure=INTERRUPTED)

    async def test_recover_with_nothing_left_behind(self, experiment: Experiment) -> None:
        assert await experiment.recover(lambda _owner: True) == 0
