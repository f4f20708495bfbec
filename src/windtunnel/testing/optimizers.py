"""What every optimizer must keep. Subclass ``OptimizerContract`` in a test module to check your own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

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

    @pytest.fixture
    def space(self) -> TunableGroups:
        """Tunables of each type."""
        params = {
            "cache": {"type": "int", "range": [64, 65536], "log": True, "default": 2048},
            "ratio": {"type": "float", "range": [0, 1], "default": 0.5},
            "limit": {"type": "int", "range": [1, 100], "special": [-1], "default": -1},
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
        if len(optimizer.ask(2000)) == 2000:
            pytest.skip(f"{type(optimizer).__name__} is not exhausted by 2000 suggestions")
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


def _outcomes(suggestions: Sequence[TunableGroups]) -> History:
    """One trial for each suggestion, the first of which failed."""
    count = len(suggestions)
    return History(
        trial_ids=list(range(1, count + 1)),
        configs=[dict(suggestion) for suggestion in suggestions],
        scores=[{"score": float(i)} if i else None for i in range(count)],
        status=[Status.SUCCEEDED if i else Status.FAILED for i in range(count)],
    )
