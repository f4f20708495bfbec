"""What becomes of a trial when its end and something else that goes wrong fall together."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import anyio
import pytest
from sqlalchemy import Connection

from tests.integration.engines import Alarm, Lab, ScriptedEnv, forever, opened, scheduler, statuses
from tests.integration.test_scheduler_pruning import Above
from tests.integration.test_scheduler_workers import until
from windtunnel import Experiment, FailureKind, Host, Status, StorageUnavailable, WindtunnelError
from windtunnel.environments import Environment
from windtunnel.errors import EnvironmentFailed
from windtunnel.events import TrialRetried
from windtunnel.model import Summary, Timeouts, Trial
from windtunnel.scheduling.policy import Retry
from windtunnel.storage import claiming
from windtunnel.storage.requests import Extension

LEASE = timedelta(seconds=1)
AT_ONCE = timedelta(0)


class Heartbeats:
    """Counts the heartbeats of the test's workers and lets them fail.

    :ivar down: none succeeds.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number = 0
        self.down = False
        self._genuine = claiming.extend
        monkeypatch.setattr(claiming, "extend", self._extend)

    def _extend(self, connection: Connection, extensions: Sequence[Extension]) -> list[dict[int, int]]:
        self.number += 1
        if self.down:
            raise StorageUnavailable("the network is down")
        return self._genuine(connection, extensions)


def refuse_once(monkeypatch: pytest.MonkeyPatch, method: str) -> anyio.Event:
    """Let the database not take the first call of ``method`` for trial 1; set when that has happened."""
    genuine, refused = getattr(Experiment, method), anyio.Event()

    async def call(self: Experiment, trial: Trial, *args: Any, **kwargs: Any) -> None:
        if trial.trial_id == 1 and not refused.is_set():
            refused.set()
            raise StorageUnavailable("it went away for a moment")
        await genuine(self, trial, *args, **kwargs)

    monkeypatch.setattr(Experiment, method, call)
    return refused


