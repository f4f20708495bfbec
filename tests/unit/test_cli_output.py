"""What list, show and run print, made of plain values."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import RenderableType

from windtunnel.cli import tables
from windtunnel.cli.console import make_console
from windtunnel.cli.data import as_json, experiment_data, listing_data
from windtunnel.cli.ranking import by_configuration, ranked
from windtunnel.cli.verdict import verdict
from windtunnel.model import Status, Summary, TrialRecord
from windtunnel.objectives import parse_objectives
from windtunnel.storage import ExperimentSummary
from windtunnel.storage.reads import Counts

BEGAN = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)


def record(trial_id: int, metrics: Mapping[str, Any] | None, *, config_id: int = 1) -> TrialRecord:
    return TrialRecord(
        trial_id=trial_id,
        config_id=config_id,
        status=Status.SUCCEEDED if metrics is not None else Status.FAILED,
        attempt=1,
        config={"cache": config_id * 10},
        metrics=metrics,
        failure=None if metrics is not None else "run failed: 'bench' ended with status 3\n[bold]tail[/bold]",
        host="localhost",
        started=BEGAN,
        ended=BEGAN + timedelta(seconds=2),
    )


def printed(thing: RenderableType) -> str:
    stream = io.StringIO()
    console = make_console(stream)
    console.width = 200  # whatever the terminal of the person or the machine that tests
    console.print(thing)
    return stream.getvalue()


def summary(**changes: Any) -> Summary:
    plain = Summary(
        experiment_id="x", objectives={"t": "min"}, best=None, trials=10, pending=0, running=0, succeeded=10,
        failed=0, canceled=0,
    )  # fmt: skip
    return replace(plain, **changes)


def test_the_object_of_an_experiment() -> None:
    pending = replace(
        record(2, None), status=Status.PENDING, started=None, ended=None, host=None, failure=None
    )
    data = experiment_data("x", {"t": "min"}, record(1, {"t": 1.5}), [record(1, {"t": 1.5}), pending])
    assert data == {
        "experiment_id": "x",
        "objectives": {"t": "min"},
        "best": {"trial_id": 1, "config_id": 1, "config": {"cache": 10}, "metrics": {"t": 1.5}},
        "trials": [
            {
                "trial_id": 1,
                "config_id": 1,
                "status": "SUCCEEDED",
                "attempt": 1,
                "config": {"cache": 10},
                "metrics": {"t": 1.5},
                "host": "localhost",
                "started": "2025-03-01T12:00:00+00:00",
                "ended": "2025-03-01T12:00:02+00:00",
                "failure": None,
            },
            {
                "trial_id": 2,
                "config_id": 1,
                "status": "PENDING",
                "attempt": 1,
                "config": {"cache": 10},
                "metrics": None,
                "host": None,
                "started": None,
                "ended": None,
                "failure": None,
            },
        ],
    }


def test_numbers_that_json_lacks_are_null() -> None:
    best = record(1, {"t": 1.0, "odd": math.nan, "deep": [math.inf, {"x": -math.inf}]})
    parsed = json.loads(as_json(experiment_data("é", {"t": "min"}, best, [])))
    assert parsed["best"]["metrics"] == {"t": 1.0, "odd": None, "deep": [None, {"x": None}]}
    assert parsed["experiment_id"] == "é"


def test_a_listing_counts_timed_out_trials_as_failed() -> None:
    counts = Counts(total=9, pending=1, running=1, succeeded=2, failed=2, canceled=1, timed_out=2)
    one = ExperimentSummary(
        experiment_id="x", description="", objectives={"t": "max"}, counts=counts, best=None
    )
    assert listing_data([one]) == [
        {
            "experiment_id": "x",
            "objectives": {"t": "max"},
            "trials": 9,
            "pending": 1,
            "running": 1,
            "succeeded": 2,
            "failed": 4,
            "canceled": 1,
            "best": None,
        }
    ]
    assert "4" in printed(tables.listing([one]))


def test_brackets_and_long_names_are_printed_as_they_are() -> None:
    text = printed(tables.failure_block(record(1, None)))
    assert "[bold]tail[/bold]" in text
    text = printed(tables.trials_table([record(1, {"[red]t": 1})], {"[red]t": "min"}))
    assert "[red]t=1" in text


def test_the_best_configuration_shows_its_spread() -> None:
    trials = [record(1, {"t": 1.0, "note": "ok"}), record(2, {"t": 3.0, "note": "ok"}), record(3, None)]
    stats = by_configuration(trials)
    text = printed(tables.best_block(trials[0], stats[1], {"t": "min"}))
    assert "2 ± 1.4142" in text
    assert "mean ± standard deviation of 2 trials" in text
    assert "note" in text
    single = printed(tables.best_block(trials[0], by_configuration(trials[:1])[1], {"t": "min"}))
    assert "±" not in single


def test_a_best_configuration_without_tunables_leaves_no_gap() -> None:
    bare = replace(record(1, {"t": 1.0}), config={})
    lines = printed(tables.best_block(bare, None, {"t": "min"})).splitlines()
    assert [line.split()[0] for line in lines] == ["best", "its", "t"]


def test_configurations_are_ranked_by_their_means() -> None:
    trials = [
        record(1, {"t": 1.0}, config_id=1),
        record(2, {"t": 9.0}, config_id=1),
        record(3, {"t": 4.0}, config_id=2),
        record(4, {"t": "text"}, config_id=3),
    ]
    stats = by_configuration(trials).values()
    assert [one.config_id for one in ranked(stats, parse_objectives({"t": "min"}), most=9)] == [2, 1]
    assert [one.config_id for one in ranked(stats, parse_objectives({"t": "max"}), most=1)] == [1]


def test_weights_rank_configurations_by_all_objectives() -> None:
    trials = [
        record(config_id, {"speed": speed, "memory": memory}, config_id=config_id)
        for config_id, speed, memory in ((1, 10.0, 100.0), (2, 9.0, 10.0), (3, 1.0, 5.0))
    ]
    stats = by_configuration(trials).values()
    by_first = parse_objectives({"speed": "max", "memory": "min"})
    by_all = parse_objectives({"speed": {"goal": "max", "weight": 2}, "memory": "min"})
    assert [one.config_id for one in ranked(stats, by_first, most=9)] == [1, 2, 3]
    assert [one.config_id for one in ranked(stats, by_all, most=9)] == [2, 1, 3]


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({}, 0, ""),
        ({"succeeded": 8, "failed": 2}, 0, ""),
        ({"succeeded": 7, "failed": 3}, 1, "3 of 10 trials failed"),
        ({"succeeded": 0, "failed": 10}, 1, "no trial succeeded"),
        ({"succeeded": 0}, 1, "no trial succeeded"),
        (
            {"succeeded": 4, "canceled": 2, "pending": 4, "interrupted": True},
            3,
            "run the same command to resume",
        ),
        ({"succeeded": 9, "failed": 1, "stopped_by": "time_budget"}, 0, ""),
        ({"succeeded": 0, "stopped_by": "time_budget"}, 1, "no trial succeeded"),
        (
            {"succeeded": 5, "stopped_by": "failures", "stopped_because": "6 trials failed"},
            1,
            "stopped early: 6 trials failed",
        ),
        ({"interrupted": True}, 0, ""),
        ({"interrupted": True, "succeeded": 1, "failed": 9}, 1, "9 of 10 trials failed"),
    ],
)
def test_the_verdict(changes: dict[str, Any], code: int, says: str) -> None:
    judged = verdict(summary(**changes), target=10)
    assert judged.exit_code == code
    assert says in judged.problem
    assert bool(judged.problem) == bool(code)


def test_teardowns_that_were_cut_short_have_an_exit_code_of_their_own() -> None:
    judged = verdict(summary(succeeded=4, canceled=6, interrupted=True, teardowns_cut=True), target=10)
    assert judged.exit_code == 4
    assert judged.problem.endswith("teardowns were cut short and may have left something behind")


def test_counts_in_words() -> None:
    assert tables.counted(Counts()) == "0 trials"
    assert tables.counted(Counts(total=1, running=1)) == "1 trial: 1 running"
    assert tables.counted(Counts(total=3, succeeded=1, timed_out=2)) == "3 trials: 1 succeeded, 2 timed out"


def test_a_long_listing_says_the_same_as_a_table() -> None:
    experiments = [
        ExperimentSummary(
            experiment_id=name,
            description="",
            objectives={"t": "max"},
            counts=Counts(total=total, succeeded=total),
            best=best,
        )
        for name, total, best in (("short", 7, record(3, {"t": 1.5})), ("日本", 1000, None))
    ]
    lines = tables.long_listing(experiments, width=200).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["short", "7", "7", "0", "0", "t=1.5", "(trial", "3)"],
        ["日本", "1000", "1000", "0", "0", "-"],
    ]
    table = printed(tables.listing(experiments))
    assert all(word in table for line in lines for word in line.split())
    assert lines[1].index("t=1.5") == lines[0].index("best"), "columns stand below each other"
    assert max(map(len, tables.long_listing(experiments, width=20).splitlines())) == 20
