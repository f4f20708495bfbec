"""Who leads asks and teaches the optimizer: once each, also when the lead moves or the optimizer hangs."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import anyio
import pytest

from tests.integration.engines import SPACE, Alarm, Lab, Learning, ScriptedEnv, forever, opened, scheduler
from tests.integration.test_scheduler_workers import slow, until
from windtunnel import NewTrial, RunResult, Status, TunableGroups
from windtunnel.model import History, Timeouts, utc_now
from windtunnel.scheduling.policy import AdaptiveRepeats
from windtunnel.storage.runs import ScoredRun

LEASE = timedelta(seconds=1)
LONG = timedelta(hours=1)


class Hanging(Learning):
    """Hangs in ``ask`` or in ``tell``, once it has given ``first`` configurations, until it is let go.

    :ivar most_inside: how many threads were in it at once.
    """

    def __init__(self, step: str, *, first: int = 0) -> None:
        super().__init__()
        self.hangs = threading.Event()
        self.most_inside = 0
        self._step, self._first = step, first
        self._gate = threading.Event()
        self._lock, self._inside = threading.Lock(), 0

    @contextmanager
    def let_go(self) -> Iterator[None]:
        """At the end of the block."""
        try:
            yield
        finally:
            self._gate.set()

    @contextmanager
    def _called(self, step: str, index: int) -> Iterator[None]:
        with self._lock:
            self._inside += 1
            self.most_inside = max(self.most_inside, self._inside)
        if step == self._step and index >= self._first:
            self.hangs.set()
            self._gate.wait(15)
        yield
        with self._lock:
            self._inside -= 1

    def _ask(self, index: int, count: int) -> Sequence[TunableGroups]:
        with self._called("ask", index):
            return super()._ask(index, count)

    def _tell(self, history: History) -> None:
        with self._called("tell", self.asked):
            super()._tell(history)


class Lessons(Learning):
    """Keeps what it is told: one list of (x, score) for each time."""

    def __init__(self, size: int) -> None:
        super().__init__(size=size)
        self.lessons: list[list[tuple[int, float]]] = []

    def _tell(self, history: History) -> None:
        super()._tell(history)
        found = zip(history.configs, history.scores, strict=True)
        self.lessons.append([(config["x"], score["score"]) for config, score in found if score is not None])


# The lead moves


async def test_suggestions_that_come_when_another_leads_are_dropped(url: str) -> None:
    optimizer = Hanging("ask", first=4)
    labs = slow(), slow()
    async with opened(url) as one, opened(url) as two, anyio.create_task_group() as tasks:
        with optimizer.let_go():
            former = scheduler(one, labs[0], trials=20, slots=2, optimizer=optimizer, lease=LEASE)
            tasks.start_soon(former.run)
            await until(optimizer.hangs.is_set, "it thinks")
            await one.resign(former.owner)  # as when its lease has run out meanwhile
            tasks.start_soon(scheduler(two, labs[1], trials=20, slots=2, optimizer=Learning()).run)
            await until(lambda: labs[1].steps("run"), "another leads and goes on")
    async with opened(url) as experiment:
        xs = [record.config["x"] async for record in experiment.trials()]
    assert xs == list(range(20)), "no configuration is missing or doubled"
    assert optimizer.most_inside == 1


async def test_a_worker_that_waits_for_more_is_given_some_by_a_later_leader(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windtunnel.scheduling.suggester._POLL_S", 0.05)
    monkeypatch.setattr("windtunnel.scheduling.suggester._WANTED", timedelta(seconds=1))
    own, stuck = Lab(), Lab()

    async def finished_the_first_two(env: ScriptedEnv) -> None:
        if env.trial_id > 2:
            await forever()

    own.on_run = forever
    stuck.on_run = finished_the_first_two
    async with opened(url) as one, opened(url) as two, anyio.create_task_group() as tasks:
        waiter = scheduler(two, stuck, trials=2, slots=6, optimizer=Learning(), until_idle=False)
        tasks.start_soon(waiter.run)
        await until(
            lambda: waiter.snapshot().finished == {Status.SUCCEEDED: 2} and not waiter.snapshot().leads,
            "it has seen the end",
        )
        await two.want(waiter.owner, 0, lasting=timedelta(0))  # what it wanted before is forgotten
        leader = scheduler(one, own, trials=50, slots=1, optimizer=Learning())
        tasks.start_soon(leader.run)
        await until(lambda: (own.running, stuck.running) == (1, 6), "all seven slots are busy")
        tasks.cancel_scope.cancel()


# Whose trials the optimizer hears of


async def test_a_trial_that_somebody_else_added_and_ran_is_told(url: str) -> None:
    lab, optimizer = Lab(), Learning()
    async with opened(url) as one, opened(url) as two:

        async def add_and_run() -> None:
            await two.enqueue({"x": 5000}, priority=9)
            (trial,) = await two.claim("elsewhere", limit=1, lease=LEASE)
            await two.finish(trial, RunResult(Status.SUCCEEDED, utc_now(), {"score": 7.0}))

        async def run(env: ScriptedEnv) -> None:
            if env.trial_id == 1:  # before the leader adds the next
                await add_and_run()
            elif env.trial_id == 4:
                await until(lambda: 2 in optimizer.told, "the leader has heard of it")

        lab.on_run = run
        await scheduler(one, lab, trials=5, slots=1, optimizer=optimizer).run()
        others = [record.trial_id async for record in one.trials() if record.config["x"] == 5000]
    assert others == [2]
    assert sorted(optimizer.told) == [1, 2, 3, 4, 5], "each once"


# Several runs of a configuration


async def test_after_a_resume_the_optimizer_is_told_the_scores_it_was_told_before(url: str) -> None:
    lab = Lab()

    async def run(env: ScriptedEnv) -> Mapping[str, Any]:
        level = 1 if env.parameters["x"] in (0, 1) else 50
        return {"score": level + 0.001 * env.trial_id + (3 if env.trial_id % 3 == 0 else 0)}

    lab.on_run = run
    live, resumed = Lessons(size=4), Lessons(size=4)
    async with opened(url) as experiment:
        for optimizer in (live, resumed):
            adaptive = AdaptiveRepeats(most=5, score="max")
            await scheduler(experiment, lab, trials=12, slots=1, optimizer=optimizer, adaptive=adaptive).run()
    last = {x: score for lesson in live.lessons for x, score in lesson}
    (lesson,) = resumed.lessons
    again = defaultdict(set)
    for x, score in lesson:
        again[x].add(score)
    assert len(lab.steps("run")) == len(lesson) > len(last), "some ran several times"
    assert again == {x: {score} for x, score in last.items()}


@pytest.mark.parametrize("moment", ["load", "runs"])
async def test_a_run_that_ends_while_the_leader_catches_up_counts_once(
    url: str, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windtunnel.scheduling.suggester._POLL_S", 0.02)
    lab, optimizer, gate = slow(0.03), Learning(size=2), anyio.Event()
    usual = lab.on_run
    assert usual is not None
    async with opened(url) as experiment:
        genuine = getattr(experiment, moment)

        async def read_when_it_has_ended() -> History | list[ScoredRun]:
            if not gate.is_set():
                await until(lambda: lab.running == 1, "it runs")
                gate.set()
                await until(lambda: not engine.snapshot().running, "its outcome is stored")
            return await genuine()  # type: ignore[no-any-return]  # either of two methods

        async def run(env: ScriptedEnv) -> Mapping[str, Any]:
            await gate.wait()
            await usual(env)
            return {"score": env.trial_id % 2}

        lab.on_run = run
        monkeypatch.setattr(experiment, moment, read_when_it_has_ended)
        await experiment.add_trials([NewTrial(tunables=SPACE)])
        engine = scheduler(
            experiment, lab, trials=20, slots=1, optimizer=optimizer, adaptive=AdaptiveRepeats(most=4)
        )
        await engine.run()
        xs = Counter([record.config["x"] async for record in experiment.trials()])
    assert xs == {0: 4, 1: 4}, "both are as good as each other: as many runs as there may be"
    assert sorted(optimizer.told) == list(range(1, 9)), "each once"


# An optimizer that hangs


@pytest.mark.parametrize("way", ["stop", "_cancel_after", "_close_after"])
async def test_nobody_waits_for_an_optimizer_that_thinks_for_ever(
    url: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, optimizer = Lab(), Hanging("ask", first=2)
    alarm = None if way == "stop" else Alarm(monkeypatch, way)

    async def run(env: ScriptedEnv) -> None:
        if env.trial_id == 2:
            await until(optimizer.hangs.is_set, "it thinks")

    lab.on_run = run
    with optimizer.let_go():
        async with opened(url) as experiment, anyio.create_task_group() as tasks:
            engine = scheduler(
                experiment,
                lab,
                trials=9,
                slots=2,
                optimizer=optimizer,
                time_budget=LONG,
                timeouts=Timeouts(experiment=LONG),
            )
            tasks.start_soon(engine.run)
            await until(lambda: engine.snapshot().finished == {Status.SUCCEEDED: 2}, "both have ended")
            with anyio.fail_after(5):
                if alarm is None:
                    engine.stop()
                else:
                    await alarm.ring()
                await until(lambda: engine.snapshot().state == "ended", "the run")
    assert optimizer.most_inside == 1, "what hangs is not called again"


@pytest.mark.parametrize("way", ["stop", "_cancel_after"])
async def test_nobody_waits_for_an_optimizer_that_learns_for_ever(
    url: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, optimizer, ended = Lab(), Hanging("tell"), anyio.Event()
    alarm = Alarm(monkeypatch, "_cancel_after")
    if way != "stop":
        lab.on_run = forever
    with optimizer.let_go():
        async with opened(url) as experiment, anyio.create_task_group() as tasks:
            engine = scheduler(
                experiment, lab, trials=1, optimizer=optimizer, timeouts=Timeouts(experiment=LONG)
            )

            async def conduct() -> None:
                await engine.run()
                ended.set()

            tasks.start_soon(conduct)
            if way == "stop":
                await until(optimizer.hangs.is_set, "it learns")
                engine.stop()
            else:
                await until(lambda: lab.running == 1, "it runs")
                await alarm.ring()
            with anyio.fail_after(5):
                await ended.wait()
    assert optimizer.most_inside <= 1


class Expecting(Learning):
    """Keeps what it is told of trials that have not ended."""

    def __init__(self) -> None:
        super().__init__()
        self.expected: list[Any] = []

    def expect(self, configurations: Sequence[TunableGroups]) -> None:
        self.expected += [one["x"] for one in configurations]


async def test_an_optimizer_that_takes_over_knows_what_runs(url: str) -> None:
    stuck, lab = Lab(), Lab()
    stuck.on_run = forever
    former, latter = Expecting(), Expecting()
    async with opened(url) as one, opened(url) as two, anyio.create_task_group() as tasks:
        await one.add_trials([NewTrial(tunables=SPACE.assign({"x": x})) for x in (77, 78)])
        first = scheduler(one, stuck, trials=2, slots=1, optimizer=former, until_idle=False)
        await tasks.start(first.run)
        await until(lambda: stuck.steps("run"), "it runs")
        second = scheduler(two, lab, trials=3, slots=1, optimizer=latter)
        tasks.start_soon(second.run)
        await until(lambda: len(lab.steps("run")) == 2, "the one that waited and a new one ran")
        first.stop()
    assert 77 in latter.expected, "the other one may have ended before it took over"
