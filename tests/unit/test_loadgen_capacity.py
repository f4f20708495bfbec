from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.loadgen.capacity import Step, capacity, knee, next_rate


def searched(is_kept: Callable[[float], bool], *, start: float = 100.0, most: int = 15) -> list[Step]:
    steps: list[Step] = []
    while (rate := next_rate(steps, start=start, most=most)) is not None:
        steps.append(Step(rate, is_kept(rate)))
    return steps


@settings(max_examples=80)
@given(st.floats(100, 5000))
def test_without_noise_it_is_within_five_percent(true: float) -> None:
    steps = searched(lambda rate: rate <= true, start=300)
    assert len(steps) <= 15
    assert capacity(steps).rate == pytest.approx(true, rel=0.05)


def test_noise_does_not_mislead_nine_of_ten_seeds() -> None:
    """Near the border the outcome is a matter of chance, and one step in twenty is plainly wrong."""
    good = 0
    for seed in range(100):
        chance = random.Random(seed)

        def is_kept(rate: float, chance: random.Random = chance) -> bool:
            is_good = rate <= 1370 * chance.gauss(1, 0.01)
            return is_good if chance.random() > 0.05 else not is_good

        steps = searched(is_kept, start=400)
        good += len(steps) <= 15 and abs(capacity(steps).rate / 1370 - 1) <= 0.05
    assert good >= 90


def test_it_goes_on_where_it_stopped() -> None:
    steps = searched(lambda rate: rate <= 777)
    for cut in range(len(steps)):
        assert next_rate(steps[:cut], start=100) == steps[cut].rate
    assert next_rate(steps, start=100) is None


def test_nothing_is_good_enough_or_everything_is() -> None:
    worst, best = searched(lambda _rate: False), searched(lambda _rate: True)
    assert capacity(worst) == (0, 0, min(step.rate for step in worst))
    assert capacity(best) == (max(step.rate for step in best), max(step.rate for step in best), math.inf)
    assert capacity([]) == (0, 0, math.inf)
    assert all(later.rate <= 2 * earlier.rate for earlier, later in itertools.pairwise(best))


def test_one_wrong_step_is_outvoted() -> None:
    steps = [Step(100, True), Step(200, False), Step(150, True), Step(180, True), Step(190, True)]
    assert capacity(steps).high > 200  # it is doubted
    assert capacity([*steps, Step(200, True), Step(210, True), Step(220, False)]).low > 200


def test_knee_is_where_the_curve_bends() -> None:
    curve = {rate: 1 / (1 - rate / 1050) for rate in range(100, 1001, 100)}
    assert knee({float(rate): value for rate, value in curve.items()}) in (700, 800, 900)
    assert knee({100.0: 1.0, 200.0: 1.0}) is None
    assert knee({100.0: 5.0, 200.0: 4.0, 300.0: 3.0}) is None
