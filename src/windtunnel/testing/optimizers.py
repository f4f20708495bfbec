"""What every optimizer must keep. Subclass ``OptimizerContract`` in a test module to check your own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import pytest

from windtunnel.model import History, Status
from windtunnel.objectives import Objective
from windtunnel.optimizers import Optimizer
from windtunnel.tunables import TunableGroups

__all__ = ["OptimizerContract", "OptimizerFactory"]

OBJECTIVES = {"score": Objective(direction="min")}


class OptimizerFactory(Protocol):
    """Makes the optimizer under test; an optimizer class is one."""

    def __call__(
        self,
        *,
        tunables: TunableGroups,
        objectives: dict[str, Objective],
        seed: int | None = None,
        start_with_defaults: bool = True,
        asked: int = 0,
    ) -> Optimizer: ...


class OptimizerContract:
    """The promises of ``Optimizer``, as tests. A subclass gives the fixture ``make``; ``space`` is optional.

    ::

        class TestMine(OptimizerContract):
            @pytest.fixture
            def make(self) -> OptimizerFactory:
                return MyOptimizer
    """

    @pytest.fixture
    def make(self) -> OptimizerFactory:
        """The factory of the optimizer under test."""
        raise NotImplementedError("a subclass of OptimizerContract gives the fixture 'make'")

    budget: int = 40
    """Suggestions that a test takes at most; fewer for an engine that takes its time."""

    results: int = 12
    """How many there are when fifty in a row are asked for; fewer for one that takes longer with each."""

    @pytest.fixture
    def conditional(self) -> TunableGroups:
        """Tunables that depend on each other, and a constraint that one configuration in four keeps."""
        params = {
            "kind": {"type": "categorical", "values": ["lru", "fifo"], "default": "lru"},
            "size": {"type": "int", "range": [1, 1000], "default": 10, "when": {"kind": "lru"}},
            "low": {"type": "float", "range": [0, 1], "default": 0.1},
            "high": {"type": "float", "range": [0, 1], "default": 0.9},
        }
        return TunableGroups({"all": {"params": params}}, constraints=["low <= high * 0.5"])

    @pytest.fixture
    def space(self) -> TunableGroups:
        """Tunables of each type."""
        params = {
            "cache": {"type": "int", "range": [64, 65536], "log": True, "default": 2048},
            "ratio": {"type": "float", "range": [0, 1], "default": 0.5},
            "limit": {"type": "int", "range": [1, 100], "special": [-1], "default": -1},
            "steps": {"type": "int", "range": [0, 1000], "quantization_bins": 11, "default": 0},
            "mode": {"type": "categorical", "values": ["delete", "wal"], "default": "wal"},
        }
        return TunableGroups({"all": {"cost": 1, "params": params}})

    def test_asking_for_none_gives_none(self, make: OptimizerFactory, space: TunableGroups) -> None:
        optimizer = make(tunables=space, objectives=OBJECTIVES, seed=1)
        assert optimizer.ask(0) == []
        assert optimizer.asked == 0

    def test_it_never_gives_more_than_asked_and_counts_what_it_gave(
        self, make: OptimizerFactory, space: TunableGroups
    ) -> None:
        optimizer = make(tunables=space, objectives=OBJECTIVES, seed=1)
        given = 0
        for count in (1, 3, 5):
            suggestions = optimizer.ask(count)
            given += len(suggestions)
            assert len(suggestions) <= count
            assert optimizer.asked == given

    def test_what_it_gives_are_configurations_of_the_space(
        self, make: OptimizerFactory, space: TunableGroups
    ) -> None:
        suggestions = make(tunables=space, objectives=OBJECTIVES, seed=1).ask(20)
        assert suggestions
        assert all(space.assign(suggestion) == suggestion for suggestion in suggestions)

    def test_the_defaults_come_first_when_wanted(self, make: OptimizerFactory, space: TunableGroups) -> None:
        optimizer = make(tunables=space, objectives=OBJECTIVES, seed=1, start_with_defaults=True)
        assert optimizer.ask(2)[0].is_defaults()

    def test_the_same_seed_gives_the_same(self, make: OptimizerFactory, space: TunableGroups) -> None:
        one = make(tunables=space, objectives=OBJECTIVES, seed=7)
        two = make(tunables=space, objectives=OBJECTIVES, seed=7)
        assert one.seed == 7
        assert one.ask(10) == two.ask(10)

    def test_a_seed_that_was_drawn_can_be_used_again(
        self, make: OptimizerFactory, space: TunableGroups
    ) -> None:
        one = make(tunables=space, objectives=OBJECTIVES)
        two = make(tunables=space, objectives=OBJECTIVES, seed=one.seed)
        assert one.ask(10) == two.ask(10)

    @pytest.mark.parametrize("start_with_defaults", [True, False])
    def test_one_that_does_not_learn_goes_on_as_if_never_stopped(
        self, make: OptimizerFactory, space: TunableGroups, start_with_defaults: bool
    ) -> None:
        def resumed(asked: int) -> Optimizer:
            return make(
                tunables=space,
                objectives=OBJECTIVES,
                seed=7,
                start_with_defaults=start_with_defaults,
                asked=asked,
            )

        whole = resumed(0)
        if whole.learns:
            pytest.skip(f"{type(whole).__name__} learns: what it gives depends on what it was told")
        everything = whole.ask(12)
        for asked in range(len(everything) + 1):
            rest = resumed(asked)
            in_pieces = [suggestion for _ in range(12 - asked) for suggestion in rest.ask(1)]
            assert in_pieces == everything[asked:]

    def test_an_exhausted_one_stays_exhausted(self, make: OptimizerFactory, space: TunableGroups) -> None:
        optimizer = make(tunables=space, objectives=OBJECTIVES, seed=1)
        many = self.budget if optimizer.learns else 2000
        if len(optimizer.ask(many)) == many:
            pytest.skip(f"{type(optimizer).__name__} is not exhausted by {many} suggestions")
        assert optimizer.ask(1) == []

    def test_telling_a_trial_again_changes_nothing(
        self, make: OptimizerFactory, space: TunableGroups
    ) -> None:
        once = make(tunables=space, objectives=OBJECTIVES, seed=7)
        twice = make(tunables=space, objectives=OBJECTIVES, seed=7)
        history = _outcomes(once.ask(6))
        twice.ask(6)
        once.tell(history)
        twice.tell(_outcomes([]))
        twice.tell(history)
        twice.tell(history)
        assert once.ask(5) == twice.ask(5)

    # What is under way, what failed, and going on after a stop

    def test_fifty_in_a_row_are_fifty_configurations(
        self, make: OptimizerFactory, space: TunableGroups
    ) -> None:
        optimizer = make(tunables=space, objectives=OBJECTIVES, seed=5)
        known = _told(optimizer, self.results)
        asked = [one for _ in range(50) for one in optimizer.ask(1)]
        assert len(set(known + asked)) == len(known + asked)
        assert len(asked) == 50 or not optimizer.learns

    @pytest.mark.parametrize("start_with_defaults", [True, False])
    def test_fifty_in_a_row_are_fifty_configurations_of_sixty_four(
        self, make: OptimizerFactory, start_with_defaults: bool
    ) -> None:
        few = TunableGroups(
            {
                "g": {
                    "params": {
                        "n": {"type": "int", "range": [1, 15], "special": [0], "default": 0},
                        "k": {"type": "categorical", "values": list("abcd"), "default": "a"},
                    }
                }
            }
        )
        optimizer = make(tunables=few, objectives=OBJECTIVES, seed=5, start_with_defaults=start_with_defaults)
        asked = [one for _ in range(50) for one in optimizer.ask(1)]
        assert len(set(asked)) == len(asked)
        if not optimizer.learns:
            resumed = make(
                tunables=few,
                objectives=OBJECTIVES,
                seed=5,
                start_with_defaults=start_with_defaults,
                asked=20,
            )
            assert resumed.ask(30) == asked[20:]

    def test_trials_may_end_in_any_order_and_be_told_one_by_one_or_together(
        self, make: OptimizerFactory, space: TunableGroups
    ) -> None:
        together = make(tunables=space, objectives=OBJECTIVES, seed=5)
        one_by_one = make(tunables=space, objectives=OBJECTIVES, seed=5)
        asked = together.ask(14)
        assert one_by_one.ask(14) == asked
        ids, configs, scores, statuses = _results(asked)
        together.tell(History(ids[::-1], configs[::-1], scores[::-1], statuses[::-1]))
        for number in reversed(range(len(asked))):
            one_by_one.tell(_results([asked[number]], first=number + 1))
        assert together.ask(3) == one_by_one.ask(3)

    def test_what_has_weight_0_is_not_proposed(self, make: OptimizerFactory) -> None:
        params = {
            "k": {
                "type": "categorical",
                "values": ["a", "b", "c"],
                "values_weights": [1, 0, 1],
                "default": "a",
            },
            "n": {
                "type": "int",
                "range": [1, 1000],
                "special": [0, -1],
                "special_weights": [1, 0],
                "range_weight": 1,
                "default": 0,
            },
        }
        optimizer = make(tunables=TunableGroups({"g": {"params": params}}), objectives=OBJECTIVES, seed=5)
        self._skip_unless_it_learns(optimizer)
        given = _told(optimizer, self.budget)
        assert {one["k"] for one in given} == {"a", "c"}
        assert -1 not in {one["n"] for one in given}

    def test_what_an_earlier_session_left_under_way_is_not_proposed_again(
        self, make: OptimizerFactory, space: TunableGroups
    ) -> None:
        first = make(tunables=space, objectives=OBJECTIVES, seed=5)
        self._skip_unless_it_learns(first)
        left = first.ask(8)
        second = make(tunables=space, objectives=OBJECTIVES, seed=5, asked=8)
        second.tell(_outcomes(left, [Status.RUNNING, Status.PENDING] * 4))
        assert not set(left) & set(second.ask(8))

    def test_a_space_with_fewer_configurations_than_asked_for_is_no_error(
        self, make: OptimizerFactory
    ) -> None:
        tiny = TunableGroups(
            {"g": {"params": {"x": {"type": "categorical", "values": ["a", "b", "c"], "default": "a"}}}}
        )
        optimizer = make(tunables=tiny, objectives=OBJECTIVES, seed=1)
        self._skip_unless_it_learns(optimizer)
        assert {one["x"] for one in _told(optimizer, 12)} == set("abc")

    def test_failed_timed_out_and_aborted_trials_are_no_results(
        self, make: OptimizerFactory, space: TunableGroups
    ) -> None:
        optimizer = make(tunables=space, objectives=OBJECTIVES, seed=3)
        self._skip_unless_it_learns(optimizer)
        kinds = (Status.FAILED, Status.TIMED_OUT, Status.CANCELED, Status.CANCELED, Status.SUCCEEDED)
        told = 0
        for number in range(self.budget // 5):
            suggestions = optimizer.ask(5)
            scores = [None, None, None, {"score": 7.0}, {"score": float(number)}]
            optimizer.tell(_outcomes(suggestions, kinds, scores, first=told + 1))
            told += 5
        assert len(optimizer.ask(5)) == 5

    def test_each_run_of_a_configuration_is_learnt_from(
        self, make: OptimizerFactory, space: TunableGroups
    ) -> None:
        optimizer = make(tunables=space, objectives=OBJECTIVES, seed=3)
        self._skip_unless_it_learns(optimizer)
        suggestions = optimizer.ask(4)
        for run in range(3):
            scores = [{"score": float(run + i)} for i in range(4)]
            optimizer.tell(_outcomes(suggestions, [Status.SUCCEEDED] * 4, scores, first=1 + 4 * run))
        assert not set(optimizer.ask(4)) & set(suggestions)

    @pytest.mark.parametrize("stop", [1, 13, 21])
    def test_one_that_was_stopped_goes_on_as_if_it_never_was(
        self, make: OptimizerFactory, space: TunableGroups, stop: int
    ) -> None:
        whole = make(tunables=space, objectives=OBJECTIVES, seed=11)
        self._skip_unless_it_learns(whole)
        if not whole.resumes:
            pytest.skip(f"{type(whole).__name__} goes on from what it was told, with other suggestions")
        everything = _told(whole, 26)
        resumed = make(tunables=space, objectives=OBJECTIVES, seed=11, asked=stop)
        resumed.tell(_results(everything[:stop]))
        assert _told(resumed, 26 - stop) == everything[stop:]

    def test_trials_outside_the_space_are_left_out(
        self, make: OptimizerFactory, space: TunableGroups
    ) -> None:
        optimizer = make(tunables=space, objectives=OBJECTIVES, seed=3)
        self._skip_unless_it_learns(optimizer)
        foreign = [{**space, "ratio": 7.0}, {**space, "no_such_tunable": 1}]
        scores: list[dict[str, Any] | None] = [{"score": -1e9}] * 2
        optimizer.tell(History([-1, -2], foreign, scores, [Status.SUCCEEDED] * 2))
        assert all(space.assign(one) == one for one in optimizer.ask(5))

    # What the space says

    def test_the_grid_of_a_quantized_range_and_special_values_are_kept(
        self, make: OptimizerFactory, space: TunableGroups
    ) -> None:
        optimizer = make(tunables=space, objectives=OBJECTIVES, seed=2)
        given = _told(optimizer, self.budget) if optimizer.learns else optimizer.ask(self.budget)
        if len(given) < self.budget or len({one["ratio"] for one in given}) < self.budget // 4:
            pytest.skip(f"{type(optimizer).__name__} does not go through the space")
        assert {int(one["steps"]) % 100 for one in given} == {0}
        assert -1 in {one["limit"] for one in given}
        assert all(one["limit"] == -1 or 1 <= int(one["limit"]) <= 100 for one in given)

    def test_conditions_and_constraints_are_kept(
        self, make: OptimizerFactory, conditional: TunableGroups
    ) -> None:
        optimizer = make(tunables=conditional, objectives=OBJECTIVES, seed=2)
        given = _told(optimizer, self.budget) if optimizer.learns else optimizer.ask(self.budget)
        assert all(one.is_feasible for one in given)
        assert all(one["kind"] == "lru" or one["size"] == 10 for one in given)

    @staticmethod
    def _skip_unless_it_learns(optimizer: Optimizer) -> None:
        if not optimizer.learns:
            pytest.skip(f"{type(optimizer).__name__} does not learn")


def _told(optimizer: Optimizer, count: int) -> list[TunableGroups]:
    """So many suggestions, one after the other, each told before the next is asked for."""
    given: list[TunableGroups] = []
    for number in range(optimizer.asked, optimizer.asked + count):
        suggestions = optimizer.ask(1)
        optimizer.tell(_results(suggestions, first=number + 1))
        given += suggestions
    return given


def _results(suggestions: Sequence[TunableGroups], first: int = 1) -> History:
    """Trials of which every seventh failed; the score is made up of all values."""
    numbers = range(first, first + len(suggestions))
    scores = [
        {"score": sum(len(str(value)) if isinstance(value, str) else value for value in one.values())}
        for one in suggestions
    ]
    status = [Status.SUCCEEDED if number % 7 else Status.FAILED for number in numbers]
    return History(
        list(numbers),
        [dict(one) for one in suggestions],
        [score if one.is_succeeded else None for score, one in zip(scores, status, strict=True)],
        status,
    )


def _outcomes(
    suggestions: Sequence[TunableGroups],
    status: Sequence[Status] | None = None,
    scores: Sequence[dict[str, Any] | None] | None = None,
    *,
    first: int = 1,
) -> History:
    """One trial for each suggestion; unless said otherwise the first failed, and the others succeeded."""
    count = len(suggestions)
    if status is None:
        status = [Status.SUCCEEDED if i else Status.FAILED for i in range(count)]
        scores = [{"score": float(i)} if i else None for i in range(count)]
    return History(
        trial_ids=list(range(first, first + count)),
        configs=[dict(suggestion) for suggestion in suggestions],
        scores=list(scores or [None] * count),
        status=list(status),
    )
