"""When a load test is a failure, and what is said then."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from windtunnel.cli.verdict import FAILED, INTERRUPTED, OK, verdict_of_load, verdict_of_search
from windtunnel.loadgen.capacity import Capacity
from windtunnel.loadgen.recorder import Window
from windtunnel.loadgen.result import Result
from windtunnel.loadgen.search import Found
from windtunnel.loadgen.thresholds import Threshold


def result(*limits: str, failed: int = 0, **options: Any) -> Result:
    """Ten answers of 10 ms, and as many of them errors as is said."""
    total = Window(begun=10, elapsed_s=1.0, errors=Counter({"status": failed} if failed else {}))
    total.latency.record([10_000_000] * 10)
    return Result(total=total, thresholds=[Threshold.parse(one) for one in limits], **options)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (result(), ""),
        (result("p99<50ms", failed=9), ""),
        (result("p99<5ms", "errors<1"), "failed: p99<5ms was missed"),
        (result(failed=10), "failed: every request failed"),
        (result("p99<50ms", failed=10), "failed: every request failed"),
        (result("errors>50%", failed=10), ""),
        (result("status>5", failed=10), ""),
        (result(offered=10, lost=["worker 1 after 2 s"]), "failed: the run is invalid"),
        (result("max<1ms", lost=["b"]), "failed: max<1ms was missed; the run is invalid"),
        (result(ended_by="errors>5% in second 2"), "failed: it was ended by errors>5% in second 2"),
    ],
)
def test_of_a_run(given: Result, problem: str) -> None:
    found = verdict_of_load(given, interrupted=False)
    assert (found.exit_code, found.problem) == (FAILED if problem else OK, problem)


def test_of_a_run_that_was_interrupted() -> None:
    assert verdict_of_load(result("p99<5ms"), interrupted=True).exit_code == INTERRUPTED


@pytest.mark.parametrize(
    ("rate", "problem", "told"),
    [(50.0, "", ""), (0.0, "", "failed: no rate was low enough"), (50.0, "too slow", "failed: too slow")],
)
def test_of_a_search(rate: float, problem: str, told: str) -> None:
    found = Found(Capacity(rate, rate, rate), None, [], problem)
    assert verdict_of_search(found, interrupted=False).problem == told
    assert verdict_of_search(found, interrupted=True).exit_code == INTERRUPTED
