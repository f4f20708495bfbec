"""Configurations compared: the intervals and their order."""

from __future__ import annotations

import pytest

from windtunnel.storage.groups import ConfigGroup, grouped, number


def test_a_group_of_equal_values_is_certain() -> None:
    group = ConfigGroup.of(1, {}, "m", [2.0, 2.0])
    assert (group.mean, group.stddev, group.ci_low, group.ci_high) == (2.0, 0.0, 2.0, 2.0)


def test_the_best_comes_first_and_ties_by_id() -> None:
    found = {3: [1.0], 1: [2.0, 4.0], 2: [1.0]}
    assert [pk for pk, _ in grouped(found, "min", None)] == [2, 3, 1]
    assert [pk for pk, _ in grouped(found, "max", 2)] == [1, 2]


@pytest.mark.parametrize("value", [None, True, "1", float("nan"), float("inf"), 2**2000, [1]])
def test_what_is_no_finite_number_is_not_compared(value: object) -> None:
    assert number(value) is None
