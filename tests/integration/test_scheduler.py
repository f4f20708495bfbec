"""The scheduler on a real database."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import anyio
import pytest

from tests.integration.engines import (
    SPACE,
    Counting,
    Lab,
    Learning,
    PolledEnv,
    ScriptedEnv,
    forever,
    opened,
    scheduler,
    statuses,
)
from windtunnel import ConfigError, EnvironmentFailed, NewTrial, OptimizerError, Status, Timeouts
from windtunnel.events import (
    EventsDropped,
    StepStarted,
    TelemetryRecorded,
    TrialAdded,
    TrialClaimed,
    TrialFinished,
    TrialStarted,
)
from windtunnel.model import utc_now

SHORT = timedelta(milliseconds=50)


async def test_runs_exactly_as_many_trials_as_asked_for(url: str) -> None:
    lab = Lab()
    async with opened(url) as experiment:
        summary = await scheduler(experiment, lab, trials=23, slots=4).run()
        found = [record async for record in experiment.trials()]
    assert (summary.trials, summary.succeeded, summary.pending, summary.running) == (23, 23, 0, 0)
    assert [record.config["x"] for record in found] == list(range(23))
    assert sorted(lab.steps("run")) == list(range(1, 24)), "each once"
    assert sorted(lab.steps("teardown")) == list(range(1, 24)), "each torn down"
    assert summary.best is not None
    assert (summary.best.trial_id, summary.best.metrics) == (1, {"score": 0})


async def test_slots_are_filled_and_never_overfilled(url: str) -> None:
    lab = Lab()
    full = anyio.Event()

    async def wait_for_company(_: ScriptedEnv) -> None:
        if lab.running == 5:
            full.set()
        await full.wait()

    lab.on_run = wait_for_company
    async with opened(url) as experiment:
        summary = await scheduler(experiment, lab, trials=50, slots=5).run()
    assert summary.succeeded == 50
    assert lab.most_running == 5


async def test_repeats_run_each_configuration_so_often_and_count_as_trials(url: str) -> None:
    async with opened(url) as experiment:
        summary = await scheduler(experiment, Lab(), trials=7, repeats=3).run()
        configs = [record.config_id async for record in experiment.trials()]
    assert summary.trials == 7
    assert sorted(configs.count(c) for c in set(configs)) == [1, 3, 3]


async def test_one_failing_trial_is_recorded_with_its_reason_and_disturbs_nobody(url: str) -> None:
    lab = Lab()

    async def run(env: ScriptedEnv) -> Mapping[str, Any] | None:
        if env.trial_id == 2:
            raise EnvironmentFailed("the disk is on fire")
        if env.trial_id == 3:
            raise ZeroDivisionError("a bug")
        if env.trial_id == 4:
            return {"other": 1}
        return None

    lab.on_run = run
    async with opened(url) as experiment:
        summary = await scheduler(experiment, lab, trials=6).run()
        failures = {r.trial_id: r.failure async for r in experiment.trials() if r.status is Status.FAILED}
    assert (summary.succeeded, summary.failed) == (3, 3)
    assert failures[2] == "the disk is on fire"
    assert failures[3] is not None
    assert failures[3].startswith("ZeroDivisionError: a bug (")
    assert __file__ in failures[3], "it says where"
    assert failures[4] == "the run gave no objective 'score'; it gave 'other'"
    assert sorted(lab.steps("teardown")) == [1, 2, 3, 4, 5, 6]


async def test_a_failed_setup_fails_the_trial_and_is_torn_down(url: str) -> None:
    lab = Lab()

    async def setup(env: ScriptedEnv) -> None:
        if env.trial_id == 1:
            raise EnvironmentFailed("no such port")

    lab.on_setup = setup
    async with opened(url) as experiment:
        summary = await scheduler(experiment, lab, trials=3, slots=1).run()
        first = await anext(experiment.trials())
    assert (first.status, first.failure) == (Status.FAILED, "no such port")
    assert summary.succeeded == 2
    assert lab.steps("run") == [2, 3]
    assert lab.steps("teardown") == [1, 2, 3]


@pytest.mark.parametrize("step", ["setup", "run", "trial"])
async def test_a_step_that_takes_too_long_times_out_and_is_torn_down(url: str, step: str) -> None:
    lab = Lab()
    if step == "setup":
        lab.on_setup = forever
    else:
        lab.on_run = forever
    async with opened(url) as experiment:
        summary = await scheduler(experiment, lab, trials=2, timeouts=Timeouts(**{step: SHORT})).run()
        found = [record async for record in experiment.trials()]
    assert [record.status for record in found] == [Status.TIMED_OUT, Status.TIMED_OUT]
    assert summary.failed == 2
    assert found[0].failure is not None
    assert f"{step} was stopped after its time limit of 0.05 s" in found[0].failure
    assert sorted(lab.steps("teardown")) == [1, 2]


async def test_a_teardown_that_hangs_is_cut_off_and_the_outcome_stands(url: str) -> None:
    lab = Lab()
    lab.on_teardown = forever
    async with opened(url) as experiment:
        summary = await scheduler(experiment, lab, trials=2, timeouts=Timeouts(teardown=SHORT)).run()
    assert summary.succeeded == 2


async def test_stop_lets_teardown_finish_records_canceled_and_resume_runs_the_rest(url: str) -> None:
    lab = Lab()
    running = anyio.Event()

    async def run(_: ScriptedEnv) -> None:
        if lab.running == 3:
            running.set()
        await anyio.sleep_forever()

    async def slow_teardown(_: ScriptedEnv) -> None:
        await anyio.sleep(0.05)

    lab.on_run, lab.on_teardown = run, slow_teardown
    async with opened(url) as experiment:
        engine = scheduler(experiment, lab, trials=8, slots=3)
        async with anyio.create_task_group() as group:

            async def stop_when_full() -> None:
                await running.wait()
                engine.stop()

            group.start_soon(stop_when_full)
            summary = await engine.run()
        found = [record async for record in experiment.trials()]
        assert summary.interrupted
        assert (summary.canceled, summary.running) == (3, 0)
        assert [r.status for r in found[:3]] == [Status.CANCELED] * 3
        assert found[0].failure == "interrupted"
        assert lab.steps("teardown") == lab.steps("run"), "each that ran was torn down to the end"
        again = Lab()
        resumed = await scheduler(experiment, again, trials=8, slots=3).run()
        after = await statuses(experiment)
    assert (resumed.trials, resumed.succeeded, resumed.canceled) == (8, 8, 0)
    assert set(after.values()) == {Status.SUCCEEDED}
    assert sorted(again.steps("run")) == list(range(1, 9))


async def test_a_second_stop_cuts_the_grace(url: str) -> None:
    lab = Lab()
    tearing_down = anyio.Event()

    async def teardown(_: ScriptedEnv) -> None:
        tearing_down.set()
        await anyio.sleep_forever()

    lab.on_run, lab.on_teardown = forever, teardown
    async with opened(url) as experiment:
        engine = scheduler(experiment, lab, trials=1, timeouts=Timeouts(teardown=timedelta(hours=1)))

        async def stop_twice() -> None:
            while not lab.running:
                await anyio.sleep(0.001)
            engine.stop()
            await tearing_down.wait()
            engine.stop()

        async with anyio.create_task_group() as group:
            group.start_soon(stop_twice)
            summary = await engine.run()
    assert summary.canceled == 1


async def test_a_second_stop_that_comes_before_the_teardown_cuts_it_too(url: str) -> None:
    lab = Lab()

    async def die_slowly(_: ScriptedEnv) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            engine.stop()  # the second one, while the run is still winding up

    lab.on_run, lab.on_teardown = die_slowly, forever
    async with opened(url) as experiment:
        engine = scheduler(experiment, lab, trials=1, timeouts=Timeouts(teardown=timedelta(hours=1)))

        async def stop_when_running() -> None:
            while not lab.running:
                await anyio.sleep(0.001)
            engine.stop()

        async with anyio.create_task_group() as group:
            group.start_soon(stop_when_running)
            summary = await engine.run()
    assert summary.canceled == 1


async def test_stopped_before_it_runs_it_claims_nothing(url: str) -> None:
    lab = Lab()
    async with opened(url) as experiment:
        engine = scheduler(experiment, lab, trials=5)
        engine.stop()
        summary = await engine.run()
    assert summary.interrupted
    assert lab.log == []


async def test_stopped_after_it_ran_nothing_changes(url: str) -> None:
    async with opened(url) as experiment:
        engine = scheduler(experiment, Lab(), trials=5)
        await engine.run()
        engine.stop()
        assert set((await statuses(experiment)).values()) == {Status.SUCCEEDED}


async def test_cancelled_from_outside_it_still_tears_down_and_records(url: str) -> None:
    lab = Lab()
    async with opened(url) as experiment:
        async with anyio.create_task_group() as group:

            async def run(_: ScriptedEnv) -> None:
                if lab.running == 4:
                    group.cancel_scope.cancel()
                await anyio.sleep_forever()

            async def slow_teardown(_: ScriptedEnv) -> None:
                await anyio.sleep(0.02)

            lab.on_run, lab.on_teardown = run, slow_teardown
            group.start_soon(scheduler(experiment, lab, trials=9, slots=4).run)
        found = await statuses(experiment)
        assert sorted(lab.steps("teardown")) == [1, 2, 3, 4]
        assert [found[i] for i in (1, 2, 3, 4)] == [Status.CANCELED] * 4
        assert Status.RUNNING not in found.values()


async def test_a_broken_configuration_stops_the_experiment_at_once(url: str) -> None:
    lab = Lab()

    async def setup(env: ScriptedEnv) -> None:
        if env.trial_id == 2:
            raise ConfigError("no such key")

    lab.on_setup, lab.on_run = setup, forever
    async with opened(url) as experiment:
        with pytest.raises(ConfigError, match="no such key"):
            await scheduler(experiment, lab, trials=9, slots=2).run()
        found = await statuses(experiment)
    assert Status.RUNNING not in found.values()
    assert sorted(lab.steps("teardown")) == [1, 2]


async def test_an_optimizer_that_breaks_lets_the_others_finish_and_is_reported(url: str) -> None:
    async with opened(url) as experiment:
        with pytest.raises(OptimizerError, match=r"after \d+ trials: RuntimeError: the engine broke"):
            await scheduler(experiment, Lab(), trials=500, optimizer=Counting(fail_at=5)).run()
        found = await statuses(experiment)
    assert found
    assert set(found.values()) == {Status.SUCCEEDED}


async def test_an_exhausted_space_ends_the_experiment_early(url: str) -> None:
    async with opened(url) as experiment:
        summary = await scheduler(experiment, Lab(), trials=100, optimizer=Counting(size=6)).run()
    assert (summary.trials, summary.succeeded, summary.interrupted) == (6, 6, False)


async def test_a_learning_optimizer_hears_of_each_trial_once_in_order_of_completion(url: str) -> None:
    lab = Lab()
    second_done = anyio.Event()

    async def run(env: ScriptedEnv) -> None:
        if env.trial_id == 1:
            await second_done.wait()

    async def teardown(env: ScriptedEnv) -> None:
        if env.trial_id == 4:
            second_done.set()

    lab.on_run, lab.on_teardown = run, teardown
    optimizer = Learning()
    async with opened(url) as experiment:
        await scheduler(experiment, lab, trials=12, slots=2, optimizer=optimizer).run()
        told = list(optimizer.told)
        assert len(told) == len(set(told))
        assert told.index(2) < told.index(1), "the late first one was not lost"
        resumed = Learning()
        await scheduler(experiment, Lab(), trials=14, slots=2, optimizer=resumed).run()
    assert set(range(1, 13)) <= set(resumed.told)
    assert len(resumed.told) == len(set(resumed.told))


async def test_events_tell_a_trials_story_in_order(url: str) -> None:
    async with opened(url) as experiment:
        engine = scheduler(experiment, Lab(), trials=3, slots=1)
        with engine.events() as events:
            await engine.run()
            told = [event async for event in events]
    for trial_id in (1, 2, 3):
        story = [event for event in told if not isinstance(event, EventsDropped)]
        story = [event for event in story if event.trial.trial_id == trial_id]
        steps = [event.step for event in story if isinstance(event, StepStarted)]
        assert steps == ["run", "teardown"]
        others = [type(event) for event in story if not isinstance(event, StepStarted)]
        assert others == [TrialAdded, TrialClaimed, TrialStarted, TrialFinished]


async def test_a_subscriber_that_never_reads_holds_up_nobody_and_is_told_what_it_missed(url: str) -> None:
    async with opened(url) as experiment:
        engine = scheduler(experiment, Lab(), trials=20)
        with engine.events(capacity=10) as events:
            summary = await engine.run()
            told = [event async for event in events]
            assert events.dropped == 20 * 6 - 10
            assert told[10:] == [EventsDropped(20 * 6 - 10)]
    assert summary.succeeded == 20


async def test_telemetry_is_durable_and_announced_while_the_trial_still_runs(url: str) -> None:
    lab = Lab()
    seen = anyio.Event()

    async def run(env: ScriptedEnv) -> None:
        await env.emit("qps", 1.5)
        await seen.wait()

    lab.on_run = run
    async with opened(url) as experiment:
        engine = scheduler(experiment, lab, trials=1)

        async def watch() -> None:
            with engine.events() as events:
                async for event in events:
                    if isinstance(event, TelemetryRecorded):
                        stored = await experiment.load_telemetry(event.trial.trial_id)
                        assert [(s.metric, s.value) for s in stored] == [("qps", 1.5)]
                        seen.set()
                        return

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            await anyio.lowlevel.checkpoint()
            summary = await engine.run()
    assert summary.succeeded == 1


async def test_status_is_polled_beside_the_run_and_a_failing_poll_fails_nothing(url: str) -> None:
    lab = Lab()

    async def run(env: ScriptedEnv) -> None:
        assert isinstance(env, PolledEnv)
        while env.polls < 4:
            await anyio.sleep(0.001)

    lab.on_run = run
    async with opened(url) as experiment:
        engine = scheduler(
            experiment,
            lab,
            trials=1,
            poll_period=timedelta(milliseconds=5),
            make_environment=lambda _host, _runner: PolledEnv(lab),
        )
        summary = await engine.run()
        polls = [s.value for s in await experiment.load_telemetry(1) if s.metric == "polls"]
    assert summary.succeeded == 1
    assert polls[:2] == [1, 3]


async def test_trials_due_later_are_waited_for(url: str) -> None:
    async with opened(url) as experiment:
        due = utc_now() + timedelta(seconds=0.7)
        await experiment.add_trials([NewTrial(tunables=SPACE, not_before=due)])
        summary = await scheduler(experiment, Lab(), trials=1).run()
        record = await anext(experiment.trials())
    assert summary.succeeded == 1
    assert record.started is not None
    assert record.started >= due


async def test_an_environment_that_could_not_be_torn_down_spoils_no_later_trial(url: str) -> None:
    lab = Lab()

    async def teardown(_: ScriptedEnv) -> None:
        raise EnvironmentFailed("it will not stop")

    lab.on_teardown = teardown
    async with opened(url) as experiment:
        summary = await scheduler(experiment, lab, trials=4, slots=1).run()
    assert summary.succeeded == 4
    assert lab.steps("run") == [1, 2, 3, 4]


async def test_a_trial_whose_worker_dies_is_taken_up_while_others_still_run(url: str) -> None:
    lab = Lab()
    taken_up = anyio.Event()

    async def run(env: ScriptedEnv) -> None:
        if env.trial_id == 1:
            taken_up.set()
        else:
            await taken_up.wait()

    lab.on_run = run
    async with opened(url) as experiment:
        await experiment.add_trials([NewTrial(tunables=SPACE)] * 2)
        await experiment.claim("elsewhere/1/1/x", limit=1, lease=timedelta(milliseconds=300))
        summary = await scheduler(experiment, lab, trials=2, slots=2).run()
    assert summary.succeeded == 2
    assert lab.steps("run") == [2, 1]


async def test_metrics_that_cannot_be_stored_fail_their_trial_only(url: str) -> None:
    lab = Lab()

    async def run(env: ScriptedEnv) -> Mapping[str, Any] | None:
        return {"score": 1, "handle": object()} if env.trial_id == 1 else None

    lab.on_run = run
    async with opened(url) as experiment:
        summary = await scheduler(experiment, lab, trials=3).run()
        first = await anext(experiment.trials())
    assert (summary.succeeded, summary.failed) == (2, 1)
    assert first.failure is not None
    assert "handle" in first.failure
