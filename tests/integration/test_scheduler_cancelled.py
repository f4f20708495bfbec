"""Each step of a trial has its twins: cancelled before it, during it and after it, in every way there is."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

import anyio
import pytest

from tests.integration.engines import Lab, ScriptedEnv, forever, opened, scheduler, statuses
from windtunnel import ConfigError, Experiment, Scheduler, Status, Timeouts, Trial

Strike = Callable[[Scheduler, asyncio.Task[Any], anyio.CancelScope], None]


def cancel_scope(_engine: Scheduler, _task: asyncio.Task[Any], scope: anyio.CancelScope) -> None:
    scope.cancel()


def cancel_task(_engine: Scheduler, task: asyncio.Task[Any], _scope: anyio.CancelScope) -> None:
    task.cancel()


def stop(engine: Scheduler, _task: asyncio.Task[Any], _scope: anyio.CancelScope) -> None:
    engine.stop()


WAYS: Mapping[str, Strike] = {"scope": cancel_scope, "task": cancel_task, "stop": stop}
BEFORE, DURING, AFTER = "before", "during", "after"
MOMENTS = {  # moment → the hook the cancellation comes from, and whether the hook goes on for a while
    (BEFORE, "setup"): ("claim", False),
    (DURING, "setup"): ("setup", True),
    (AFTER, "setup"): ("setup", False),
    (DURING, "run"): ("run", True),
    (AFTER, "run"): ("run", False),
    (DURING, "teardown"): ("teardown", True),
    (AFTER, "teardown"): ("teardown", False),
}


async def strike_in(
    experiment: Experiment,
    lab: Lab,
    way: Strike,
    step: str,
    *,
    then_wait: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Run two trials and cancel everything from within ``step`` of the first that reaches it."""
    engine, scope, struck = scheduler(experiment, lab, trials=2, slots=2), anyio.CancelScope(), False

    async def run() -> None:
        with scope:
            await engine.run()

    task = asyncio.get_running_loop().create_task(run())

    async def hook(_: object = None) -> None:
        nonlocal struck
        if not struck:
            struck = True
            way(engine, task, scope)
            if then_wait:
                await anyio.sleep(0.01)

    if step == "claim":
        claim = experiment.claim

        async def claim_and_strike(owner: str, *, limit: int, lease: timedelta) -> list[Trial]:
            claimed = await claim(owner, limit=limit, lease=lease)
            if claimed:
                await hook()
            return claimed

        monkeypatch.setattr(experiment, "claim", claim_and_strike)
    else:
        setattr(lab, f"on_{step}", hook)
    await asyncio.wait([task])
    assert struck


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("moment", MOMENTS, ids=" ".join)
async def test_wherever_it_is_cancelled_what_began_is_torn_down_and_what_ended_stands(
    url: str, way: str, moment: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab()
    where, waits = MOMENTS[moment]
    if where in ("claim", "setup"):
        lab.on_run = forever
    async with opened(url) as experiment:
        await strike_in(experiment, lab, WAYS[way], where, then_wait=waits, monkeypatch=monkeypatch)
        found = await statuses(experiment)
        assert Counter(lab.steps("setup")) == Counter(lab.steps("teardown"))
        assert Status.RUNNING not in found.values()
        ended = moment in ((AFTER, "run"), (DURING, "teardown"), (AFTER, "teardown"))
        assert found[1] is (Status.SUCCEEDED if ended else Status.CANCELED)
        summary = await scheduler(experiment, again := Lab(), trials=2, slots=2).run()
    assert summary.succeeded == 2
    assert sorted(again.steps("run")) == [i for i in (1, 2) if found.get(i) is not Status.SUCCEEDED]


@pytest.mark.parametrize("way", WAYS)
async def test_cancelled_before_it_runs_and_after_it_ran_nothing_is_changed(url: str, way: str) -> None:
    async with opened(url) as experiment:
        for lab, early in ((Lab(), True), (Lab(), False)):
            engine, scope = scheduler(experiment, lab, trials=3), anyio.CancelScope()

            async def run(engine: Scheduler = engine, scope: anyio.CancelScope = scope) -> None:
                with scope:
                    await engine.run()

            task = asyncio.get_running_loop().create_task(run())
            if not early:
                await asyncio.wait([task])
            WAYS[way](engine, task, scope)
            await asyncio.wait([task])
            assert len(lab.steps("run")) == (0 if early else 3)
        assert set((await statuses(experiment)).values()) == {Status.SUCCEEDED}


async def test_a_failure_while_others_wind_up_does_not_make_the_first_stop_the_second(url: str) -> None:
    lab, ended = Lab(), False

    async def setup(env: ScriptedEnv) -> None:
        if env.trial_id == 2:
            raise ConfigError("no such key")

    async def teardown(env: ScriptedEnv) -> None:
        nonlocal ended
        if env.trial_id == 1:
            engine.stop()
            await anyio.sleep(0.01)
            ended = True

    lab.on_setup, lab.on_run, lab.on_teardown = setup, forever, teardown
    async with opened(url) as experiment:
        engine = scheduler(experiment, lab, trials=2, slots=2)
        with pytest.raises(ConfigError, match="no such key"):
            await engine.run()
    assert ended, "the grace was not cut"


async def test_stop_after_the_last_trial_does_not_call_the_experiment_interrupted(url: str) -> None:
    lab = Lab()

    async def teardown(env: ScriptedEnv) -> None:
        if env.trial_id == 2:
            engine.stop()

    lab.on_teardown = teardown
    async with opened(url) as experiment:
        engine = scheduler(experiment, lab, trials=2, slots=1)
        summary = await engine.run()
    assert (summary.succeeded, summary.interrupted) == (2, False)


# What users' code makes of a cancellation


async def swallow(_: ScriptedEnv) -> None:
    """Ignore being cancelled, and go on as if all was well."""
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        pass


async def convert(_: ScriptedEnv) -> None:
    """Answer being cancelled with another error."""
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        raise RuntimeError("I was disturbed") from None


@pytest.mark.parametrize("step", ["setup", "run"])
@pytest.mark.parametrize("reaction", [swallow, convert])
async def test_a_stopped_trial_that_swallows_its_cancellation_has_no_outcome(
    url: str, step: str, reaction: Callable[[ScriptedEnv], Awaitable[None]]
) -> None:
    lab = Lab()
    setattr(lab, f"on_{step}", reaction)
    async with opened(url) as experiment:
        engine = scheduler(experiment, lab, trials=1)

        async def stop_when_there() -> None:
            while not lab.steps(step):
                await anyio.sleep(0.001)
            engine.stop()

        async with anyio.create_task_group() as group:
            group.start_soon(stop_when_there)
            summary = await engine.run()
    assert (summary.canceled, summary.succeeded, summary.failed) == (1, 0, 0)
    assert lab.steps("teardown") == [1]


@pytest.mark.parametrize("step", ["setup", "run", "trial"])
@pytest.mark.parametrize("reaction", [swallow, convert])
async def test_a_trial_that_swallows_its_time_limit_has_timed_out(
    url: str, step: str, reaction: Callable[[ScriptedEnv], Awaitable[None]]
) -> None:
    lab = Lab()
    lab.on_setup, lab.on_run = (reaction, None) if step == "setup" else (None, reaction)
    limits = Timeouts(**{step: timedelta(milliseconds=20)})
    async with opened(url) as experiment:
        await scheduler(experiment, lab, trials=1, timeouts=limits).run()
        record = await anext(experiment.trials())
    assert record.status is Status.TIMED_OUT
    assert record.failure is not None
    assert f"{step} was stopped after its time limit" in record.failure


@pytest.mark.parametrize("step", ["setup", "run", "teardown"])
async def test_a_cancelled_error_that_nobody_sent_concerns_its_own_trial_only(url: str, step: str) -> None:
    lab = Lab()

    async def await_something_cancelled(env: ScriptedEnv) -> None:
        if env.trial_id == 2:
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

    setattr(lab, f"on_{step}", await_something_cancelled)
    async with opened(url) as experiment:
        summary = await scheduler(experiment, lab, trials=5, slots=2).run()
        second = [r async for r in experiment.trials()][1]
    assert (summary.trials, summary.interrupted) == (5, False)
    if step == "teardown":
        assert summary.succeeded == 5, "the outcome stands"
    else:
        assert (summary.succeeded, summary.failed) == (4, 1)
        assert second.failure is not None
        assert second.failure.startswith("CancelledError: nobody cancelled the trial")


@pytest.mark.parametrize("way", ["scope", "stop"])
async def test_two_thousand_trials_are_cancelled_without_blocking_the_loop(url: str, way: str) -> None:
    lab = Lab()
    lab.on_run = forever
    async with opened(url) as experiment, anyio.create_task_group() as group:
        engine, scope = scheduler(experiment, lab, trials=2000, slots=2000), anyio.CancelScope()

        async def run() -> None:
            with scope:
                await engine.run()

        group.start_soon(run)
        while lab.running < 2000:
            await anyio.sleep(0.01)
        if way == "scope":
            scope.cancel()
        else:
            engine.stop()
    assert lab.running == 0
    assert len(lab.steps("teardown")) == 2000
