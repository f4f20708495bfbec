"""Successive halving against an oracle, and its rungs."""

from __future__ import annotations

import math
import random
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.model import Direction
from windtunnel.pruners.base import MOST_ENDED
from windtunnel.pruners.halving import Halving

ORDERS = st.lists(st.integers(-20, 20), min_size=1, max_size=40)


def climb(pruner: Halving, trial_id: int, value: float, *, to: int) -> int | None:
    """Run a trial with a constant value up to so many samples; the sample at which it was stopped."""
    for sample in range(1, to + 1):
        if pruner.observe(trial_id, "score", value, 0.0) is not None:
            pruner.ended(trial_id, None)
            return sample
    pruner.ended(trial_id, {"score": value})
    return None


def ladder(direction: Direction = "min", **options: Any) -> Halving:
    return Halving(objectives={"score": direction}, budget="samples", **{"factor": 3, **options})


class Step(NamedTuple):
    """A sample of one of several trials."""

    trial_id: int
    value: int


@given(
    steps=st.lists(st.builds(Step, st.integers(1, 8), st.integers(-5, 5)), max_size=120),
    direction=st.sampled_from(["min", "max"]),
    factor=st.integers(2, 4),
)
@settings(deadline=None)
def test_a_trial_goes_on_if_it_is_in_the_top_of_those_that_came_so_far(
    steps: list[Step], direction: Direction, factor: int
) -> None:
    pruner = ladder(direction, factor=factor, least=2, most=3)
    lives: dict[int, list[int]] = {}
    rungs: dict[int, dict[int, int]] = {2: {}, 2 * factor: {}, 2 * factor**2: {}}
    for trial_id, value in steps:
        life = lives.setdefault(trial_id, [])
        life.append(value)
        verdict = pruner.observe(trial_id, "score", value, 0.0)
        rung = rungs.get(len(life))
        if rung is None:
            assert verdict is None
            continue
        rung[trial_id] = value
        ranked = sorted(rung.values(), reverse=direction == "max")
        last_to_go_on = ranked[max(1, len(ranked) // factor) - 1]
        goes_on = value <= last_to_go_on if direction == "min" else value >= last_to_go_on
        assert (verdict is None) == goes_on
        if verdict is not None:
            assert verdict.scores == {"score": value}
            pruner.ended(trial_id, None)
            del lives[trial_id]


@given(values=ORDERS)
@settings(deadline=None)
def test_the_best_trial_is_never_stopped(values: list[int]) -> None:
    pruner = ladder()
    stopped = [climb(pruner, i, value, to=30) is not None for i, value in enumerate(values)]
    assert not any(was for was, value in zip(stopped, values, strict=True) if value == min(values))


def test_who_comes_in_order_of_merit() -> None:
    best_first, best_last = ladder(most=1), ladder(most=1)
    goes_on = [climb(best_first, i, i, to=1) is None for i in range(100)]
    assert goes_on == [True] + [False] * 99
    assert all(climb(best_last, i, -i, to=1) is None for i in range(100))


def test_of_many_in_any_order_about_one_in_factor_goes_on() -> None:
    pruner = ladder(factor=4, most=1)
    values = list(range(400))
    random.Random(5).shuffle(values)
    going = [value for i, value in enumerate(values) if climb(pruner, i, value, to=1) is None]
    assert 80 <= len(going) <= 120
    # From here on a place in the top quarter is what counts, and exactly that.
    assert climb(pruner, 1000, 98.5, to=1) is None
    assert climb(pruner, 1001, 99.5, to=1) == 1


def test_rungs_lie_factor_apart_and_end() -> None:
    pruner = ladder(least=2, most=3)
    climb(pruner, 1, 0, to=100)
    for trial_id, rung in enumerate((2, 6, 18), start=2):
        values = [0] * (rung - 1) + [1] * 82
        answers = [pruner.observe(trial_id, "score", value, 0.0) is not None for value in values]
        assert answers.index(True) == rung - 1
        pruner.ended(trial_id, None)
    assert climb(pruner, 9, 0, to=100) is None
    assert not any(pruner.observe(10, "score", int(i > 18), 0.0) for i in range(1, 100))


def test_a_jump_over_rungs_is_judged_at_each() -> None:
    pruner = Halving(objectives={"score": "min"}, budget="elapsed", least=1.0, factor=2, most=4)
    pruner.observe(1, "score", 1.0, 3.0)  # rungs 1 and 2
    pruner.ended(1, None)
    assert pruner.observe(2, "score", 0.5, 100.0) is None  # all of them, always the best
    verdict = pruner.observe(3, "score", 0.7, 100.0)
    assert verdict is not None
    assert all(part in verdict.reason for part in ("halving", "score", "0.7", "100 s", "2 of 3 at rung 1"))


def test_a_trial_that_runs_again_counts_once() -> None:
    pruner = ladder(factor=2, most=1)
    climb(pruner, 1, 0, to=1)
    for _ in range(10):
        climb(pruner, 2, 5, to=1)
    assert climb(pruner, 3, 1, to=1) == 1  # the second of three, of which one goes on


def test_what_stands_for_a_trial() -> None:
    for value, expected in (("last", 7.0), ("mean", 5.0), ("best", 3.0)):
        pruner = Halving(objectives={"score": "min"}, budget="samples", least=3, value=value)  # type: ignore[arg-type]  # from a tuple of texts
        climb(pruner, 1, 0.0, to=3)
        answers = [pruner.observe(2, "score", sample, 0.0) for sample in (5.0, 3.0, math.nan, 7.0)]
        assert answers[-1] is not None
        assert answers[-1].scores == {"score": expected}


def test_a_rung_remembers_the_newest() -> None:
    pruner = ladder(factor=2, most=1)
    for i in range(MOST_ENDED):
        climb(pruner, i, 0, to=1)
    for i in range(MOST_ENDED):
        climb(pruner, MOST_ENDED + i, 10, to=1)
    assert climb(pruner, 3 * MOST_ENDED, 9, to=1) is None  # the zeros are forgotten
