"""Changes by hand while a scheduler runs the experiment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

import anyio

from tests.integration.engines import Lab, ScriptedEnv, forever, opened, scheduler, statuses
from windtunnel import Experiment, Scheduler, Status, Summary
from windtunnel.model import utc_now

LEASE = timedelta(milliseconds=600)


class _Gate:
    """Holds every run at its beginning until it is told to go on."""

    def __init__(self, lab: Lab) -> None:
        self.began, self.going_on = anyio.Event(), anyio.Event()
        lab.on_run = self._run

    async def _run(self, _env: ScriptedEnv) -> None:
        self.began.set()
        await self.going_on.wait()


@asynccontextmanager
async def running(one: Scheduler, ended: list[Summary]) -> AsyncIterator[None]:
    async def run() -> None:
        ended.append(await one.run())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        yield


async def test_a_running_scheduler_takes_an_enqueued_trial_into_a_free_slot(url: str) -> None:
    lab = Lab()
    gate = _Gate(lab)
    ended: list[Summary] = []
    async with opened(url) as experiment:
        async with running(scheduler(experiment, lab, trials=1, slots=2), ended):
            await gate.began.wait()
            gate.began = anyio.Event()
            trial = await experiment.enqueue({"x": 77})
            with anyio.fail_after(5):
                await gate.began.wait()  # beside the first, which still runs
            gate.going_on.set()
        assert sorted(lab.steps("run")) == [1, trial.trial_id]
        assert (ended[0].trials, ended[0].succeeded) == (2, 2)


async def test_an_enqueued_trial_is_run_by_an_experiment_that_was_complete(url: str) -> None:
    async with opened(url) as experiment:
        await scheduler(experiment, Lab(), trials=2).run()
        await experiment.enqueue(best_with={"x": 500})
        lab = Lab()
        summary = await scheduler(experiment, lab, trials=2).run()
    assert lab.steps("run") == [3]
    assert (summary.trials, summary.succeeded) == (3, 3)


async def test_an_enqueued_trial_leaves_the_budget_as_it_is(url: str) -> None:
    async with opened(url) as experiment:
        await experiment.enqueue({"x": 500}, priority=3)
        lab = Lab()
        summary = await scheduler(experiment, lab, trials=4, slots=1).run()
    assert lab.steps("run")[0] == 1
    assert summary.trials == 4


async def test_a_canceled_trial_is_torn_down_by_its_worker_and_stays_canceled(url: str) -> None:
    lab = Lab()
    began = anyio.Event()

    async def run(env: ScriptedEnv) -> None:
        if env.trial_id == 1:
            began.set()
            await forever()

    lab.on_run = run
    ended: list[Summary] = []
    async with opened(url) as experiment:
        with anyio.fail_after(10):
            async with running(scheduler(experiment, lab, trials=3, slots=1, lease=LEASE), ended):
                await began.wait()
                await experiment.cancel(1, reason="hangs")
        assert await statuses(experiment) == {1: Status.CANCELED, 2: Status.SUCCEEDED, 3: Status.SUCCEEDED}
        assert sorted(lab.steps("teardown")) == [1, 2, 3]
        again = Lab()
        await scheduler(experiment, again, trials=3).run()
        assert again.steps("run") == []
        (canceled,) = [one async for one in experiment.trials() if one.status.is_canceled]
        assert canceled.failure == "canceled: hangs"


async def test_a_canceled_waiting_trial_is_never_run(url: str) -> None:
    lab = Lab()
    async with opened(url) as experiment:
        for x in range(3):
            await experiment.enqueue({"x": x})
        await experiment.cancel(2)
        summary = await scheduler(experiment, lab, trials=3).run()
    assert sorted(lab.steps("run")) == [1, 3]
    assert (summary.succeeded, summary.canceled) == (2, 1)


async def test_a_scheduler_waits_for_a_trial_that_is_due_later(url: str) -> None:
    lab = Lab()
    async with opened(url) as experiment:
        due = utc_now() + timedelta(milliseconds=300)
        await experiment.enqueue({"x": 1}, not_before=due)
        await scheduler(experiment, lab, trials=1).run()
        (record,) = [one async for one in experiment.trials()]
    assert record.started is not None
    assert record.started >= due


async def test_two_can_edit_at_once(url: str) -> None:
    """An experiment is edited by several tasks and handles; each wish is granted once."""
    async with opened(url) as experiment, opened(url) as other:
        async with anyio.create_task_group() as tasks:
            for x in range(40):
                handle: Experiment = (experiment, other)[x % 2]
                tasks.start_soon(partial(handle.enqueue, {"x": x}))
        assert (await experiment.counts()).pending == 40
        configs = [one.config["x"] async for one in experiment.trials()]
    assert sorted(configs) == list(range(40))
