"""Several workers on one experiment: one asks the optimizer, all run trials, any may leave at any moment."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import anyio
from anyio.abc import TaskGroup

from tests.integration.engines import (
    SPACE,
    Counting,
    Lab,
    Learning,
    ScriptedEnv,
    forever,
    opened,
    scheduler,
    statuses,
)
from windtunnel import NewTrial, Scheduler, Status
from windtunnel.events import TrialFinished, TrialLost
from windtunnel.model import Summary

LEASE = timedelta(seconds=1)


class Group:
    """Workers of one experiment, each with a lab of its own."""

    def __init__(self) -> None:
        self.labs: list[Lab] = []
        self.engines: list[Scheduler] = []
        self.optimizers: list[Counting] = []
        self.summaries: dict[int, Summary] = {}

    async def join(self, tasks: TaskGroup, experiment: Any, lab: Lab, **options: Any) -> Scheduler:
        optimizer = options.setdefault("optimizer", Counting())
        engine = scheduler(experiment, lab, lease=LEASE, **options)
        number = len(self.engines)
        self.labs.append(lab)
        self.engines.append(engine)
        self.optimizers.append(optimizer)

        async def run(*, task_status: Any) -> None:
            self.summaries[number] = await engine.run(task_status=task_status)

        await tasks.start(run)
        return engine


def slow(seconds: float = 0.02) -> Lab:
    lab = Lab()

    async def run(_: ScriptedEnv) -> None:
        await anyio.sleep(seconds)

    lab.on_run = run
    return lab


async def until(condition: Any, what: str) -> None:
    with anyio.fail_after(15):
        while not condition():
            await anyio.sleep(0.01)
    assert condition(), what


async def test_one_leads_and_all_run(url: str) -> None:
    group = Group()
    async with opened(url) as one, opened(url) as two, anyio.create_task_group() as tasks:
        for experiment in (one, two, one):
            await group.join(tasks, experiment, slow(), trials=60, slots=2)
        await until(lambda: all(lab.steps("run") for lab in group.labs), "all take part")
        assert [engine.snapshot().leads for engine in group.engines].count(True) <= 1
    ran = [trial for lab in group.labs for trial in lab.steps("run")]
    assert sorted(ran) == list(range(1, 61)), "each once"
    asked = sorted(optimizer.asked for optimizer in group.optimizers)
    assert asked[-1] == 60, "every configuration was taken"
    assert {summary.succeeded for summary in group.summaries.values()} == {60}


async def test_a_learning_optimizer_gives_others_work_and_hears_of_their_trials(url: str) -> None:
    group = Group()
    async with opened(url) as one, opened(url) as two, anyio.create_task_group() as tasks:
        await group.join(tasks, one, slow(0.3), trials=40, slots=1, optimizer=Learning())
        await group.join(tasks, two, slow(0.3), trials=40, slots=6, optimizer=Learning())
    shares = [len(lab.steps("run")) for lab in group.labs]
    assert sum(shares) == 40
    assert shares[1] > shares[0], "the leader suggests for the others' slots too"
    leader = max(group.optimizers, key=lambda optimizer: len(optimizer.told))
    assert len(set(leader.told)) == len(leader.told), "each once"
    assert len(leader.told) >= 40 - 7, "but for those that ended when nothing more was to be asked"


async def test_when_the_leader_leaves_another_goes_on_where_it_was(url: str) -> None:
    group = Group()
    async with opened(url) as one, opened(url) as two, anyio.create_task_group() as tasks:
        leader = await group.join(tasks, one, slow(), trials=300, slots=1, optimizer=Learning())
        await until(lambda: leader.snapshot().leads, "the first leads")
        await group.join(tasks, two, slow(), trials=300, slots=3, optimizer=Learning())
        await until(lambda: len(group.labs[1].steps("run")) > 5, "the second takes part")
        leader.stop()
        await until(lambda: group.engines[1].snapshot().leads, "the second leads")
        await until(lambda: len(group.labs[1].steps("run")) > 30, "and asks for more")
        tasks.cancel_scope.cancel()
    async with opened(url) as experiment:
        found = [(record.trial_id, record.config["x"]) async for record in experiment.trials()]
    assert [x for _, x in found] == list(range(len(found))), "no configuration is missing or doubled"


async def test_a_lead_that_nobody_renews_is_taken_over_after_one_lease(url: str) -> None:
    lab = slow()
    async with opened(url) as experiment:
        assert await experiment.lead("elsewhere:1:1/1/1/x", lease=LEASE, is_dead=lambda _: False)
        with anyio.fail_after(10):
            summary = await scheduler(experiment, lab, trials=4).run()
    assert summary.succeeded == 4


async def test_what_a_leaving_worker_interrupted_is_run_by_the_others(url: str) -> None:
    group = Group()
    stuck = Lab()
    stuck.on_run = forever
    async with opened(url) as one, opened(url) as two, anyio.create_task_group() as tasks:
        await group.join(tasks, one, stuck, trials=6, slots=2)
        await until(lambda: stuck.running == 2, "two run there")
        await group.join(tasks, two, slow(), trials=6, slots=2)
        await until(lambda: len(group.labs[1].steps("run")) == 4, "the other has done the rest")
        group.engines[0].stop()
    assert group.summaries[1].succeeded == 6
    assert group.summaries[0].interrupted


async def test_without_until_idle_it_waits_for_what_is_enqueued(url: str) -> None:
    group = Group()
    async with opened(url) as experiment, anyio.create_task_group() as tasks:
        engine = await group.join(tasks, experiment, lab := Lab(), trials=2, until_idle=False)
        await until(lambda: len(lab.steps("teardown")) == 2, "its own are done")
        await experiment.enqueue({"x": 77})
        await until(lambda: len(lab.steps("teardown")) == 3, "the one that came later too")
        engine.stop()
    assert group.summaries[0].succeeded == 3


async def test_a_trial_canceled_from_outside_is_told_as_canceled(url: str) -> None:
    lab = Lab()
    lab.on_run = forever
    async with opened(url) as experiment:
        engine = scheduler(experiment, lab, trials=1, lease=timedelta(seconds=0.6))
        with engine.events() as events:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(engine.run)
                await until(lambda: lab.running == 1, "it runs")
                await experiment.cancel(1, reason="not needed")
            told = [event for event in events.drain() if isinstance(event, TrialFinished | TrialLost)]
        assert (await statuses(experiment))[1] is Status.CANCELED
    (event,) = told
    assert isinstance(event, TrialFinished)
    assert (event.result.status, event.failure) == (Status.CANCELED, "canceled: not needed")
    assert lab.steps("teardown") == [1]


async def test_a_zombies_outcome_is_refused_counted_and_told(url: str) -> None:
    lab = Lab()

    async with opened(url) as experiment:

        async def run(env: ScriptedEnv) -> Mapping[str, Any] | None:
            if len(lab.steps("run")) == 1:  # somebody takes it over while it runs, and we do not notice
                while await experiment.extend(engine.owner, lease=timedelta(0)):
                    await anyio.sleep(0.001)
                    if await experiment.claim("thief/1/1/x", limit=1, lease=timedelta(seconds=0.2)):
                        return None
            return None

        lab.on_run = run
        engine = scheduler(experiment, lab, trials=1, lease=timedelta(seconds=60))
        with engine.events() as events:
            summary = await engine.run()
            told = [event for event in events.drain() if isinstance(event, TrialLost)]
        record = await experiment.record_of(1)
    assert engine.snapshot().stale_refused == 1
    assert (summary.succeeded, record.attempt) == (1, 3)
    assert len(told) == 1


async def test_started_means_taken_up_and_a_snapshot_says_what_runs(url: str) -> None:
    lab = Lab()
    lab.on_run = forever
    async with opened(url) as experiment:
        await experiment.add_trials([NewTrial(tunables=SPACE)])
        engine = scheduler(experiment, lab, trials=1, slots=3)
        before = engine.snapshot()
        async with anyio.create_task_group() as tasks:
            await tasks.start(engine.run)
            assert engine.snapshot().total == 1
            await until(lambda: lab.running == 1, "it runs")
            now = engine.snapshot()
            tasks.cancel_scope.cancel()
        after = engine.snapshot()
    assert (before.state, now.state, after.state) == ("new", "running", "ended")
    (running,) = now.running
    assert (running.trial_id, running.attempt, running.step, running.host) == (1, 1, "run", "localhost")
    assert (now.slots, now.slots_free) == (3, 2)
    assert now.heartbeat_age_s is not None
    assert after.running == ()
    assert dict(after.finished) == {Status.CANCELED: 1}
