"""Trade-offs: what is not dominated, and how much is."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.pareto import MOST_POINTS, front, hypervolumes

REFERENCE = 5


def clouds(objectives: int) -> st.SearchStrategy[list[tuple[float, ...]]]:
    """Points on a lattice that is so small that equal ones, and equal coordinates, are common."""
    return st.lists(st.tuples(*[st.integers(0, REFERENCE)] * objectives), max_size=9)


several = st.integers(1, 4).flatmap(clouds)


@given(several)
def test_the_front_is_what_no_other_dominates(points: list[tuple[float, ...]]) -> None:
    def dominated(point: tuple[float, ...]) -> bool:
        return any(
            other != point and all(x <= y for x, y in zip(other, point, strict=True)) for other in points
        )

    assert front(points) == [index for index, point in enumerate(points) if not dominated(point)]


@settings(max_examples=60, deadline=None)
@given(several)
def test_the_volume_is_that_of_the_cells_that_are_dominated(points: list[tuple[float, ...]]) -> None:
    if not points:
        assert hypervolumes([], (1.0, 1.0)) == []
        return
    objectives = len(points[0])
    cells: set[tuple[int, ...]] = set()
    counts: list[float] = []
    for point in points:
        cells.update(product(*(range(int(x), REFERENCE) for x in point)))
        counts.append(len(cells))
    assert hypervolumes(points, (float(REFERENCE),) * objectives) == counts


def test_a_large_front_of_many_objectives_is_not_measured() -> None:
    points = [(float(i), float(-i), 0.0) for i in range(MOST_POINTS + 3)]
    volumes = hypervolumes(points, (1e3, 1e3, 1.0))
    assert volumes[MOST_POINTS - 1] is not None
    assert volumes[MOST_POINTS:] == [None] * 3


def test_a_front_of_two_objectives_may_be_large() -> None:
    points = [(float(i), float(300 - i)) for i in range(300)]
    assert hypervolumes(points, (300.0, 300.0))[-1] == pytest.approx(300 * 299 / 2)
