"""What every pruner must keep. Subclass ``PrunerContract`` in a test module to check your own."""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Iterator
from typing import Protocol

import pytest

from windtunnel.model import Direction
from windtunnel.pruners import Abort, Pruner

__all__ = ["PrunerContract", "PrunerFactory"]

OBJECTIVES: dict[str, Direction] = {"score": "min", "rate": "max"}
_STEPS = 12
_MANY = 1500


class PrunerFactory(Protocol):
    """Makes the pruner under test; a pruner class is one."""

    def __call__(self, *, objectives: dict[str, Direction]) -> Pruner: ...


class PrunerContract:
    """The promises of ``Pruner``, as tests. A subclass gives the fixture ``make``.

    The objectives are ``score``, to be minimized, and ``rate``, to be maximized. Options that stop many
    trials make the tests sharper; ``most_ended`` is for a pruner that remembers more trials than ours.

    ::

        class TestMine(PrunerContract):
            @pytest.fixture
            def make(self) -> PrunerFactory:
                return Mine
    """

    most_ended = _MANY
    """How many trials it takes until its memory does not grow any more."""

    @pytest.fixture
    def make(self) -> PrunerFactory:
        """How the pruner under test is made."""
        raise NotImplementedError("a subclass of PrunerContract gives the fixture 'make'")

    def test_the_same_calls_bring_the_same_answers(self, make: PrunerFactory) -> None:
        one, two = make(objectives=OBJECTIVES), make(objectives=OBJECTIVES)
        assert _experiment(one, trials=40) == _experiment(two, trials=40)

    def test_a_trial_that_runs_again_is_judged_as_if_new(self, make: PrunerFactory) -> None:
        pruner = make(objectives=OBJECTIVES)
        _experiment(pruner, trials=40)
        first = list(_life(pruner, 1000, level=50.0))
        pruner.ended(1000, None)
        assert list(_life(pruner, 1000, level=50.0)) == first

    def test_a_verdict_has_a_reason_and_finite_scores_of_objectives(self, make: PrunerFactory) -> None:
        verdicts = _experiment(make(objectives=OBJECTIVES), trials=100)
        assert any(verdicts), "the contract has to see the pruner stop a trial; give it eager options"
        for verdict in verdicts:
            if verdict is not None:
                assert isinstance(verdict, Abort)
                assert verdict.reason.strip()
                scores = verdict.scores
                assert scores is None or scores.keys() <= OBJECTIVES.keys()
                assert scores is None or all(math.isfinite(score) for score in scores.values())

    def test_only_the_metrics_it_wants_bring_a_verdict(self, make: PrunerFactory) -> None:
        pruner = make(objectives=OBJECTIVES)
        wanted = pruner.metrics
        if wanted is None:
            pytest.skip(f"{type(pruner).__name__} wants all metrics")
        _experiment(pruner, trials=40)
        assert pruner.metrics == wanted
        for value in (-1e9, 0.0, 1e9):
            assert pruner.observe(1000, "no such metric", value, 10.0) is None

    def test_a_pruner_without_ticks_says_nothing_to_one(self, make: PrunerFactory) -> None:
        pruner = make(objectives=OBJECTIVES)
        if pruner.ticks:
            pytest.skip(f"{type(pruner).__name__} has ticks")
        _experiment(pruner, trials=40)
        assert pruner.tick(1000, 1e9) is None

    def test_values_that_are_no_finite_numbers_are_taken(self, make: PrunerFactory) -> None:
        pruner = make(objectives=OBJECTIVES)
        _experiment(pruner, trials=10)
        for trial_id, value in enumerate((math.nan, math.inf, -math.inf, 1e308, -1e308), start=1000):
            for elapsed_s in (0.0, 1.0, 2.0, 100.0):
                for metric in sorted(pruner.metrics or OBJECTIVES):
                    verdict = pruner.observe(trial_id, metric, value, elapsed_s)
                    assert verdict is None or math.isfinite(sum((verdict.scores or {}).values()))
            pruner.ended(trial_id, {"score": value, "rate": value})
        _experiment(pruner, trials=10)

    def test_trials_it_never_saw_may_end(self, make: PrunerFactory) -> None:
        pruner = make(objectives=OBJECTIVES)
        pruner.ended(1000, None)
        pruner.ended(1001, {})
        pruner.ended(1001, {"score": 1.0})
        pruner.tick(1002, 1.0)
        pruner.ended(1002, None)

    def test_memory_does_not_grow_with_the_number_of_trials(self, make: PrunerFactory) -> None:
        pruner = make(objectives=OBJECTIVES)
        sizes = []
        for first in (0, self.most_ended):
            for trial_id in range(first, first + self.most_ended):
                list(_life(pruner, trial_id, level=trial_id % 20))
                pruner.ended(trial_id, None if trial_id % 10 == 9 else {"score": 1.0, "rate": 1.0})
            sizes.append(len(pickle.dumps(pruner)))
        assert sizes[1] < 1.1 * sizes[0] + 1000


def _experiment(pruner: Pruner, *, trials: int) -> list[Abort | None]:
    """The answers to trials of which two run at a time; one in ten fails, those to be stopped are."""
    answers: list[Abort | None] = []
    for trial_id in range(0, trials, 2):
        pair = {i: _life(pruner, i, level=i * 7 % 20) for i in (trial_id, trial_id + 1)}
        for _ in range(_STEPS):
            for i, life in list(pair.items()):
                answers.append(next(life))
                if answers[-1] is not None:
                    pruner.ended(i, None)
                    del pair[i]
        for i in pair:
            pruner.ended(i, None if i % 10 == 9 else {"score": float(i % 20), "rate": float(i % 7)})
    return answers


def _life(pruner: Pruner, trial_id: int, *, level: float) -> Iterator[Abort | None]:
    """The answers to the samples of one trial, noise around ``level``, and to its ticks: one a step."""
    noise = random.Random(trial_id)  # noqa: S311 - reproducible, not secret
    for step in range(1, _STEPS + 1):
        elapsed_s = 2.0 * step
        answers = [
            pruner.observe(trial_id, metric, level + noise.uniform(-1, 1), elapsed_s)
            for metric in sorted(OBJECTIVES if pruner.metrics is None else pruner.metrics)
        ]
        if pruner.ticks:
            answers.append(pruner.tick(trial_id, elapsed_s))
        yield next(filter(None, answers), None)
