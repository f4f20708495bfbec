"""The contract over all rules, those that stand alone, their combination, and the registry."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from functools import partial
from types import ModuleType
from typing import Any

import pytest

from windtunnel.errors import ConfigError
from windtunnel.model import Direction
from windtunnel.options import Options
from windtunnel.pruners import Abort, Pruner, Pruners, make_pruner, pruner_class
from windtunnel.pruners.halving import Halving
from windtunnel.pruners.median import Median
from windtunnel.pruners.threshold import Threshold
from windtunnel.pruners.worst import Worst
from windtunnel.testing.pruners import PrunerContract, PrunerFactory

OBJECTIVES: dict[str, Direction] = {"score": "min", "rate": "max"}


def build(name: str, objectives: dict[str, Direction] | None = None, **options: Any) -> Pruner:
    return make_pruner(name, objectives=objectives or OBJECTIVES, options=options)


class Odd(Pruner):
    """Wants everything; stops every trial with an odd number, and notes what it hears."""

    def __init__(self, *, objectives: Mapping[str, Direction], word: str = "odd") -> None:
        super().__init__(objectives=objectives)
        self.word = word
        self.heard: list[tuple[Any, ...]] = []

    def observe(self, trial_id: int, metric: str, value: float, elapsed_s: float) -> Abort | None:
        self.heard.append((trial_id, metric))
        return Abort(self.word, None) if trial_id % 2 else None

    def tick(self, trial_id: int, elapsed_s: float) -> Abort | None:
        self.heard.append((trial_id, "tick"))
        return Abort(self.word, None) if self.ticks and trial_id % 2 else None

    def ended(self, trial_id: int, scores: Mapping[str, float] | None) -> None:
        self.heard = [*self.heard[-9:], (trial_id, scores)]


class TestMedian(PrunerContract):
    @pytest.fixture
    def make(self) -> PrunerFactory:
        return partial(Median, interval=0.5)


class TestMedianBySamples(PrunerContract):
    @pytest.fixture
    def make(self) -> PrunerFactory:
        return partial(Median, metric="rate", budget="samples")


class TestMedianByMetric(PrunerContract):
    @pytest.fixture
    def make(self) -> PrunerFactory:
        return partial(Median, budget="done")


class TestHalving(PrunerContract):
    @pytest.fixture
    def make(self) -> PrunerFactory:
        return partial(Halving, least=4.0, factor=2)


class TestHalvingByMean(PrunerContract):
    @pytest.fixture
    def make(self) -> PrunerFactory:
        return partial(Halving, budget="samples", least=2.0, value="mean")


class TestWorst(PrunerContract):
    @pytest.fixture
    def make(self) -> PrunerFactory:
        return Worst


class TestThreshold(PrunerContract):
    @pytest.fixture
    def make(self) -> PrunerFactory:
        def make(*, objectives: dict[str, Direction]) -> Pruner:
            return build("threshold", objectives, metric="score", above=15, samples=3, tell="partial")

        return make


class TestSeveral(PrunerContract):
    @pytest.fixture
    def make(self) -> PrunerFactory:
        def make(*, objectives: dict[str, Direction]) -> Pruner:
            return Pruners([Median(objectives=objectives), Worst(objectives=objectives)])

        return make


# Worse than the worst so far


def after(*scores: float, **options: Any) -> Pruner:
    """A ``worst`` rule that has seen trials succeed with these scores."""
    pruner = build("worst", **{"least_trials": 1, **options})
    for trial_id, score in enumerate(scores, start=100):
        pruner.ended(trial_id, {"score": score})
    return pruner


def test_a_trial_that_takes_longer_than_the_worst_is_stopped() -> None:
    pruner = after(3.0, 10.0, 5.0, epsilon=0.5)
    assert pruner.ticks
    assert pruner.tick(1, 10.0) is None
    verdict = pruner.tick(1, 10.1)
    assert verdict is not None
    assert verdict.scores == {"score": 15.0}
    assert all(part in verdict.reason for part in ("worst", "score", "10.1", "10", "3 succeeded"))


def test_the_objective_has_a_unit() -> None:
    pruner = after(1500.0, scale=1000.0)
    assert pruner.tick(1, 1.5) is None
    assert pruner.tick(1, 1.6) is not None


def test_trials_that_did_not_succeed_are_no_measure() -> None:
    pruner = after(3.0, least_trials=2)
    pruner.ended(1, None)
    pruner.ended(2, {"rate": 5.0})
    assert pruner.tick(3, 100.0) is None
    pruner.ended(3, {"score": 2.0})
    assert pruner.tick(4, 3.5) is not None


@pytest.mark.parametrize("score", [0.0, -5.0, math.nan, math.inf])
def test_a_score_that_is_no_duration_stops_nobody(score: float) -> None:
    assert after(score).tick(1, 1e6) is None


def test_what_is_told_stays_finite() -> None:
    verdict = after(1e308, epsilon=10.0).tick(1, 1.1e308)
    assert verdict is not None
    assert verdict.scores == {"score": sys.float_info.max}


# Limits


def watching(metric: str, **options: Any) -> Pruner:
    return make_pruner("threshold", objectives=OBJECTIVES, options={"metric": metric, **options})


def verdicts(pruner: Pruner, *samples: tuple[float, float], metric: str = "p99") -> list[bool]:
    """Whether each sample (elapsed, value) of one trial brought a verdict."""
    return [pruner.observe(1, metric, value, elapsed) is not None for elapsed, value in samples]


def test_one_violation_is_enough_by_default() -> None:
    above, below = watching("p99", above=250), watching("p99", below=1)
    assert verdicts(above, (0, 250), (1, 250.1)) == [False, True]
    assert verdicts(below, (0, 1), (1, 0.9)) == [False, True]


def test_violations_in_a_row_are_counted() -> None:
    pruner = watching("p99", above=1, samples=2)
    assert verdicts(pruner, (0, 2), (1, 1), (2, 2), (3, 3)) == [False, False, False, True]


def test_a_violation_has_to_last() -> None:
    pruner = watching("p99", above=1, **{"for": "10s"})
    samples = (0, 2), (9, 2), (10, 1), (11, 2), (20.9, 2), (21, 2)
    assert verdicts(pruner, *samples) == [False, False, False, False, False, True]


def test_nothing_counts_before_the_warmup_is_over() -> None:
    pruner = watching("p99", above=1, samples=2, warmup="10s")
    assert verdicts(pruner, (8, 2), (9, 2), (10, 2), (11, 2)) == [False, False, False, True]


def test_nan_keeps_a_limit() -> None:
    pruner = watching("p99", above=1, samples=2)
    assert verdicts(pruner, (0, math.nan), (1, 2), (2, math.nan), (3, 2)) == [False] * 4


def test_trials_have_streaks_of_their_own() -> None:
    pruner = watching("p99", above=1, samples=2)
    assert pruner.observe(1, "p99", 2, 0) is None
    assert pruner.observe(2, "p99", 2, 0) is None
    assert pruner.observe(2, "p99", 2, 1) is not None
    pruner.ended(1, None)
    assert pruner.observe(1, "p99", 2, 2) is None


def test_several_limits_are_watched_apart() -> None:
    rules = [
        {"metric": "p99", "above": 1, "samples": 3},
        {"metric": "p99", "above": 10},
        {"metric": "rate", "below": 5, "tell": "partial"},
    ]
    pruner = build("threshold", rules=rules)
    assert pruner.metrics == frozenset({"p99", "rate"})
    assert verdicts(pruner, (0, 2), (1, 2), (2, 2)) == [False, False, True]
    assert verdicts(pruner, (3, 1), (4, 11)) == [False, True]
    verdict = pruner.observe(1, "rate", 4, 5.0)
    assert verdict is not None
    assert verdict.scores == {"rate": 4.0}


def test_a_limit_says_what_was_broken_and_tells_nothing() -> None:
    pruner = watching("score", above=250, **{"for": "2s"})
    pruner.observe(1, "score", 300, 1.0)
    verdict = pruner.observe(1, "score", 400, 4.5)
    assert verdict is not None
    assert verdict.scores is None
    assert all(part in verdict.reason for part in ("score", "400", "above 250", "3.5 s"))


# Several rules


def test_every_rule_hears_what_it_wants_and_the_first_that_speaks_wins() -> None:
    first, second = Odd(objectives=OBJECTIVES, word="first"), Odd(objectives=OBJECTIVES, word="second")
    second.ticks = True
    pruner = Pruners([watching("p99", above=1), first, second])
    assert pruner.metrics is None
    assert pruner.ticks
    assert pruner.observe(1, "score", 5.0, 1.0) == Abort("first", None)
    assert pruner.tick(1, 1.0) == Abort("second", None)
    assert pruner.observe(2, "score", 5.0, 1.0) is None
    verdict = pruner.observe(1, "p99", 5.0, 1.0)
    assert verdict is not None
    assert "threshold" in verdict.reason
    pruner.ended(1, {"score": 2.0})
    everything = [(1, "score"), (2, "score"), (1, "p99"), (1, {"score": 2.0})]
    assert first.heard == everything
    assert second.heard == [everything[0], (1, "tick"), *everything[1:]]


def test_together_they_want_what_each_wants() -> None:
    pruner = Pruners([watching("p99", above=1), build("median", budget="done")])
    assert pruner.metrics == frozenset({"p99", "score", "done"})
    assert not pruner.ticks
    assert Pruners([]).metrics == frozenset()


# The registry


@pytest.mark.parametrize(
    ("name", "cls"), [("median", Median), ("halving", Halving), ("worst", Worst), ("threshold", Threshold)]
)
def test_a_pruner_has_a_short_name_and_a_dotted_path(name: str, cls: type[Pruner]) -> None:
    assert pruner_class(name) is cls
    assert pruner_class(f"{cls.__module__}.{cls.__qualname__}") is cls


def test_a_users_pruner_is_built_with_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    class MineOptions(Options):
        word: str = "no"

    class Mine(Odd):
        options_class = MineOptions

    module = ModuleType("users_module")
    module.Mine = Mine  # type: ignore[attr-defined] # a module made for this test
    monkeypatch.setitem(sys.modules, "users_module", module)
    built = build("users_module.Mine", word="yes")
    assert isinstance(built, Mine)
    assert (built.word, built.objectives, built.metrics, built.ticks) == ("yes", OBJECTIVES, None, False)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("medain", ("'medain'", "did you mean 'median'?")),
        ("asha", ("'asha'", "known: halving, median, threshold, worst")),
        ("no_such_module.Mine", ("'no_such_module'", "cannot be imported", "ModuleNotFoundError")),
        (".Mine", ("'.Mine'",)),
        ("windtunnel.pruners.median.Nothing", ("subclass of Pruner", "None")),
        ("windtunnel.pruners.Abort", ("subclass of Pruner", "Abort")),
        ("windtunnel.pruners.Pruner", ("concrete",)),
    ],
)
def test_what_is_not_a_pruner_is_refused(name: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        pruner_class(name)
    assert caught.value.path == ("name",)
    assert all(part in caught.value.message for part in parts)


def limit(**changed: Any) -> dict[str, Any]:
    return {"metric": "p99", "above": 1, **changed}


@pytest.mark.parametrize(
    ("name", "options", "path", "part"),
    [
        ("median", {"warmupp": 3}, ("warmupp",), "did you mean 'warmup'?"),
        ("median", {"metric": "scor"}, ("metric",), "did you mean 'score'?"),
        ("median", {"metric": "p99"}, ("metric",), "direction: min or max"),
        ("median", {"direction": "max"}, ("direction",), "'score' is min"),
        ("median", {"direction": "up", "metric": "p99"}, ("direction",), "'min'"),
        ("median", {"budget": "score"}, ("budget",), "itself"),
        ("median", {"warmup": -1}, ("warmup",), "at least 0"),
        ("median", {"interval": 0}, ("interval",), "above 0"),
        ("median", {"budget": "samples", "warmup": "5s"}, ("warmup",), "'5s'"),
        ("median", {"least_trials": 0}, ("least_trials",), "at least 1"),
        ("halving", {"factor": 1}, ("factor",), "at least 2"),
        ("halving", {"least": "soon"}, ("least",), "expected a duration"),
        ("halving", {"value": "men"}, ("value",), "did you mean 'mean'?"),
        ("worst", {"metric": "rate"}, ("metric",), "'rate', which is maximized"),
        ("worst", {"metric": "scores"}, ("metric",), "did you mean 'score'?"),
        ("worst", {"epsilon": 0}, ("epsilon",), "above 0"),
        ("threshold", {}, ("metric",), "missing key 'metric'"),
        ("threshold", {"metric": "p99"}, (), "one of above and below"),
        ("threshold", limit(below=1), (), "one of above and below"),
        ("threshold", limit(above=math.nan), (), "one of above and below"),
        ("threshold", limit(samples=2, **{"for": "1s"}), (), "found both"),
        ("threshold", limit(sample=2), ("sample",), "did you mean 'samples'?"),
        ("threshold", limit(tell="partial"), ("tell",), "only an objective"),
        ("threshold", {"rules": [limit(), limit(abov=2)]}, ("rules", 1, "abov"), "did you mean 'above'?"),
        ("threshold", {"rules": [limit(), limit(tell="partial")]}, ("rules", 1, "tell"), "only an objective"),
        ("threshold", {"rules": []}, ("rules",), "at least 1"),
    ],
)
def test_a_bad_option_is_refused_with_its_place(
    name: str, options: dict[str, Any], path: tuple[Any, ...], part: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build(name, **options)
    assert caught.value.path == path
    assert part in caught.value.message


@pytest.mark.parametrize("name", ["median", "halving", "worst"])
def test_without_objectives_there_is_nothing_to_compare(name: str) -> None:
    with pytest.raises(ConfigError, match="no objective"):
        make_pruner(name, objectives={})
