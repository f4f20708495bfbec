"""Student's t, against tables."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.quantiles import student_t


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (30, 2.0423), (31, 2.0395), (60, 2.0003), (1000, 1.9623)],
)
def test_the_95_percent_interval(freedom: int, expected: float) -> None:
    assert student_t(freedom) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("freedom", "confidence", "expected"),
    [
        (1, 0.5, 1.0),
        (5, 0.8, 1.4759),
        (5, 0.99, 4.0321),
        (10, 0.9, 1.8125),
        (30, 0.999, 3.6460),
        (40, 0.999, 3.5510),
        (10**6, 0.99, 2.5758),
    ],
)
def test_other_intervals(freedom: int, confidence: float, expected: float) -> None:
    assert student_t(freedom, confidence) == pytest.approx(expected, abs=1e-4)


@given(confidence=st.floats(0.01, 0.999999))
def test_more_freedom_never_makes_it_wider(confidence: float) -> None:
    widths = [student_t(freedom, confidence) for freedom in range(1, 60)]
    assert all(later <= earlier + 1e-6 * earlier for earlier, later in itertools.pairwise(widths))


@given(freedom=st.integers(1, 200), low=st.floats(1e-6, 1 - 1e-9), high=st.floats(1e-6, 1 - 1e-9))
def test_more_confidence_never_makes_it_narrower(freedom: int, low: float, high: float) -> None:
    low, high = min(low, high), max(low, high)
    assert 0 < student_t(freedom, low) <= student_t(freedom, high) < float("inf")


def test_a_confidence_next_to_certainty_is_finite() -> None:
    assert student_t(1, 1 - 2**-53) < float("inf")
    assert student_t(100, 1 - 2**-53) < float("inf")
