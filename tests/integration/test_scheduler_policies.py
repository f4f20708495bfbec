"""What the scheduler does about failures, limits of time and number, and where repeats run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import anyio
import pytest

from tests.integration.engines import SPACE, Counting, Lab, ScriptedEnv, forever, opened, scheduler, statuses
from windtunnel import FailureKind, Host, NewTrial, RunResult, Status
from windtunnel.environments import Environment
from windtunnel.errors import EnvironmentFailed
from windtunnel.events import TrialRetried
from windtunnel.model import StatusReport, Timeouts, utc_now
from windtunnel.scheduling.policy import AdaptiveRepeats, FailureBudget, Retry

AT_ONCE = timedelta(0)
SOON = timedelta(milliseconds=50)


def failing(lab: Lab, *, step: str, times: int) -> Counter[int]:
    """Let every trial fail in ``step`` so many times; how often each was begun."""
    begun: Counter[int] = Counter()

    async def setup(env: ScriptedEnv) -> None:
        begun[env.trial_id] += 1
        if step == "setup" and begun[env.trial_id] <= times:
            raise EnvironmentFailed("no disk")

    async def run(env: ScriptedEnv) -> Mapping[str, Any] | None:
        if step == "run" and begun[env.trial_id] <= times:
            raise EnvironmentFailed("it crashed")
        return {} if step == "results" and begun[env.trial_id] <= times else None

    lab.on_setup, lab.on_run = setup, run
    return begun


@pytest.mark.parametrize("kind", [FailureKind.SETUP, FailureKind.RUN, FailureKind.RESULTS])
async def test_a_failure_of_a_kind_that_is_retried_is_run_again_until_it_succeeds(
    url: str, kind: FailureKind
) -> None:
    lab = Lab()
    begun = failing(lab, step=kind.value, times=2)
    async with opened(url) as experiment:
        retries = {kind: Retry(times=3, pause=AT_ONCE)}
        engine = scheduler(experiment, lab, trials=2, retries=retries)
        with engine.events() as events:
            summary = await engine.run()
            retried = [event for event in events.drain() if isinstance(event, TrialRetried)]
        attempts = [(await experiment.story(1)).attempts, (await experiment.story(2)).attempts]
    assert (summary.succeeded, summary.failed) == (2, 0)
    assert begun == {1: 3, 2: 3}
    assert Counter(event.trial.trial_id for event in retried) == {1: 2, 2: 2}
    assert engine.snapshot().retried == 4
    for of_one in attempts:
        assert [attempt.status for attempt in of_one][:2] == [Status.FAILED, Status.FAILED]


async def test_when_its_retries_are_used_up_a_trial_has_failed(url: str) -> None:
    lab = Lab()
    begun = failing(lab, step="run", times=9)
    async with opened(url) as experiment:
        retries = {FailureKind.RUN: Retry(times=2, pause=AT_ONCE)}
        summary = await scheduler(experiment, lab, trials=1, retries=retries).run()
        record = await experiment.record_of(1)
    assert (summary.failed, begun[1], record.attempt) == (1, 3, 3)
    assert record.failure == "it crashed"


async def test_other_kinds_of_failure_are_not_retried(url: str) -> None:
    lab = Lab()
    begun = failing(lab, step="setup", times=1)
    async with opened(url) as experiment:
        retries = {FailureKind.RUN: Retry(times=5, pause=AT_ONCE)}
        summary = await scheduler(experiment, lab, trials=1, retries=retries).run()
    assert (summary.failed, begun[1]) == (1, 1)


async def test_a_retry_waits_for_its_pause(url: str) -> None:
    lab, began = Lab(), list[float]()
    failing(lab, step="run", times=1)

    async def note(_: ScriptedEnv) -> None:
        began.append(anyio.current_time())

    lab.on_teardown = note
    async with opened(url) as experiment:
        pause = Retry(times=1, pause=timedelta(seconds=0.3), jitter=0)
        await scheduler(experiment, lab, trials=1, retries={FailureKind.RUN: pause}).run()
    assert began[1] - began[0] >= 0.3


async def test_a_retry_goes_to_another_host(url: str) -> None:
    places: dict[int, list[str]] = defaultdict(list)
    lab = Lab()
    failing(lab, step="setup", times=1)
    genuine = lab.on_setup
    assert genuine is not None

    async def setup(env: ScriptedEnv) -> None:
        places[env.trial_id].append(str(env.parameters["host"]))
        await genuine(env)

    lab.on_setup = setup
    async with opened(url) as experiment:
        retries = {FailureKind.SETUP: Retry(times=1, pause=AT_ONCE)}
        hosts = [Host(name="a"), Host(name="b")]
        summary = await scheduler(experiment, lab, trials=6, retries=retries, hosts=hosts).run()
    assert summary.succeeded == 6
    assert all(sorted(hosts) == ["a", "b"] for hosts in places.values()), places


async def test_repeats_of_a_configuration_run_on_different_hosts(url: str) -> None:
    places: dict[object, list[str]] = defaultdict(list)
    lab = Lab()

    async def run(env: ScriptedEnv) -> None:
        places[env.parameters["x"]].append(str(env.parameters["host"]))
        await anyio.sleep(0.002 * (int(str(env.parameters["trial_id"])) % 3))

    lab.on_run = run
    async with opened(url) as experiment:
        hosts = [Host(name=name, slots=2) for name in "abc"]
        summary = await scheduler(experiment, lab, trials=30, repeats=3, hosts=hosts).run()
    assert summary.succeeded == 30
    assert {tuple(sorted(hosts)) for hosts in places.values()} == {("a", "b", "c")}


async def test_the_failure_budget_stops_new_trials_and_lets_running_ones_end(url: str) -> None:
    lab = Lab()
    failing(lab, step="run", times=9)
    async with opened(url) as experiment:
        budget = FailureBudget(most=3)
        summary = await scheduler(experiment, lab, trials=50, slots=2, failures=budget).run()
        found = await statuses(experiment)
    assert summary.stopped_because is not None
    assert "3" in summary.stopped_because
    assert 4 <= summary.failed <= 6
    assert not summary.interrupted
    assert set(found.values()) <= {Status.FAILED, Status.PENDING}, "none is left running or canceled"


async def test_set_up_failures_are_counted_apart(url: str) -> None:
    lab = Lab()
    failing(lab, step="setup", times=9)
    async with opened(url) as experiment:
        lenient = FailureBudget(most=3)
        summary = await scheduler(experiment, lab, trials=10, failures=lenient).run()
    assert (summary.failed, summary.stopped_because) == (10, None)
    async with opened(url, "other") as experiment:
        strict = FailureBudget(setup=3)
        summary = await scheduler(experiment, lab, trials=10, slots=1, failures=strict).run()
    assert summary.failed in (4, 5), "one more may have begun while the fourth was stored"
    assert "set-up" in (summary.stopped_because or "")


async def test_after_the_time_budget_nothing_more_begins_and_what_runs_ends_well(url: str) -> None:
    lab, gate = Lab(), anyio.Event()

    async def run(_: ScriptedEnv) -> None:
        await gate.wait()

    lab.on_run = run
    async with opened(url) as experiment, anyio.create_task_group() as group:
        engine = scheduler(experiment, lab, trials=9, slots=2, time_budget=timedelta(seconds=0.3))
        summaries = []

        async def go() -> None:
            summaries.append(await engine.run())

        group.start_soon(go)
        await anyio.sleep(0.6)  # as long as the budget, and then some: nothing tells that it is over
        gate.set()
    assert summaries[0].succeeded == 2
    assert "time budget" in (summaries[0].stopped_because or "")


async def test_when_the_experiments_time_is_over_what_runs_has_timed_out_and_is_torn_down(url: str) -> None:
    lab = Lab()
    lab.on_run = forever
    async with opened(url) as experiment:
        limits = Timeouts(experiment=timedelta(seconds=1))
        summary = await scheduler(experiment, lab, trials=9, slots=2, timeouts=limits).run()
        record = await experiment.record_of(1)
    assert "time limit" in (summary.stopped_because or "")
    assert (summary.failed, summary.running, summary.canceled) == (2, 0, 0)
    assert record.status is Status.TIMED_OUT
    assert "timeouts.experiment" in (record.failure or "")
    assert sorted(lab.steps("teardown")) == [1, 2]


async def test_trials_due_later_are_waited_for_and_priorities_go_first(url: str) -> None:
    lab = Lab()
    async with opened(url) as experiment:
        later = utc_now() + timedelta(seconds=0.7)
        await experiment.add_trials(
            [
                NewTrial(tunables=SPACE.assign({"x": 1}), not_before=later, priority=9),
                NewTrial(tunables=SPACE.assign({"x": 2})),
                NewTrial(tunables=SPACE.assign({"x": 3}), priority=5),
            ]
        )
        summary = await scheduler(experiment, lab, trials=3, slots=1).run()
    assert utc_now() >= later
    assert (summary.succeeded, lab.steps("run")) == (3, [3, 2, 1])


async def test_promising_configurations_are_repeated_on_further_hosts_and_bad_ones_are_not(url: str) -> None:
    lab = Lab()
    runs: dict[int, list[str]] = defaultdict(list)

    async def run(env: ScriptedEnv) -> Mapping[str, Any]:
        x = int(str(env.parameters["x"]))
        host = str(env.parameters["host"])
        runs[x].append(host)
        # Configurations 3 and 4 are as good as each other, the others far worse; hosts differ by little.
        noise = {"a": 0.0, "b": 0.4, "c": -0.3, "d": 0.1}[host]
        return {"score": (1 if x in (3, 4) else 100 + x) + noise}

    lab.on_run = run
    async with opened(url) as experiment:
        engine = scheduler(
            experiment,
            lab,
            trials=60,
            hosts=[Host(name=name) for name in "abcd"],
            optimizer=Counting(size=8),
            adaptive=AdaptiveRepeats(most=4),
        )
        summary = await engine.run()
    assert {x: len(hosts) for x, hosts in runs.items() if x in (3, 4)} == {3: 4, 4: 4}
    assert sum(len(hosts) for x, hosts in runs.items() if x not in (3, 4)) <= 9, runs
    assert {frozenset(runs[3]), frozenset(runs[4])} == {frozenset("abcd")}, "each on every host once"
    assert summary.best is not None
    assert summary.best.config["x"] in (3, 4)


async def test_a_host_that_stands_out_is_named(url: str) -> None:
    lab = Lab()

    async def run(env: ScriptedEnv) -> Mapping[str, Any]:
        x, host = int(str(env.parameters["x"])), str(env.parameters["host"])
        return {"score": (100 + x) * (2.0 if host == "f" else 1.0) + 0.1 * (hash((x, host)) % 7)}

    lab.on_run = run
    async with opened(url) as experiment:
        summary = await scheduler(
            experiment,
            lab,
            trials=60,
            repeats=6,
            hosts=[Host(name=name) for name in "abcdef"],
            adaptive=AdaptiveRepeats(most=6, score="median"),
        ).run()
    assert [one.host for one in summary.outlier_hosts] == ["f"]
    assert summary.outlier_hosts[0].deviation > 0


class _Picky(ScriptedEnv):
    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        raise OSError("no such device")


async def test_an_environment_that_cannot_be_made_is_a_set_up_failure(url: str) -> None:
    lab, made = Lab(), 0

    def make(_host: Host, _runner_id: int) -> Environment:
        nonlocal made
        made += 1
        return _Picky(lab) if made <= 2 else ScriptedEnv(lab)

    async with opened(url) as experiment:
        retries = {FailureKind.SETUP: Retry(times=2, pause=AT_ONCE)}
        summary = await scheduler(experiment, lab, trials=1, make_environment=make, retries=retries).run()
    assert (summary.succeeded, made) == (1, 3)


class _Deaf(ScriptedEnv):
    """Never answers when asked for its status; runs until its second poll has been cut off."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab)
        self.cut = 0
        self.cut_twice = anyio.Event()

    async def _run(self) -> RunResult:
        await self.cut_twice.wait()
        return await super()._run()

    async def _status(self) -> StatusReport:
        try:
            await anyio.sleep_forever()
        finally:
            self.cut += 1
            if self.cut == 2:
                self.cut_twice.set()
        raise AssertionError("nobody wakes it")


async def test_status_polls_that_hang_are_cut_off_beside_the_run_and_after_it(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    lab = Lab()
    async with opened(url) as experiment:
        limits = Timeouts(status=SOON)
        env = _Deaf(lab)
        engine = scheduler(
            experiment,
            lab,
            trials=1,
            timeouts=limits,
            poll_period=SOON,
            slots=1,
            make_environment=lambda *_: env,
        )
        summary = await engine.run()
    assert (summary.succeeded, env.cut, env.is_clean) == (1, 3, True)
    assert caplog.text.count("a status poll took longer than") == 3
