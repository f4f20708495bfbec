"""Which experiment the demo runs, and what it says at its end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from windtunnel.cli.comparison import Comparison, Spread, compare, render
from windtunnel.cli.demonstration import next_session
from windtunnel.cli.ranking import ConfigurationStats
from windtunnel.model import Status, TrialRecord
from windtunnel.storage import ExperimentSummary
from windtunnel.storage.reads import Counts

DEFAULT = {"journal_mode": "delete", "cache_kib": 2000}
TUNED = {"journal_mode": "wal", "cache_kib": 2000}


def record(
    trial_id: int,
    config_id: int,
    config: Mapping[str, Any],
    ops: float | str | None,
    status: Status = Status.SUCCEEDED,
) -> TrialRecord:
    return TrialRecord(
        trial_id=trial_id,
        config_id=config_id,
        status=status,
        attempt=1,
        config=config,
        metrics=None if ops is None else {"ops_per_s": ops, "p99_ms": 2.0},
        failure=None,
        host="localhost",
        started=None,
        ended=None,
    )


def measured(config: Mapping[str, Any], *ops: float, config_id: int = 7) -> ConfigurationStats:
    stats = ConfigurationStats(config_id, config)
    for trial_id, one in enumerate(ops, start=1):
        stats.add(record(trial_id, config_id, config, one))
    return stats


def printed(comparison: Comparison) -> str:
    console = Console(file=StringIO(), width=100, highlight=False)
    console.print(render(comparison, metric="ops_per_s", beside=["p99_ms"]))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def line_of(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if f" {name} " in line)


def test_spread_is_mean_and_sample_deviation() -> None:
    spread = Spread.of([90.0, 100.0, 110.0])
    assert spread == Spread(100.0, 10.0, 3)
    assert str(spread) == "100 ± 10"


def test_one_run_has_no_deviation() -> None:
    assert Spread.of([5.0]) == Spread(5.0, None, 1)
    assert str(Spread.of([5.0])) == "5.00"


@pytest.mark.parametrize(
    ("spread", "text"),
    [
        (Spread(12345.6, 234.5, 3), "12,346 ± 234"),
        (Spread(23.45, 1.234, 3), "23.4 ± 1.2"),
        (Spread(2.5, 0.034, 3), "2.50 ± 0.03"),
        (Spread(0.0123, 0.001, 3), "0.012 ± 0.001"),
    ],
)
def test_deviation_has_the_decimals_of_its_mean(spread: Spread, text: str) -> None:
    assert str(spread) == text


def test_ratio_propagates_both_deviations() -> None:
    ratio = Spread(300.0, 30.0, 3).over(Spread(100.0, 10.0, 2))
    assert ratio is not None
    assert ratio.mean == pytest.approx(3.0)
    assert ratio.deviation == pytest.approx(3.0 * math.hypot(0.1, 0.1))
    assert ratio.runs == 2


def test_ratio_has_no_deviation_if_one_side_has_none() -> None:
    assert Spread(300.0, 30.0, 3).over(Spread(100.0, None, 1)) == Spread(3.0, None, 1)


def test_ratio_over_nothing_is_none() -> None:
    assert Spread(300.0, 30.0, 3).over(Spread(0.0, 0.0, 3)) is None


def test_ratio_of_nothing_keeps_the_deviation() -> None:
    assert Spread(0.0, 10.0, 3).over(Spread(100.0, 5.0, 3)) == Spread(0.0, 0.1, 3)


def test_compare_takes_the_succeeded_trials_of_both() -> None:
    records = [
        record(1, 7, DEFAULT, 100.0),
        record(2, 7, DEFAULT, None, Status.FAILED),
        record(3, 8, TUNED, 300.0),
        record(4, 8, TUNED, 320.0),
        record(5, 9, {"journal_mode": "truncate", "cache_kib": 64}, None, Status.TIMED_OUT),
    ]
    comparison = compare(records, default=DEFAULT, best_config_id=8)
    assert comparison.default == measured(DEFAULT, 100.0)
    assert comparison.best == measured(TUNED, 300.0, 320.0, config_id=8)
    assert comparison.tried == 2


def test_compare_without_a_default_that_succeeded() -> None:
    comparison = compare([record(3, 8, TUNED, 300.0)], default=DEFAULT, best_config_id=8)
    assert comparison.default == ConfigurationStats(0, DEFAULT)
    assert comparison.speed_up("ops_per_s") is None


def test_report_marks_what_differs() -> None:
    text = printed(Comparison(default=measured(DEFAULT, 90, 110), best=measured(TUNED, 290, 310), tried=16))
    assert "best of 16" in text
    assert "* journal_mode" in text
    assert line_of(text, "journal_mode").index("delete") < line_of(text, "journal_mode").index("wal")
    assert "* cache_kib" not in text


def test_report_gives_both_results_and_the_speed_up_with_its_spread() -> None:
    text = printed(Comparison(default=measured(DEFAULT, 90, 110), best=measured(TUNED, 290, 310), tried=16))
    assert "100 ± 14" in line_of(text, "ops_per_s")
    assert "300 ± 14" in line_of(text, "ops_per_s")
    assert "2.00 ± 0.00" in line_of(text, "p99_ms")
    assert "Speed-up: 3.00 ± 0.45 times" in text
    assert "one standard deviation over 2 runs of each" in text


def test_report_of_single_runs_claims_no_spread() -> None:
    text = printed(Comparison(default=measured(DEFAULT, 100), best=measured(TUNED, 300), tried=2))
    assert "Speed-up: 3.00 times" in text
    assert "±" not in text
    assert "one run of each" in text


def test_report_when_the_default_is_best() -> None:
    default = measured(DEFAULT, 100, 110)
    text = printed(Comparison(default=default, best=default, tried=3))
    assert "No configuration had a better ops_per_s than the default" in text
    assert "Speed-up" not in text


def test_report_when_only_the_default_ran() -> None:
    default = measured(DEFAULT, 100, 110)
    text = printed(Comparison(default=default, best=default, tried=1))
    assert "Only the default was measured" in text


def test_report_when_the_default_failed() -> None:
    text = printed(Comparison(default=measured(DEFAULT), best=measured(TUNED, 300), tried=1))
    assert line_of(text, "ops_per_s").split() == ["ops_per_s", "-", "300"]
    assert "The default gave no ops_per_s to compare with" in text


DONE = Counts(total=6, succeeded=5, failed=1)


def stored(experiment_id: str, counts: Counts = DONE) -> ExperimentSummary:
    return ExperimentSummary(
        experiment_id=experiment_id, description="", objectives={"ops_per_s": "max"}, counts=counts, best=None
    )


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ([], "demo"),
        (["other", "demonstration", "demo-x", "demo-02"], "demo"),
        (["demo"], "demo-2"),
        (["demo", "demo-2", "demo-10", "demo-9"], "demo-11"),
    ],
)
def test_every_session_gets_an_id_of_its_own(known: list[str], expected: str) -> None:
    assert next_session("demo", [stored(one) for one in known]) == expected


@pytest.mark.parametrize(
    "counts",
    [
        Counts(total=6, succeeded=5, pending=1),
        Counts(total=6, succeeded=5, running=1),
        Counts(total=6, succeeded=5, canceled=1),
    ],
)
def test_an_interrupted_session_is_resumed_if_it_is_the_newest(counts: Counts) -> None:
    assert next_session("demo", [stored("demo"), stored("demo-2", counts)]) == "demo-2"
    assert next_session("demo", [stored("demo", counts), stored("demo-2")]) == "demo-3"
