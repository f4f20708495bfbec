"""Who holds a trial, for how long, and what happens when the holder falls silent."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta

import anyio
import anyio.to_thread
import pytest

from tests.integration.engines import Lab, ScriptedEnv, forever, opened, scheduler, statuses
from windtunnel import NewTrial, RunResult, Status, StorageUnavailable, open_storage
from windtunnel.model import Trial, utc_now
from windtunnel.scheduling import leases
from windtunnel.storage import claiming

from .engines import OBJECTIVES, SPACE


async def test_a_trial_longer_than_five_leases_is_never_taken_by_another(url: str) -> None:
    lab, other = Lab(), Lab()
    lease = timedelta(milliseconds=600)
    async with opened(url) as experiment:

        async def run(_: ScriptedEnv) -> None:
            await anyio.sleep(5.5 * lease.total_seconds())

        lab.on_run = run
        async with anyio.create_task_group() as group:
            group.start_soon(scheduler(experiment, lab, trials=2, lease=lease).run)
            while lab.running < 2:
                await anyio.sleep(0.01)
            group.start_soon(scheduler(experiment, other, trials=2, lease=lease).run)
        found = [record async for record in experiment.trials()]
    assert other.steps("run") == []
    assert [(r.status, r.attempt) for r in found] == [(Status.SUCCEEDED, 1)] * 2


async def test_a_silent_workers_trials_are_run_again_and_its_late_word_is_refused(url: str) -> None:
    lab = Lab()
    async with opened(url) as experiment:
        await experiment.add_trials([NewTrial(tunables=SPACE)] * 3)
        held = await experiment.claim("elsewhere/1/1/x", limit=2, lease=timedelta(milliseconds=200))
        summary = await scheduler(experiment, lab, trials=3).run()
        found = [record async for record in experiment.trials()]
        assert summary.succeeded == 3
        assert [record.attempt for record in found] == [2, 2, 1]
        from windtunnel import StaleTrial

        with pytest.raises(StaleTrial):
            await experiment.finish(held[0], RunResult(Status.FAILED, utc_now(), None))
        assert (await statuses(experiment))[1] is Status.SUCCEEDED


async def test_a_scheduler_that_lost_a_lease_cancels_the_trial_and_stores_nothing_of_it(url: str) -> None:
    lab = Lab()
    lab.on_run = forever
    async with opened(url) as experiment:
        engine = scheduler(experiment, lab, trials=1, lease=timedelta(milliseconds=300))

        async def steal() -> None:
            while not lab.running:
                await anyio.sleep(0.005)
            claimed: list[Trial] = []
            while not claimed:  # its heartbeat may come in between
                assert list(await experiment.extend(engine.owner, lease=timedelta(0))) == [1]
                await anyio.sleep(0.001)
                claimed = await experiment.claim("thief/1/1/x", limit=1, lease=timedelta(minutes=1))
            (stolen,) = claimed
            while lab.steps("teardown") != [1]:
                await anyio.sleep(0.005)
            await experiment.finish(stolen, RunResult(Status.SUCCEEDED, utc_now(), {"score": 7}))

        async with anyio.create_task_group() as group:
            group.start_soon(steal)
            summary = await engine.run()
        record = await anext(experiment.trials())
    assert summary.succeeded == 1
    assert (record.metrics, record.attempt) == ({"score": 7}, 2)


async def test_when_heartbeats_fail_the_trial_is_cancelled_before_its_lease_ends(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab()
    lab.on_run = forever
    lease = timedelta(milliseconds=600)
    started: list[float] = []
    ended: list[float] = []

    def fail(*_args: object) -> list[dict[int, int]]:
        raise StorageUnavailable("the network is down")

    async def setup(_: ScriptedEnv) -> None:
        started.append(anyio.current_time())

    async def teardown(_: ScriptedEnv) -> None:
        ended.append(anyio.current_time())
        engine.stop()

    lab.on_setup, lab.on_teardown = setup, teardown
    async with opened(url) as experiment:
        monkeypatch.setattr(claiming, "extend", fail)
        engine = scheduler(experiment, lab, trials=1, lease=lease)
        await engine.run()
    assert ended[0] - started[0] < lease.total_seconds()


async def test_two_schedulers_share_an_experiment_and_its_budget(url: str) -> None:
    first, second = Lab(), Lab()
    async with opened(url) as one, opened(url) as two, anyio.create_task_group() as group:
        group.start_soon(scheduler(one, first, trials=60, slots=3).run)
        group.start_soon(scheduler(two, second, trials=60, slots=3).run)
    ran = first.steps("run") + second.steps("run")
    assert sorted(ran) == list(range(1, 61)), "exactly 60, none twice"
    async with opened(url) as experiment:
        assert (await experiment.counts()).succeeded == 60


def test_a_living_worker_on_this_machine_is_not_dead() -> None:
    assert not leases.certainly_dead(leases.new_owner())


def test_names_of_workers_never_repeat() -> None:
    assert leases.new_owner() != leases.new_owner()


def test_a_worker_whose_process_is_gone_is_dead() -> None:
    code = "from windtunnel.scheduling.leases import new_owner; print(new_owner())"
    owner = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert leases.certainly_dead(owner.strip())


def test_a_reused_process_number_does_not_keep_a_dead_worker_alive() -> None:
    machine, _pid, _started, rest = leases.new_owner().rsplit("/", 3)
    assert leases.certainly_dead(f"{machine}/{os.getpid()}/12345/{rest}")


@pytest.mark.parametrize("owner", ["", "me", "a/b/c", "elsewhere:1:2/1/1/x", "host/not-a-number/1/x"])
def test_a_worker_that_cannot_be_judged_may_be_alive(owner: str) -> None:
    assert not leases.certainly_dead(owner)


async def test_storage_of_one_experiment_serves_many_at_once(url: str) -> None:
    labs = [Lab() for _ in range(5)]
    async with open_storage(url) as storage, anyio.create_task_group() as group:

        async def one(number: int) -> None:
            async with storage.experiment(
                experiment_id=f"e{number}", tunables=SPACE, opt_targets=OBJECTIVES
            ) as experiment:
                summary = await scheduler(experiment, labs[number], trials=10).run()
                assert summary.succeeded == 10

        for number in range(5):
            group.start_soon(one, number)
    assert [len(lab.steps("run")) for lab in labs] == [10] * 5
