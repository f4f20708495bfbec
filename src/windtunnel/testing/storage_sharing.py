"""The part of the storage's contract that is about several workers: who leads, and what others did."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import timedelta
from functools import partial
from typing import Any

import anyio
import pytest

from windtunnel.errors import ConfigError, NotFound, NotLeading, ResultsInvalid, StaleTrial, StorageError
from windtunnel.model import FailureKind, RunResult, Status, Trial
from windtunnel.storage import INTERRUPTED, Experiment, Storage, leading
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

__all__ = ["SharingContract"]

_MOMENT = timedelta(microseconds=1)


def nobody(_owner: str) -> bool:
    return False


async def fail(
    trial: Trial, experiment: Experiment, kind: FailureKind = FailureKind.RUN, **more: Any
) -> None:
    await experiment.retry(trial, status=Status.FAILED, reason="it broke", kind=kind, **more)


class SharingContract(StorageFixtures):
    """Workers take turns, learn of each other's trials, and try again what failed."""

    # Trying again

    async def test_a_failed_attempt_is_tried_again_after_its_pause(
        self, experiment: Experiment, clock: Clock
    ) -> None:
        await experiment.add_trials([new()])
        trial = await claim_one(experiment)
        await experiment.record(trial, [point(1, "m", 1.0)])
        await experiment.retry(
            trial,
            status=Status.TIMED_OUT,
            reason="slow \udcff\0",
            kind=FailureKind.TIMEOUT,
            host="h1",
            after=timedelta(seconds=10),
        )
        clock.advance(timedelta(seconds=10) - _MOMENT)
        assert await experiment.claim("w2", limit=1, lease=LEASE) == []
        assert (await experiment.record_of(1)).host is None
        clock.advance(_MOMENT)
        again = await claim_one(experiment, "w2")
        assert (again.attempt, again.token > trial.token) == (2, True)
        await experiment.finish(
            again, ended(status=Status.FAILED), failure="broke", host="h2", kind=FailureKind.RUN
        )
        first, last = (await experiment.story(1)).attempts
        assert (first.status, first.kind, first.host) == (Status.TIMED_OUT, FailureKind.TIMEOUT, "h1")
        assert (first.owner, first.reason, first.ended, first.points) == ("w1", "slow ?\ufffd", at(0), 1)
        assert (last.status, last.kind, last.host) == (Status.FAILED, FailureKind.RUN, "h2")

    async def test_an_attempt_ends_once(self, experiment: Experiment) -> None:
        await experiment.add_trials([new()])
        trial = await claim_one(experiment)
        await fail(trial, experiment)
        with pytest.raises(StaleTrial):
            await fail(trial, experiment)
        with pytest.raises(StaleTrial):
            await experiment.finish(trial, ended())
        assert (await experiment.counts()).pending == 1

    @pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.CANCELED, Status.PENDING])
    async def test_only_a_failure_is_tried_again(self, experiment: Experiment, status: Status) -> None:
        await experiment.add_trials([new()])
        trial = await claim_one(experiment)
        with pytest.raises(ResultsInvalid, match=f"FAILED or TIMED_OUT .* trial 1 .* found {status.name}"):
            await experiment.retry(trial, status=status, reason="", kind=FailureKind.RUN)
        await experiment.finish(trial, ended())  # it is still ours

    async def test_a_released_trial_may_have_to_wait(self, experiment: Experiment, clock: Clock) -> None:
        await experiment.add_trials([new()])
        await experiment.release(await claim_one(experiment), reason="no host", after=timedelta(seconds=5))
        assert await experiment.claim("w1", limit=1, lease=LEASE) == []
        clock.advance(timedelta(seconds=5))
        assert (await claim_one(experiment)).attempt == 2

    async def test_failed_attempts_are_counted_by_kind(self, experiment: Experiment, clock: Clock) -> None:
        await experiment.add_trials([new(), new()])
        other = (await experiment.claim("w1", limit=2, lease=LEASE))[1]
        await fail(other, experiment, FailureKind.RESULTS)
        clock.advance(2 * LEASE)  # w1 falls silent with trial 1
        for kind in (FailureKind.SETUP, FailureKind.RUN, FailureKind.SETUP):
            (trial, waiting) = await experiment.claim("w2", limit=2, lease=LEASE)
            await fail(trial, experiment, kind)
            await experiment.release(waiting, reason="not now")
        assert await experiment.failed_attempts(1) == Counter(setup=2, run=1)
        assert await experiment.failed_attempts(2) == {FailureKind.RESULTS: 1}
        assert await experiment.failed_attempts(99) == Counter()

    # The optimizer's lease

    async def test_of_many_at_once_one_leads(self, experiment: Experiment) -> None:
        led: dict[str, bool] = {}

        async def take(owner: str) -> None:
            led[owner] = await experiment.lead(owner, lease=LEASE, is_dead=nobody)

        for _ in range(2):  # the second time for the one who has it already
            async with anyio.create_task_group() as tasks:
                for number in range(10):
                    tasks.start_soon(take, f"w{number}")
            assert sum(led.values()) == 1

    async def test_the_lease_moves_when_it_expires(
        self, storage: Storage, experiment: Experiment, clock: Clock
    ) -> None:
        lease_us = LEASE // _MOMENT
        write, key = storage._database.write, experiment._key  # noqa: SLF001 - as heartbeats do
        assert await experiment.lead("w1", lease=LEASE, is_dead=nobody)
        clock.advance(LEASE)
        assert await write(leading.renew, key, "w1", lease_us)
        assert not await write(leading.renew, key, "w2", lease_us)
        clock.advance(LEASE)
        assert not await experiment.lead("w2", lease=LEASE, is_dead=nobody)
        clock.advance(_MOMENT)
        assert await experiment.lead("w2", lease=LEASE, is_dead=nobody)
        assert not await write(leading.renew, key, "w1", lease_us)

    async def test_the_lease_of_a_dead_worker_is_taken_at_once(self, experiment: Experiment) -> None:
        asked: list[tuple[str, bool]] = []

        def is_dead(owner: str) -> bool:
            asked.append((owner, threading.current_thread() is threading.main_thread()))
            return owner == "w1"

        assert await experiment.lead("w1", lease=LEASE, is_dead=is_dead)
        assert await experiment.lead("w2", lease=LEASE, is_dead=is_dead)
        assert not await experiment.lead("w3", lease=LEASE, is_dead=is_dead)
        assert asked == [("w1", False), ("w2", False)]

    async def test_who_resigns_makes_room(self, experiment: Experiment) -> None:
        assert await experiment.lead("w1", lease=LEASE, is_dead=nobody)
        await experiment.resign("w2")
        assert not await experiment.lead("w2", lease=LEASE, is_dead=nobody)
        await experiment.resign("w1")
        assert await experiment.lead("w2", lease=LEASE, is_dead=nobody)

    async def test_recover_frees_the_lease_of_a_dead_worker(self, experiment: Experiment) -> None:
        assert await experiment.lead("w1", lease=LEASE, is_dead=nobody)
        assert await experiment.recover(lambda owner: owner == "w1") == 0
        assert await experiment.lead("w2", lease=LEASE, is_dead=nobody)

    async def test_each_experiment_has_a_leader_of_its_own(
        self, storage: Storage, experiment: Experiment
    ) -> None:
        assert await experiment.lead("w1", lease=LEASE, is_dead=nobody)
        async with storage.experiment(experiment_id="o", tunables=TUNABLES, opt_targets=TARGETS) as other:
            assert await other.lead("w2", lease=LEASE, is_dead=nobody)
        with pytest.raises(StorageError, match="nobody runs, found it led by 'w2'"):
            await storage.delete_experiment("o")
        await storage.delete_experiment("o", is_dead=lambda owner: owner == "w2")
        assert not await experiment.lead("w2", lease=LEASE, is_dead=nobody)

    async def test_suggestions_of_one_who_leads_no_more_are_refused(self, experiment: Experiment) -> None:
        added: dict[str | None, list[int]] = {}

        async def add(leader: str | None) -> None:
            trials = await experiment.add_trials([new(1), new(2)], suggested=2, leader=leader)
            added[leader] = [trial.trial_id for trial in trials]

        async def add_in_vain(leader: str | None) -> None:
            with pytest.raises(NotLeading):
                await add(leader)

        await add_in_vain("w1")
        assert await experiment.lead("w1", lease=LEASE, is_dead=nobody)
        await add("w1")
        await experiment.resign("w1")
        assert await experiment.lead("w2", lease=LEASE, is_dead=nobody)
        async with anyio.create_task_group() as tasks:  # in one transaction, as far as the writer can
            for act, leader in ((add_in_vain, "w1"), (add, "w2"), (add_in_vain, "w3"), (add, None)):
                tasks.start_soon(act, leader)
        assert added["w1"] == [1, 2]
        assert sorted([*added["w2"], *added[None]]) == [3, 4, 5, 6], "no number is lost"
        assert await experiment.backlog("w2") == (6, 6, 6, 0), "nor do they count as suggested"

    async def test_who_leads_another_experiment_suggests_nothing_here(
        self, storage: Storage, experiment: Experiment
    ) -> None:
        async with storage.experiment(experiment_id="o", tunables=TUNABLES, opt_targets=TARGETS) as other:
            assert await other.lead("w1", lease=LEASE, is_dead=nobody)
            with pytest.raises(NotLeading):
                await experiment.add_trials([new()], leader="w1")
            assert await other.add_trials([new()], leader="w1")

    # The description

    async def test_the_description_is_kept_for_other_workers(
        self, storage: Storage, experiment: Experiment
    ) -> None:
        assert await experiment.stored_description() is None
        for text in ('{"old": 1}', '{"größe": "' + "ü" * 70_000 + '"}'):
            await experiment.describe(text)
            assert await (await storage.open_experiment("e")).stored_description() == text

    # What others did

    async def test_one_trial_is_read_alone(self, experiment: Experiment) -> None:
        await experiment.add_trials([new(1), new(2)])
        await experiment.finish(await claim_one(experiment), ended(7.0))
        assert (await experiment.record_of(1)).metrics == {"score": 7.0}
        assert (await experiment.record_of(2)).status is Status.PENDING
        with pytest.raises(NotFound, match="no trial 3"):
            await experiment.record_of(3)

    async def test_outcomes_of_trials_that_have_one(self, experiment: Experiment) -> None:
        await experiment.add_trials([new(i) for i in range(9)])
        statuses = [Status.SUCCEEDED, Status.FAILED, Status.CANCELED, Status.TIMED_OUT, Status.SUCCEEDED]
        trials = await experiment.claim("w1", limit=8, lease=LEASE)
        for trial, status in zip(trials[:5], statuses, strict=True):
            await experiment.finish(trial, ended(float(trial.trial_id), status=status))
        interrupted = ended(7.0, status=Status.CANCELED)
        await experiment.finish(trials[6], interrupted, failure=INTERRUPTED)  # will be queued again
        # Trials 6 and 8 run, trial 9 waits.
        told = await experiment.outcomes([5, 1, 3, 6, 7, 8, 9, 99])
        assert [one.trial_id for one in told] == [1, 3, 5]
        assert [one.config["size"] for one in told] == [0, 2, 4]
        assert [one.metrics for one in told] == [{"score": 1.0}, None, {"score": 5.0}]
        assert [one.status for one in told] == [statuses[0], statuses[2], statuses[4]]
        assert [one.trial_id for one in await experiment.outcomes(range(2000))] == [1, 2, 3, 4, 5]
        assert await experiment.outcomes([]) == []

    async def test_a_backlog_tells_what_waits_and_what_others_want(self, experiment: Experiment) -> None:
        assert await experiment.backlog("w1") == (0, 0, 0, 0)
        await experiment.add_trials([new(i) for i in range(5)], suggested=5)
        await experiment.add_trials([new(i) for i in range(3)], at_most=6, suggested=1)
        await experiment.claim("w1", limit=2, lease=LEASE)
        for owner, number in (("w1", 7), ("w2", 1), ("w3", 2)):
            await experiment.begin_session(owner, {})
            await experiment.want(owner, number, lasting=LEASE)
        assert await experiment.backlog("w1") == (6, 4, 6, 3)
        await experiment.want("w3", 0, lasting=LEASE)
        await experiment.want("w2", 9, lasting=timedelta(0))
        assert await experiment.backlog("w1") == (6, 4, 6, 0)

    async def test_an_attempt_tells_what_its_host_was_when_it_ended(self, experiment: Experiment) -> None:
        for owner, host, since, boot in (
            ("w1", "h1", 0, "first"),
            ("w1", "h1", 5, "second"),
            ("w1", "h2", 0, "another host"),
            ("w2", "h1", 1, "another worker"),
        ):
            await experiment.note_host(owner, host, {"boot_id": boot, "cpus": 2}, since=at(since))
        await experiment.add_trials([new(i) for i in range(4)])
        before, after, elsewhere, again = await experiment.claim("w1", limit=4, lease=LEASE)
        await experiment.finish(before, ended(seconds=4), host="h1")
        await experiment.finish(after, ended(seconds=5), host="h1")
        await experiment.finish(elsewhere, ended(seconds=9), host="h3")
        await fail(again, experiment, host="h2")
        told = {i: (await experiment.story(i)).attempts[0].host_facts for i in range(1, 5)}
        assert told[1] == {"boot_id": "first", "cpus": 2}
        assert told[2] == {"boot_id": "second", "cpus": 2}
        assert told[3] == {}
        assert told[4] == {"boot_id": "another host", "cpus": 2}

    async def test_hosts_of_configurations(self, experiment: Experiment) -> None:
        added = await experiment.add_trials([new(1), new(1), new(2), new(3), new(4)])
        one, again, two, three, _ = await experiment.claim("w1", limit=5, lease=LEASE)
        await experiment.finish(one, ended(), host="h1")
        await fail(again, experiment, host="h2")
        await experiment.finish(two, ended(status=Status.CANCELED), host="h1")
        await experiment.finish(three, ended())
        hosts = await experiment.hosts_of([trial.config_id for trial in added[:4]])
        assert hosts == {
            one.config_id: {"h1", "h2"},
            two.config_id: {"h1"},
            three.config_id: frozenset(),
        }
        assert await experiment.hosts_of([]) == {}

    async def test_runs_are_the_trials_with_a_score(self, experiment: Experiment) -> None:
        assert await experiment.runs() == []
        await experiment.add_trials([new(i % 2) for i in range(4)])
        trials = await experiment.claim("w1", limit=4, lease=LEASE)
        await experiment.finish(trials[2], ended(3.0))
        await experiment.finish(trials[0], ended(1.0), host="h1")
        await experiment.finish(trials[1], RunResult(Status.FAILED, at(1), {"score": 2.0}))
        await experiment.finish(trials[3], ended("no number"))
        first, third = await experiment.runs()
        assert first == (1, trials[0].config_id, "h1", 1.0)
        assert third == (3, trials[0].config_id, None, 3.0)

    @pytest.mark.parametrize(
        ("direction", "best"),
        [
            ("min", {"mean": 5, "median": 1, "min": 1, "max": 5, "worst_host": 6}),
            ("max", {"mean": 3, "median": 7, "min": 4, "max": 3, "worst_host": 3}),
        ],
    )
    async def test_the_best_by_other_aggregates_than_the_mean(
        self, storage: Storage, direction: Any, best: dict[Any, int]
    ) -> None:
        runs = [
            *[(1, "h1", 0.0), (1, "h1", 2.0), (1, "h1", 100.0)],
            *[(2, "h1", 4.5), (2, "h2", 3.0)],
            *[(3, "h1", 1.0), (3, "h1", 7.0), (3, "h2", 4.2)],
        ]
        async with storage.experiment(
            experiment_id="d", tunables=TUNABLES, opt_targets={"score": direction}
        ) as experiment:
            assert await experiment.best("median") is None
            await experiment.add_trials([new(size) for size, *_ in runs])
            trials = await experiment.claim("w1", limit=len(runs), lease=LEASE)
            async with anyio.create_task_group() as tasks:
                for trial, (_, host, score) in zip(trials, runs, strict=True):
                    tasks.start_soon(partial(experiment.finish, trial, ended(score), host=host))
            found = {aggregate: await experiment.best(aggregate) for aggregate in best}
        assert {aggregate: one and one.trial_id for aggregate, one in found.items()} == best

    async def test_an_unknown_aggregate_is_refused(self, experiment: Experiment) -> None:
        wrong: Any = "p99"
        with pytest.raises(ConfigError, match="expected one of mean, median, min, max, worst_host, found"):
            await experiment.best(wrong)

    # Deleting

    async def test_the_key_of_a_deleted_experiment_is_not_given_again(self, storage: Storage) -> None:
        """Merged trials are known by it."""
        keys = []
        for name in ("a", "b"):
            async with storage.experiment(
                experiment_id=name, tunables=TUNABLES, opt_targets=TARGETS
            ) as experiment:
                keys.append(experiment._key)  # noqa: SLF001 - a key has no other face
            await storage.delete_experiment(name)
        assert keys[1] > keys[0]
