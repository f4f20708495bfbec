"""The median rule against an oracle that keeps everything, and its digest."""

from __future__ import annotations

import math
import random
import statistics
from collections import deque
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.model import Direction
from windtunnel.pruners import Abort
from windtunnel.pruners.averages import MOST_POINTS, Averages
from windtunnel.pruners.median import Median

BUDGETS = ("elapsed", "samples", "done")


class Event(NamedTuple):
    """What happens to a trial: a sample after some more progress, or its end."""

    trial_id: int
    more: float
    value: int | None
    succeeds: bool = False


SAMPLES = st.builds(Event, st.integers(1, 5), st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0]), st.integers(-3, 3))
ENDS = st.builds(Event, st.integers(1, 5), st.just(0.0), st.none(), st.booleans())
EVENTS = st.lists(st.one_of(SAMPLES, SAMPLES, SAMPLES, ENDS), max_size=80)


class Feed:
    """Makes calls out of events; trials that a verdict stops end at once, unless ``stopping`` is off."""

    def __init__(self, pruner: Median, budget: str, *, stopping: bool = True) -> None:
        self.pruner = pruner
        self.budget = budget
        self.stopping = stopping
        self.progress: dict[int, float] = {}

    def take(self, event: Event) -> Abort | None:
        trial_id, more, value, succeeds = event
        if value is None:
            self.end(trial_id, succeeds)
            return None
        progress = self.progress.get(trial_id, 0.0) + (1 if self.budget == "samples" else more)
        self.progress[trial_id] = progress
        if self.budget == "done":
            assert self.pruner.observe(trial_id, "done", progress, 1.0) is None
        verdict = self.pruner.observe(trial_id, "score", value, progress)
        if verdict is not None and self.stopping:
            self.end(trial_id, False)
        return verdict

    def end(self, trial_id: int, succeeds: bool) -> None:
        self.progress.pop(trial_id, None)
        self.pruner.ended(trial_id, {"score": 0.0} if succeeds else None)


class Oracle:
    """The definition of the rule, word by word: the best value by step s, against the median of the running
    averages of what the trials that succeeded had reported up to step s."""

    def __init__(self, *, sign: int, warmup: float, least_trials: int, interval: float) -> None:
        self.sign = sign
        self.warmup = warmup
        self.least_trials = least_trials
        self.interval = interval
        self.running: dict[int, list[tuple[float, int]]] = {}
        self.succeeded: deque[list[tuple[float, int]]] = deque()
        self.steps: dict[int, set[float]] = {}

    def sample(self, trial_id: int, progress: float, value: int) -> bool:
        seen = self.running.setdefault(trial_id, [])
        seen.append((progress, value))
        step = progress // self.interval * self.interval
        steps = self.steps.setdefault(trial_id, set())
        if progress < self.warmup or step in steps:
            return False
        steps.add(step)
        averages = [
            statistics.mean(reported)
            for curve in self.succeeded
            if (reported := [value for at, value in curve if at <= step])
        ]
        if len(averages) < self.least_trials:
            return False
        median = statistics.median(averages)
        values = [value for _, value in seen]
        return max(values) < median if self.sign < 0 else min(values) > median

    def end(self, trial_id: int, succeeds: bool) -> None:
        seen = self.running.pop(trial_id, None)
        self.steps.pop(trial_id, None)
        if seen and succeeds:
            self.succeeded.append(seen)


@pytest.mark.parametrize("budget", BUDGETS)
@given(
    events=EVENTS,
    direction=st.sampled_from(["min", "max"]),
    warmup=st.sampled_from([0.0, 1.0, 2.5]),
    least_trials=st.integers(1, 3),
    interval=st.sampled_from([0.5, 1.0, 2.0]),
)
@settings(deadline=None)
def test_it_says_what_the_definition_says(
    budget: str,
    events: list[Event],
    direction: Direction,
    warmup: float,
    least_trials: int,
    interval: float,
) -> None:
    options: dict[str, Any] = {"warmup": warmup, "least_trials": least_trials, "interval": interval}
    feed = Feed(Median(objectives={"score": direction}, budget=budget, **options), budget)
    oracle = Oracle(sign=1 if direction == "min" else -1, **options)
    for event in events:
        trial_id, _, value, succeeds = event
        if value is None:
            feed.take(event)
            oracle.end(trial_id, succeeds)
            continue
        before = feed.progress.get(trial_id, 0.0)
        verdict = feed.take(event)
        progress = before + (1 if budget == "samples" else event.more)
        assert (verdict is not None) == oracle.sample(trial_id, progress, value)
        if verdict is not None:
            oracle.end(trial_id, False)


@given(events=EVENTS, budget=st.sampled_from(BUDGETS))
@settings(deadline=None)
def test_the_best_trial_is_never_stopped(events: list[Event], budget: str) -> None:
    pruner = Median(objectives={"score": "min"}, budget=budget, least_trials=1, interval=0.25)
    feed = Feed(pruner, budget)
    for event in events:
        best = event.trial_id == 1 and event.value is not None
        verdict = feed.take(event._replace(value=-4) if best else event)
        assert not best or verdict is None


@given(events=EVENTS, budget=st.sampled_from(BUDGETS))
@settings(deadline=None, max_examples=25)
def test_what_is_coarse_is_judged_as_if_it_had_always_been(events: list[Event], budget: str) -> None:
    coarse = Feed(Median(objectives={"score": "min"}, budget=budget, least_trials=1, interval=4.0), budget)
    fine = Feed(Median(objectives={"score": "min"}, budget=budget, least_trials=1, interval=1.0), budget)
    for event in events:
        for feed in (coarse, fine):
            feed.stopping = False
            feed.take(event)
    for feed in (coarse, fine):
        for _ in range(4 * MOST_POINTS):
            feed.take(Event(9, 1.0, 0))
        for trial_id in (1, 2, 3, 4, 5, 9):
            feed.end(trial_id, True)
    for value in (-3, -1, 0, 1, 3):
        for progress in range(1, 20):
            event = Event(10 + value, 1.0, value)
            assert (coarse.take(event) is None) == (fine.take(event) is None), (value, progress)


