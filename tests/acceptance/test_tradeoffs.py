"""Tunables that depend on each other and several objectives, through the doors that users have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import windtunnel
from windtunnel import Objective, TunableError
from windtunnel.cli.main import make_app

SPACE: dict[str, Any] = {
    "db": {
        "params": {
            "mode": {"type": "categorical", "values": ["off", "wal"], "default": "off"},
            "checkpoint": {"type": "int", "range": [1, 9], "default": 5, "when": {"mode": "wal"}},
            "workers": {"type": "int", "range": [1, 9], "default": 1},
        }
    }
}
CONSTRAINTS = ["workers * checkpoint <= 45", "mode == 'wal' or workers <= 3"]


def bench(params: dict[str, Any]) -> dict[str, float]:
    assert params["mode"] == "wal" or params["checkpoint"] == 5
    rate = params["workers"] * (2 if params["mode"] == "wal" else 1) - params["checkpoint"] / 100
    return {"rate": rate, "cost": params["workers"] - 4.0 if params["workers"] == 3 else params["workers"]}


async def tuned(url: str, **options: Any) -> windtunnel.Summary:
    objectives = {"rate": "max", "cost": {"goal": "min", "min": 0}}
    given: dict[str, Any] = {"objectives": objectives, "constraints": CONSTRAINTS, "trials": 500, **options}
    return await windtunnel.tune(bench, SPACE, storage=url, experiment_id="two", **given)


async def test_a_whole_experiment(url: str) -> None:
    summary = await tuned(url, optimizer={"name": "grid", "points": 9})
    # 3 workers without a log, and with one the checkpoints there may be; what 3 workers cost cannot be.
    by_workers = [45 // workers for workers in range(1, 10)]
    assert summary.trials == 3 + sum(min(9, most) for most in by_workers)
    assert summary.failed == 1 + 9
    assert [point.config["workers"] for point in summary.pareto] == [9, 8, 7, 6, 5, 4, 2, 1]
    assert all(point.config["mode"] == "wal" and point.config["checkpoint"] == 1 for point in summary.pareto)
    assert summary.pareto[0].scores == {"rate": 17.99, "cost": 9}
    assert summary.best is not None
    assert summary.best.config["workers"] == 9

    async with windtunnel.open_storage(url) as storage:
        experiment = await storage.open_experiment("two")
        failures = {one.failure async for one in experiment.trials() if one.status.is_failed}
        assert failures == {"the objective 'cost' is -1.0, below its min of 0"}
        with pytest.raises(TunableError, match="the constraint 'workers \\* checkpoint <= 45' to hold"):
            await experiment.enqueue({"mode": "wal", "workers": 9, "checkpoint": 6})


async def test_weights_say_what_is_best(url: str) -> None:
    cheap = {"rate": Objective(direction="max"), "cost": Objective(direction="min", weight=9)}
    summary = await tuned(url, objectives=cheap, optimizer={"name": "grid", "points": 2}, trials=6)
    assert summary.best is not None
    assert summary.best.config["workers"] == 1
    assert len(summary.pareto) > 1


async def test_a_search_of_a_projection_goes_on_after_a_stop(url: str) -> None:
    optimizer = {"name": "tpe", "adapter": {"name": "llamatune", "dimensions": 3}, "startup": 4}
    for trials in (8, 12):
        summary = await tuned(url, optimizer=optimizer, trials=trials, seed=1, concurrency=2)
        assert summary.trials == summary.succeeded + summary.failed == trials
    async with windtunnel.open_storage(url) as storage:
        experiment = await storage.open_experiment("two")
        tried = [experiment.tunables.assign(one.config) async for one in experiment.trials()]
    assert all(one.is_feasible for one in tried)
    assert len(set(tried)) == 12


def test_the_command_line(tmp_path: Path, url: str) -> None:
    file = tmp_path / "e.json"
    mock = {"class": "MockEnv", "config": {"mock_env_metrics": ["a", "b"]}}
    objectives = {"a": "max", "b": "min"}
    described = {"experiment": "e", "objectives": objectives, "tunables": SPACE, "environment": mock}
    file.write_text(json.dumps({**described, "constraints": CONSTRAINTS, "trials": 12, "storage": url}))
    run = CliRunner().invoke

    assert run(make_app(), ["run", str(file)]).exit_code == 0
    printed = run(make_app(), ["show", "e", "--pareto", "--storage", url]).output
    assert "no other beats in every objective" in printed
    assert "hypervolume" in printed
    assert "--pareto" in run(make_app(), ["show", "e", "--storage", url]).output
    shown = json.loads(run(make_app(), ["show", "e", "--pareto", "--json", "--storage", url]).output)
    assert shown.keys() == {"experiment_id", "objectives", "pareto", "hypervolume"}
    assert shown["pareto"][0].keys() == {"config_id", "config", "trials", "scores"}
    assert shown["pareto"][0]["scores"].keys() == {"a", "b"}
    assert [one["value"] for one in shown["hypervolume"]] == sorted(
        one["value"] for one in shown["hypervolume"]
    )
    whole = json.loads(run(make_app(), ["show", "e", "--json", "--storage", url]).output)
    assert whole["pareto"] == shown["pareto"]
    assert len(whole["trials"]) == 12
