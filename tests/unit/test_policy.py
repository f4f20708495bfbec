"""The scheduler's decisions."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.model import RunResult, Status, utc_now
from windtunnel.objectives import Objective, parse_objectives
from windtunnel.scheduling.policy import configurations_tried, judge, suggestions_due

counts = st.integers(0, 10_000)


@given(
    total=counts,
    budget=counts,
    pending=counts,
    free=counts,
    size=st.integers(1, 5000),
    repeats=st.integers(1, 20),
    learns=st.booleans(),
)
def test_never_asks_for_more_than_the_budget_rounded_up_to_whole_configurations(
    total: int, budget: int, pending: int, free: int, size: int, repeats: int, learns: bool
) -> None:
    due = suggestions_due(
        total=total,
        budget=budget,
        pending=pending,
        free=free,
        concurrency=size,
        repeats=repeats,
        learns=learns,
    )
    assert 0 <= due <= math.ceil(max(0, budget - total) / repeats)


@given(
    total=counts,
    extra=st.integers(1, 100),
    free=st.integers(1, 100),
    repeats=st.integers(1, 5),
    learns=st.booleans(),
)
def test_idle_slots_are_always_fed_while_the_budget_lasts(
    total: int, extra: int, free: int, repeats: int, learns: bool
) -> None:
    due = suggestions_due(
        total=total,
        budget=total + extra,
        pending=0,
        free=free,
        concurrency=100,
        repeats=repeats,
        learns=learns,
    )
    assert due * repeats >= min(free, extra)


@pytest.mark.parametrize(("concurrency", "ahead"), [(1, 0), (7, 0), (8, 1), (64, 8)])
def test_an_optimizer_that_learns_is_asked_little_ahead(concurrency: int, ahead: int) -> None:
    due = suggestions_due(
        total=10, budget=100, pending=1, free=4, concurrency=concurrency, repeats=1, learns=True
    )
    assert due == 3 + ahead


@given(configs=st.integers(0, 1000), repeats=st.integers(1, 10))
def test_whole_configurations_are_counted_back(configs: int, repeats: int) -> None:
    assert configurations_tried(configs * repeats, repeats) == configs


def _ran(metrics: dict[str, Any] | None, status: Status = Status.SUCCEEDED) -> RunResult:
    return RunResult(status, utc_now(), metrics)


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (None, "it gave nothing"),
        ({}, "it gave nothing"),
        ({"qps": 1.0}, "it gave 'qps'"),
        ({"ms": math.nan}, "must be a finite number, found nan"),
        ({"ms": -math.inf}, "must be a finite number, found -inf"),
        ({"ms": "fast"}, "must be a finite number, found 'fast'"),
        ({"ms": None}, "must be a finite number, found None"),
        ({"ms": True}, "must be a finite number, found True"),
        ({"ms": [1]}, "must be a finite number, found [1]"),
    ],
)
def test_a_success_without_a_usable_objective_is_a_failure(metrics: dict[str, Any] | None, said: str) -> None:
    judged, problem = judge(_ran(metrics), parse_objectives({"ms": "min"}))
    assert judged.status is Status.FAILED
    assert judged.metrics == metrics, "what was measured is kept"
    assert problem is not None
    assert said in problem
    assert "'ms'" in problem


def test_every_objective_counts() -> None:
    judged, problem = judge(_ran({"ms": 1, "qps": math.inf}), parse_objectives({"ms": "min", "qps": "max"}))
    assert judged.status is Status.FAILED
    assert problem == "the objective 'qps' must be a finite number, found inf"


@pytest.mark.parametrize(
    ("value", "said"), [(-0.5, "is -0.5, below its min of 0"), (101, "is 101, above its max of 100")]
)
def test_a_result_that_cannot_be_is_a_failure(value: float, said: str) -> None:
    percent = {"hits": Objective(direction="max", low=0, high=100)}
    judged, problem = judge(_ran({"hits": value}), percent)
    assert (judged.status, problem) == (Status.FAILED, f"the objective 'hits' {said}")
    for possible in (_ran({"hits": found}) for found in (0, 50.5, 100)):
        assert judge(possible, percent) == (possible, None)


def test_a_usable_result_passes_unchanged() -> None:
    result = _ran({"ms": 3, "note": "text"})
    assert judge(result, parse_objectives({"ms": "min"})) == (result, None)


def test_a_failure_is_not_judged_again() -> None:
    result = _ran(None, Status.TIMED_OUT)
    assert judge(result, parse_objectives({"ms": "min"})) == (result, None)
