"""A pruner sees telemetry as it arrives, and what it gives up is aborted, told and not run again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from tests.integration.engines import OBJECTIVES, Lab, Learning, ScriptedEnv, forever, opened, scheduler
from windtunnel import FailureKind, Status
from windtunnel.environments import Environment
from windtunnel.errors import EnvironmentFailed
from windtunnel.events import StepStarted
from windtunnel.model import History
from windtunnel.pruners import Abort, Pruner, make_pruner
from windtunnel.scheduling import Host


class Above(Pruner):
    """Gives a trial up when its ``load`` exceeds 10."""

    def __init__(self, *, scores: dict[str, float] | None = None) -> None:
        super().__init__(objectives=OBJECTIVES)
        self.scores = scores
        self.seen: list[tuple[int, str, float]] = []
        self.ends: list[tuple[int, Mapping[str, float] | None]] = []

    @property
    def metrics(self) -> frozenset[str]:
        return frozenset({"load"})

    def observe(self, trial_id: int, metric: str, value: float, elapsed_s: float) -> Abort | None:
        assert elapsed_s >= 0
        self.seen.append((trial_id, metric, value))
        return Abort(f"load {value:g} is above 10", self.scores) if value > 10 else None

    def ended(self, trial_id: int, scores: Mapping[str, float] | None) -> None:
        self.ends.append((trial_id, scores))


class Told(Learning):
    def __init__(self) -> None:
        super().__init__()
        self.lessons: dict[int, tuple[Status, dict[str, Any] | None]] = {}

    def _tell(self, history: History) -> None:
        super()._tell(history)
        rows = zip(history.trial_ids, history.status, history.scores, strict=True)
        self.lessons |= {trial_id: (status, scores) for trial_id, status, scores in rows}


class AbortableEnv(ScriptedEnv):
    async def _abort(self) -> None:
        self.lab.log.append(("abort", self.trial_id))
        if self.trial_id == 4:
            raise EnvironmentFailed("the server does not listen")


def overloaded(lab: Lab, *trial_ids: int) -> None:
    """Let these trials report a load that is too high and go on for ever; the others end."""

    async def run(env: ScriptedEnv) -> None:
        await env.emit("other", 99)
        await env.emit("load", 5)
        if env.trial_id in trial_ids:
            await env.emit("load", 11)
            await forever()

    lab.on_run = run


@pytest.mark.parametrize("scores", [None, {"score": 10_001.0}])
async def test_an_aborted_trial_is_stopped_told_and_kept(url: str, scores: dict[str, float] | None) -> None:
    lab, pruner, optimizer = Lab(), Above(scores=scores), Told()
    overloaded(lab, 2, 4)

    def make(_host: Host, _runner_id: int) -> Environment:
        return AbortableEnv(lab)

    async with opened(url) as experiment:
        engine = scheduler(
            experiment, lab, trials=5, pruner=pruner, optimizer=optimizer, make_environment=make
        )
        with engine.events() as events:
            summary = await engine.run()
            steps = [e.step for e in events.drain() if isinstance(e, StepStarted) and e.trial.trial_id == 2]
        record, story = await experiment.record_of(2), await experiment.story(2)
        telemetry = [(s.metric, s.value) for s in await experiment.load_telemetry(2)]
        history = await experiment.load()
    assert (summary.succeeded, summary.canceled, summary.failed) == (3, 2, 0)
    assert (record.status, record.failure) == (Status.CANCELED, "aborted: load 11 is above 10")
    assert story.attempts[-1].kind is FailureKind.ABORTED
    assert telemetry == [("other", 99.0), ("load", 5.0), ("load", 11.0)], "all there is up to then"
    assert steps == ["run", "abort", "teardown"]
    assert [step for step, trial in lab.log if trial == 2] == ["setup", "run", "abort", "teardown"]
    assert ("teardown", 4) in lab.log, "an abort step that fails costs nothing else"
    assert optimizer.lessons[2] == (Status.CANCELED, scores)
    assert optimizer.lessons[1] == (Status.SUCCEEDED, {"score": 0})
    assert (Status.CANCELED, scores) in zip(history.status, history.scores, strict=True), "on resume too"
    assert engine.snapshot().aborted == 2


async def test_the_pruner_sees_what_it_wants_and_hears_of_each_end_once(url: str) -> None:
    lab, pruner = Lab(), Above()
    overloaded(lab, 2)
    async with opened(url) as experiment:
        await scheduler(experiment, lab, trials=3, slots=1, pruner=pruner).run()
    assert pruner.seen == [(1, "load", 5.0), (2, "load", 5.0), (2, "load", 11.0), (3, "load", 5.0)]
    assert pruner.ends == [(1, {"score": 0.0}), (2, None), (3, {"score": 2.0})]


async def test_an_aborted_trial_is_not_run_again_on_resume(url: str) -> None:
    lab, again = Lab(), Lab()
    overloaded(lab, 1)
    async with opened(url) as experiment:
        await scheduler(experiment, lab, trials=2, pruner=Above()).run()
        summary = await scheduler(experiment, again, trials=3).run()
    assert again.steps("run") == [3]
    assert (summary.trials, summary.canceled) == (3, 1)


async def test_on_resume_the_pruner_is_shown_what_was_recorded(url: str) -> None:
    lab, pruner = Lab(), Above()
    overloaded(lab, 2)
    async with opened(url) as experiment:
        await scheduler(experiment, lab, trials=3, slots=1, pruner=Above()).run()
        await scheduler(experiment, lab, trials=3, slots=1, pruner=pruner).run()
    assert pruner.seen == [(1, "load", 5.0), (2, "load", 5.0), (2, "load", 11.0), (3, "load", 5.0)]
    assert pruner.ends == [(1, {"score": 0.0}), (2, None), (3, {"score": 2.0})]


async def test_a_pruner_that_raises_costs_no_trial(url: str, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Above):
        def observe(self, trial_id: int, metric: str, value: float, elapsed_s: float) -> Abort | None:
            raise ZeroDivisionError("oops")

    lab = Lab()
    overloaded(lab)
    async with opened(url) as experiment:
        summary = await scheduler(experiment, lab, trials=4, pruner=Broken()).run()
    assert summary.succeeded == 4
    assert [r.message for r in caplog.records if "pruner failed" in r.message] == [
        "the pruner failed and is not asked again: ZeroDivisionError: oops"
    ]


async def test_a_rule_about_time_needs_no_telemetry(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windtunnel.scheduling.pruning._TICK_S", 0.02)
    lab = Lab()

    async def run(env: ScriptedEnv) -> Mapping[str, Any]:
        if env.trial_id == 6:
            await forever()
        return {"score": 0.05}

    lab.on_run = run
    rule = make_pruner("worst", objectives=OBJECTIVES, options={"least_trials": 5})
    optimizer = Told()
    async with opened(url) as experiment:
        with anyio.fail_after(10):
            engine = scheduler(experiment, lab, trials=6, slots=1, pruner=rule, optimizer=optimizer)
            summary = await engine.run()
    assert (summary.succeeded, summary.canceled) == (5, 1)
    status, scores = optimizer.lessons[6]
    assert status is Status.CANCELED
    assert scores is not None
    assert 0.05 < scores["score"] < 0.06, "worse than the worst, by little"


async def test_a_trial_that_runs_again_is_judged_anew(url: str) -> None:
    lab, pruner, tries = Lab(), Above(), 0

    async def run(env: ScriptedEnv) -> None:
        nonlocal tries
        tries += 1
        await env.emit("load", 5)
        if tries == 1:
            raise EnvironmentFailed("it crashed")

    lab.on_run = run
    from windtunnel.scheduling.policy import Retry

    async with opened(url) as experiment:
        retries = {FailureKind.RUN: Retry(times=1)}
        engine = scheduler(experiment, lab, trials=1, pruner=pruner, retries=retries)
        summary = await engine.run()
    assert summary.succeeded == 1
    assert pruner.ends == [(1, None), (1, {"score": 0.0})]