def finished(pruner: Median, trial_id: int, *values: float) -> None:
    """One trial with a value each second that succeeds."""
    for elapsed_s, value in enumerate(values, start=1):
        pruner.observe(trial_id, "score", value, elapsed_s)
    pruner.ended(trial_id, {"score": values[-1]})


def test_the_verdict_names_what_was_compared_and_tells_the_best_value() -> None:
    pruner = Median(objectives={"score": "max"}, least_trials=2)
    finished(pruner, 1, 10, 20)
    finished(pruner, 2, 30, 40)
    assert pruner.observe(3, "score", 20.0, 1.0) is None  # as good as the median
    verdict = pruner.observe(4, "score", 19.5, 1.5)
    assert verdict is not None
    assert verdict.scores == {"score": 19.5}
    assert all(part in verdict.reason for part in ("median", "score", "19.5", "1.5 s", "20", "2 succeeded"))
    assert pruner.observe(3, "score", 5.0, 2.0) is not None  # its best, 20, is below 25


def test_of_telemetry_that_is_no_objective_the_optimizer_is_told_nothing() -> None:
    pruner = Median(objectives={"score": "min"}, metric="tps", direction="max", least_trials=1)
    pruner.observe(1, "tps", 10.0, 1.0)
    pruner.ended(1, {"score": 1.0})
    verdict = pruner.observe(2, "tps", 9.0, 1.0)
    assert verdict is not None
    assert verdict.scores is None


def test_nan_is_not_counted() -> None:
    pruner = Median(objectives={"score": "min"}, budget="samples", least_trials=1, warmup=2.0)
    finished(pruner, 1, 1, math.nan, 1)
    assert pruner.observe(2, "score", 5.0, 1.0) is None
    assert pruner.observe(2, "score", math.nan, 2.0) is None
    assert pruner.observe(2, "score", 5.0, 3.0) is not None


def test_progress_that_nobody_says_stops_nobody() -> None:
    pruner = Median(objectives={"score": "min"}, budget="epoch", least_trials=1)
    finished(pruner, 1, 1, 1)
    assert pruner.observe(2, "score", 5.0, 1.0) is None
    for wrong in (math.nan, math.inf, -1.0):
        pruner.observe(2, "epoch", wrong, 1.0)
        assert pruner.observe(2, "score", 5.0, 1.0) is None


def test_an_absurd_progress_is_survived() -> None:
    pruner = Median(objectives={"score": "min"}, budget="epoch", least_trials=1, interval=1e-300)
    pruner.observe(1, "epoch", 1e308, 1.0)
    assert pruner.observe(1, "score", 5.0, 1.0) is None
    pruner.ended(1, {"score": 1.0})


def test_the_digest_forgets_the_oldest_and_stays_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windtunnel.pruners.averages.MOST_ENDED", 7)
    pruner = Median(objectives={"score": "min"}, budget="samples", least_trials=1)
    averages: Averages = pruner._averages
    chance = random.Random(1)
    lives = [[chance.randint(0, 9) for _ in range(chance.randint(1, 30))] for _ in range(60)]
    for trial_id, life in enumerate(lives):
        finished(pruner, trial_id, *life)
        kept = lives[max(0, trial_id - 6) : trial_id + 1]
        for step in (1, 5, 20, 29, 40):
            assert list(averages.at(step)) == sorted(statistics.fmean(values[:step]) for values in kept)
    assert not averages.at(0)


def test_the_digest_forgets_rightly_what_has_become_coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windtunnel.pruners.averages.MOST_ENDED", 2)
    pruner = Median(objectives={"score": "min"}, budget="samples", least_trials=1)
    for trial_id, (first, further) in enumerate(((5, 1), (3, 5))):
        finished(pruner, trial_id, first, *[further] * 99)
    finished(pruner, 3, *range(2 * MOST_POINTS))
    finished(pruner, 4, 1, 2, 3)
    averages: Averages = pruner._averages
    assert averages.step == 2
    assert list(averages.at(1)) == [0.5, 1.5]
    assert list(averages.at(50)) == [2.0, 49.5]


def test_a_trial_is_judged_once_an_interval() -> None:
    pruner = Median(objectives={"score": "min"}, least_trials=1, interval=10.0)
    assert pruner.observe(1, "score", 5.0, 10.0) is None
    for elapsed_s in (1.0, 12.0):
        pruner.observe(2, "score", 1.0, elapsed_s)
    pruner.ended(2, {"score": 1.0})
    assert pruner.observe(1, "score", 5.0, 19.0) is None
    assert pruner.observe(1, "score", 5.0, 20.0) is not None


def test_a_trial_is_judged_on_when_the_interval_has_doubled() -> None:
    pruner = Median(objectives={"score": "min"}, least_trials=1)
    assert pruner.observe(1, "score", 5.0, MOST_POINTS - 1.0) is None
    for elapsed_s in (1.0, MOST_POINTS + 1.0):
        pruner.observe(2, "score", 1.0, elapsed_s)
    pruner.ended(2, {"score": 1.0})
    assert pruner.observe(1, "score", 5.0, MOST_POINTS) is not None


def test_a_running_trial_is_bounded() -> None:
    pruner = Median(objectives={"score": "min"}, interval=0.01)
    for sample in range(20_000):
        pruner.observe(1, "score", 1.0, sample / 10)
    assert len(pruner._running[1].points) <= MOST_POINTS