async def test_an_outcome_refused_once_is_kept_however_long_the_others_wind_up(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, beats = Lab(), Heartbeats(monkeypatch)
    refused = refuse_once(monkeypatch, "finish")

    async def run(env: ScriptedEnv) -> None:
        if env.trial_id == 2:
            await forever()
        await until(lambda: lab.running == 2, "both run")

    async def teardown(env: ScriptedEnv) -> None:
        if env.trial_id == 2:
            await refused.wait()
            then = beats.number  # the next tells that trial 1 is ours; a few more, and it would be given back
            await until(lambda: beats.number >= then + 4, "the heart beats on")

    lab.on_run, lab.on_teardown = run, teardown
    async with opened(url) as experiment:
        with pytest.raises(StorageUnavailable):
            await scheduler(experiment, lab, trials=2, slots=2, lease=LEASE / 3).run()
        record, story = await experiment.record_of(1), await experiment.story(1)
    assert (record.status, record.metrics) == (Status.SUCCEEDED, {"score": 0})
    assert [attempt.status for attempt in story.attempts] == [Status.SUCCEEDED]


async def test_a_retry_refused_once_is_a_retry_all_the_same(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab()
    refuse_once(monkeypatch, "retry")

    async def run(_: ScriptedEnv) -> None:
        raise EnvironmentFailed("it crashed")

    lab.on_run = run
    retries = {FailureKind.RUN: Retry(times=5, pause=AT_ONCE)}
    async with opened(url) as experiment:
        with pytest.raises(StorageUnavailable):
            await scheduler(experiment, lab, trials=1, retries=retries).run()
        record, story = await experiment.record_of(1), await experiment.story(1)
        assert (record.status, record.failure) == (Status.PENDING, None)
        assert [(one.status, one.reason) for one in story.attempts] == [(Status.FAILED, "it crashed")]
        summary = await scheduler(experiment, Lab(), trials=1, retries=retries).run()
        assert (summary.succeeded, (await experiment.record_of(1)).attempt) == (1, 2)


async def test_trials_are_cancelled_before_their_lease_ends_also_while_the_database_hangs(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, beats, hangs = Lab(), Heartbeats(monkeypatch), anyio.Event()
    lab.on_run = forever
    async with opened(url) as experiment:
        genuine = experiment.held_by

        async def held_by(owner: str) -> list[Trial]:
            if not hangs.is_set():
                hangs.set()
                await forever()
            return await genuine(owner)

        monkeypatch.setattr(experiment, "held_by", held_by)
        engine = scheduler(experiment, lab, trials=1, slots=1, lease=LEASE)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(engine.run)
            await until(lambda: lab.running == 1, "it runs")
            await experiment.enqueue({"x": 7})
            assert await experiment.claim(engine.owner, limit=1, lease=LEASE), "and nobody there knows of it"
            await until(hangs.is_set, "it is being given back")
            beats.down, since = True, anyio.current_time()
            await until(lambda: lab.steps("teardown") == [1], "it is cancelled")
            assert anyio.current_time() - since < LEASE.total_seconds()
            tasks.cancel_scope.cancel()
        assert await statuses(experiment) == {1: Status.PENDING, 2: Status.PENDING}


@pytest.mark.parametrize("retries", [{}, {FailureKind.RUN: Retry(times=2, pause=AT_ONCE)}])
async def test_a_pruned_run_that_answers_with_an_error_is_pruned(
    url: str, retries: dict[FailureKind, Retry]
) -> None:
    lab = Lab()

    async def run(env: ScriptedEnv) -> None:
        await env.emit("load", 11)
        try:
            await forever()
        except anyio.get_cancelled_exc_class() as exc:
            raise OSError("connection closed") from exc

    lab.on_run = run
    async with opened(url) as experiment:
        pruner = Above(scores={"score": 99.0})
        summary = await scheduler(experiment, lab, trials=1, pruner=pruner, retries=retries).run()
        record = await experiment.record_of(1)
    assert (summary.canceled, summary.failed) == (1, 0)
    assert (record.status, record.failure) == (Status.CANCELED, "aborted: load 11 is above 10")
    assert (record.metrics, record.attempt) == ({"score": 99.0}, 1)


async def test_an_error_before_the_verdict_is_a_failure_though_there_is_a_pruner(url: str) -> None:
    lab = Lab()

    async def run(env: ScriptedEnv) -> None:
        await env.emit("load", 5)
        raise OSError("no space left")

    lab.on_run = run
    async with opened(url) as experiment:
        await scheduler(experiment, lab, trials=1, pruner=Above()).run()
        record = await experiment.record_of(1)
    assert record.status is Status.FAILED
    assert (record.failure or "").startswith("OSError: no space left")


async def test_after_the_time_budget_a_trial_that_waits_for_its_host_goes_back(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, b_is_free, budget = Lab(), anyio.Event(), Alarm(monkeypatch, "_close_after")

    async def run(env: ScriptedEnv) -> None:
        if env.parameters["host"] == "b":
            await b_is_free.wait()

    lab.on_run = run
    summaries: list[Summary] = []
    async with opened(url) as experiment, anyio.create_task_group() as tasks:
        engine = scheduler(
            experiment, lab, trials=4, repeats=2, hosts=[Host(name="a"), Host(name="b")], time_budget=LEASE
        )
        events = engine.events()

        async def conduct() -> None:
            summaries.append(await engine.run())

        def waiting() -> list[int]:
            return [one.trial_id for one in engine.snapshot().running if one.step == "waiting"]

        tasks.start_soon(conduct)
        # Each configuration runs once on a; of its other runs one has b, and one has to wait for b.
        await until(lambda: (len(lab.steps("teardown")), len(waiting())) == (2, 1), "it waits for b")
        (late,) = waiting()
        await budget.ring()
        b_is_free.set()
    async with opened(url) as experiment:
        record = await experiment.record_of(late)
    (retried,) = [event for event in events.drain() if isinstance(event, TrialRetried)]
    assert late not in lab.steps("setup"), "it does not begin"
    assert (record.status, retried.trial.trial_id) == (Status.PENDING, late)
    assert (summaries[0].succeeded, summaries[0].pending, summaries[0].canceled) == (3, 1, 0)
    assert summaries[0].stopped_by == "time_budget"


async def test_what_the_experiments_time_limit_ended_is_not_retried(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, limit = Lab(), Alarm(monkeypatch, "_cancel_after")
    lab.on_run = forever
    async with opened(url) as experiment, anyio.create_task_group() as tasks:
        engine = scheduler(
            experiment,
            lab,
            trials=2,
            retries={FailureKind.TIMEOUT: Retry(times=2, pause=AT_ONCE)},
            timeouts=Timeouts(experiment=LEASE),
        )
        tasks.start_soon(engine.run)
        await until(lambda: lab.running == 2, "both run")
        await limit.ring()
    async with opened(url) as experiment:
        assert await statuses(experiment) == {1: Status.TIMED_OUT, 2: Status.TIMED_OUT}
    assert engine.snapshot().retried == 0


async def test_a_scheduler_runs_once(url: str) -> None:
    made = 0
    lab = Lab()

    def make(host: Host, runner_id: int) -> Environment:
        nonlocal made
        made += 1
        return lab.make(host, runner_id)

    async with opened(url) as experiment:
        engine = scheduler(experiment, lab, trials=1, make_environment=make)
        assert (await engine.run()).succeeded == 1
        with pytest.raises(WindtunnelError, match="runs once; make another"):
            await engine.run()
        assert (engine.snapshot().state, made) == ("ended", 1)
