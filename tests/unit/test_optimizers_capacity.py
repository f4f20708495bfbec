from __future__ import annotations

from typing import Any

import pytest

from windtunnel.errors import ConfigError
from windtunnel.model import History, Status
from windtunnel.optimizers import Optimizer, make_optimizer
from windtunnel.optimizers.capacity import CapacitySearch
from windtunnel.testing.optimizers import OBJECTIVES
from windtunnel.tunables import TunableGroups

SLO = ["p99_ms<50", "error_rate<=0.01"]


def space(kind: str = "float", **rate: Any) -> TunableGroups:
    params = {"rate": {"type": kind, "range": [10, 10_000], "default": 100, **rate}}
    return TunableGroups({"load": {"params": params}})


def search(tunables: TunableGroups | None = None, **options: Any) -> CapacitySearch:
    made = make_optimizer(
        "capacity", tunables=tunables or space(), objectives=OBJECTIVES, options={"slo": SLO, **options}
    )
    assert isinstance(made, CapacitySearch)
    return made


def play(optimizer: Optimizer, true: float, count: int = 40, first: int = 1) -> list[float]:
    """A system that serves ``true`` requests a second; one trial after the other."""
    rates = []
    for trial_id in range(first, first + count):
        if not (asked := optimizer.ask()):
            break
        rate = float(asked[0]["rate"])
        rates.append(rate)
        metrics = {"p99_ms": 5.0 if rate <= true else 800.0, "error_rate": 0.0}
        optimizer.tell(History([trial_id], [dict(asked[0])], [metrics], [Status.SUCCEEDED]))
    return rates


@pytest.mark.parametrize("true", [37, 100, 1234, 4000])
def test_finds_what_a_system_can_do_and_then_ends(true: float) -> None:
    optimizer = search()
    rates = play(optimizer, true)
    assert rates[0] == 100
    assert len(rates) <= 15
    assert optimizer.estimate() == pytest.approx(true, rel=0.05)


def test_another_session_goes_on_with_the_same_rates() -> None:
    whole = play(search(), 777)
    first = search()
    begun = play(first, 777, count=4)
    configs = [{"rate": rate} for rate in begun]
    metrics = [{"p99_ms": 5.0 if rate <= 777 else 800.0, "error_rate": 0.0} for rate in begun]
    second = make_optimizer(
        "capacity", tunables=space(), objectives=OBJECTIVES, asked=4, options={"slo": SLO}
    )
    second.tell(History([1, 2, 3, 4], configs, list(metrics), [Status.SUCCEEDED] * 4))
    assert begun + play(second, 777, first=5) == whole


def test_stays_in_the_range_and_ends_there() -> None:
    rates = play(search(space("int", range=[10, 300])), 5000)
    assert max(rates) == 300
    assert rates.count(300) == 2


def test_several_at_once_are_different() -> None:
    asked = search().ask(3)
    assert len({one["rate"] for one in asked}) == 3


def test_failed_trial_and_missing_metric_keep_nothing() -> None:
    optimizer = search()
    (first,) = optimizer.ask()
    optimizer.tell(History([1], [dict(first)], [None], [Status.FAILED]))
    (second,) = optimizer.ask()
    optimizer.tell(History([2], [dict(second)], [{"p99_ms": 1.0}], [Status.SUCCEEDED]))
    assert [step.kept for step in optimizer.steps] == [False, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slo": ["p99"]}, "expected a limit such as p99_ms<50, found 'p99'"),
        ({"tunable": "rat"}, "there is no tunable 'rat'; did you mean 'rate'?"),
        ({"slo": []}, "at least 1"),
    ],
)
def test_mistakes_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        search(**options)
    assert message in str(caught.value)


def test_tunable_without_a_range_is_refused() -> None:
    params = {"rate": {"type": "categorical", "values": ["1", "2"], "default": "1"}}
    with pytest.raises(ConfigError, match="a tunable with a range"):
        search(TunableGroups({"load": {"params": params}}))
