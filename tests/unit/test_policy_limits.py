"""When a trial is tried again, and when an experiment ends early."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.scheduling.policy import FailureBudget, Retry, Tally, exceeded, pause_before, time_left

seconds = st.integers(0, 10**9).map(lambda us: timedelta(microseconds=us))
retries = st.builds(
    Retry,
    times=st.integers(0, 5000),
    pause=seconds,
    factor=st.floats(1, 1e6),
    longest=seconds,
    jitter=st.floats(0, 1),
)
draws = st.floats(0, 1, exclude_max=True)


def test_nothing_is_tried_again_by_default() -> None:
    assert pause_before(Retry(), 0, 0.5) is None


@pytest.mark.parametrize(("used", "expected"), [(0, 1), (1, 2), (2, 4), (5, 32), (6, 60), (4000, 60)])
def test_pauses_double_up_to_the_longest(used: int, expected: float) -> None:
    retry = Retry(times=4001, jitter=0)
    assert pause_before(retry, used, 0.3) == timedelta(seconds=expected)


@pytest.mark.parametrize(("draw", "expected"), [(0.0, 6), (0.5, 8)])
def test_the_jitters_share_of_a_pause_is_drawn(draw: float, expected: float) -> None:
    retry = Retry(times=1, pause=timedelta(seconds=10), jitter=0.4)
    assert pause_before(retry, 0, draw) == timedelta(seconds=expected)


@given(retry=retries, used=st.integers(0, 6000), draw=draws)
def test_a_pause_is_within_its_bounds_and_there_are_as_many_as_allowed(
    retry: Retry, used: int, draw: float
) -> None:
    pause = pause_before(retry, used, draw)
    assert (pause is None) == (used >= retry.times)
    if pause is not None:
        assert timedelta(0) <= pause <= retry.longest


@given(retry=retries, used=st.integers(0, 3000), more=st.integers(0, 3000), draw=draws)
def test_later_pauses_are_never_shorter_for_the_same_draw(
    retry: Retry, used: int, more: int, draw: float
) -> None:
    first, later = pause_before(retry, used, draw), pause_before(retry, used + more, draw)
    assert later is None or (first is not None and first <= later)


@given(retry=retries, used=st.integers(0, 50), low=draws, high=draws)
def test_a_larger_draw_never_means_a_shorter_pause(retry: Retry, used: int, low: float, high: float) -> None:
    shorter, longer = (pause_before(retry, used, draw) for draw in sorted((low, high)))
    assert shorter is None or longer is None or shorter <= longer


def test_without_limits_everything_may_fail() -> None:
    assert exceeded(FailureBudget(), Tally(1000, 500, 500)) is None


@pytest.mark.parametrize(
    ("budget", "tally", "said"),
    [
        (FailureBudget(most=0), Tally(1, 1, 0), "1 trial failed, more than the allowed 0; "),
        (FailureBudget(most=2), Tally(9, 3, 4), "3 trials failed, more than the allowed 2; "),
        (
            FailureBudget(share=0.5),
            Tally(20, 12, 0),
            "12 of 20 trials failed, more than the allowed share of 0.5; ",
        ),
        (FailureBudget(share=0.5), Tally(20, 6, 9), "6 of 11 trials failed, more than the "),
        (
            FailureBudget(setup=3),
            Tally(4, 0, 4),
            "4 trials failed in set-up or by the host, more than the allowed 3; ",
        ),
    ],
)
def test_the_reason_says_what_was_allowed_and_found(budget: FailureBudget, tally: Tally, said: str) -> None:
    assert (exceeded(budget, tally) or "").startswith(said)


@pytest.mark.parametrize(
    ("budget", "tally"),
    [
        (FailureBudget(most=3), Tally(9, 3, 5)),
        (FailureBudget(share=0.5), Tally(20, 10, 0)),
        (FailureBudget(share=0.5), Tally(9, 9, 0)),
        (FailureBudget(share=0.5), Tally(14, 5, 5)),
        (FailureBudget(share=0.5, least=0), Tally(0, 0, 0)),
        (FailureBudget(share=0.1, most=0), Tally(50, 0, 50)),
        (FailureBudget(setup=3), Tally(50, 47, 3)),
    ],
)
def test_what_is_allowed_does_not_end_it(budget: FailureBudget, tally: Tally) -> None:
    assert exceeded(budget, tally) is None


@st.composite
def tallies(draw: st.DrawFn) -> Tally:
    failed, broken, succeeded = (draw(st.integers(0, 60)) for _ in range(3))
    return Tally(failed + broken + succeeded, failed, broken)


budgets = st.builds(
    FailureBudget,
    most=st.none() | st.integers(0, 50),
    share=st.none() | st.floats(0, 1),
    least=st.integers(1, 30),
    setup=st.none() | st.integers(0, 50),
)


@given(budget=budgets, tally=tallies())
def test_more_failures_never_bring_a_budget_back(budget: FailureBudget, tally: Tally) -> None:
    if exceeded(budget, tally) is not None:
        assert exceeded(budget, tally._replace(finished=tally.finished + 1, failed=tally.failed + 1))
        worse = tally._replace(finished=tally.finished + 1, setup_failed=tally.setup_failed + 1)
        assert exceeded(budget, worse)


@given(budget=budgets, tally=tallies(), more=st.integers(1, 50))
def test_broken_environments_do_not_count_as_bad_configurations(
    budget: FailureBudget, tally: Tally, more: int
) -> None:
    worse = tally._replace(finished=tally.finished + more, setup_failed=tally.setup_failed + more)
    unlimited = FailureBudget(most=budget.most, share=budget.share, least=budget.least)
    assert exceeded(unlimited, tally) == exceeded(unlimited, worse)


def test_the_time_that_is_left() -> None:
    assert time_left(None, 1e9) == math.inf
    assert time_left(timedelta(minutes=1), 15) == 45
    assert time_left(timedelta(minutes=1), 61) == 0
