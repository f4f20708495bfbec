"""Retries, budgets, time limits and pruners: from the file to the database, with real scripts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

import windtunnel
from windtunnel.errors import ConfigError
from windtunnel.model import Status, Summary, TrialRecord

BASE: dict[str, Any] = {
    "experiment": "e",
    "objectives": {"score": "min"},
    "trials": 3,
    "optimizer": {"name": "grid", "points": 3},
    "tunables": {"g": {"params": {"x": {"type": "int", "range": [0, 2], "default": 1}}}},
}


def local(**steps: Any) -> dict[str, Any]:
    config = {
        "shell_env_params": ["x"],
        "results_stdout_pattern": r"^(?P<metric>score): (?P<value>\S+)$",
        "telemetry_stdout_pattern": r"^telemetry (?P<metric>\w+)=(?P<value>\S+)$",
        **steps,
    }
    return {"class": "LocalEnv", "config": config}


def described(folder: Path, **changes: Any) -> Path:
    file = folder / "e.json"
    file.write_text(json.dumps({**BASE, "storage": f"sqlite:///{folder}/e.db", **changes}, indent=1))
    return file


async def run(folder: Path, **changes: Any) -> tuple[Summary, list[TrialRecord]]:
    """How the session ended, and the trials in the order of their configurations."""
    summary = await windtunnel.run(described(folder, **changes))
    async with windtunnel.open_storage(f"sqlite:///{folder}/e.db") as storage:
        experiment = await storage.open_experiment("e")
        trials = [trial async for trial in experiment.trials()]
    return summary, sorted(trials, key=lambda trial: trial.config["x"])


def statuses(trials: list[TrialRecord]) -> list[Status]:
    return [trial.status for trial in trials]


def left_alive(folder: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get("config_dir") == str(folder)
    ]


async def test_a_script_that_breaks_a_limit_is_aborted_in_mid_run(tmp_path: Path) -> None:
    environment = local(
        run=['if [ "$x" = 0 ]; then echo "score: 1"; exit; fi', "echo telemetry latency=500", "sleep 600"],
        abort=['echo "abort $trial_id" >> "$config_dir/log"'],
        teardown=['[ "$x" = 0 ] || echo "teardown $trial_id" >> "$config_dir/log"'],
    )
    rule = {"name": "threshold", "metric": "latency", "above": 100}
    _, trials = await run(tmp_path, environment=environment, pruner=rule)
    assert statuses(trials) == [Status.SUCCEEDED, Status.CANCELED, Status.CANCELED]
    assert all("threshold: latency is 500, above 100" in (trial.failure or "") for trial in trials[1:])
    log = (tmp_path / "log").read_text().splitlines()
    first, second = sorted(trial.trial_id for trial in trials[1:])
    assert log == [f"{step} {trial_id}" for trial_id in (first, second) for step in ("abort", "teardown")]
    assert left_alive(tmp_path) == []
    _, again = await run(tmp_path, environment=environment, pruner=rule)
    assert again == trials, "what was aborted is not run again"


async def test_what_fails_is_retried_as_often_as_the_file_says(tmp_path: Path) -> None:
    flaky = (
        'echo begun >> "$config_dir/$trial_id"; '
        '[ "$(grep -c begun "$config_dir/$trial_id")" -gt "$x" ] || exit 3'
    )
    environment = local(run=[flaky, 'echo "score: $x"'])
    retries = {"run": {"times": 1, "pause": "10ms"}}
    _, trials = await run(tmp_path, environment=environment, retries=retries)
    assert [(trial.status, trial.attempt) for trial in trials] == [
        (Status.SUCCEEDED, 1),
        (Status.SUCCEEDED, 2),
        (Status.FAILED, 2),
    ]


async def test_a_failed_set_up_is_retried_and_counted_apart(tmp_path: Path) -> None:
    """Any failure of a run would end it, but only set-ups fail, and one retry mends them."""
    mended = '[ -e "$config_dir/$trial_id" ] || { touch "$config_dir/$trial_id"; exit 3; }'
    environment = local(setup=[mended], run=['echo "score: $x"'])
    retries = {"setup": {"times": 1, "pause": "10ms"}}
    summary, trials = await run(
        tmp_path, environment=environment, retries=retries, failures={"most": 0, "setup": 0}
    )
    assert summary.stopped_because is None
    assert [(trial.status, trial.attempt) for trial in trials] == [(Status.SUCCEEDED, 2)] * 3


async def test_every_step_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    hang = "{ sleep 600 & sleep 600; }"
    environment = local(
        setup=[f'[ "$x" != 0 ] || {hang}'],
        run=[f'[ "$x" != 1 ] || {hang}', 'echo "score: $x"'],
        teardown=['echo "$x" >> "$config_dir/torn-down"', f'[ "$x" != 2 ] || {hang}'],
    )
    limits = {"setup": "300ms", "run": "400ms", "teardown": "500ms"}
    _, trials = await run(tmp_path, environment=environment, timeouts=limits, concurrency=3)
    assert statuses(trials) == [Status.TIMED_OUT, Status.TIMED_OUT, Status.SUCCEEDED]
    assert "setup was stopped after its time limit of 0.3 s" in (trials[0].failure or "")
    assert "run was stopped after its time limit of 0.4 s" in (trials[1].failure or "")
    assert sorted((tmp_path / "torn-down").read_text().split()) == ["0", "1", "2"]
    assert left_alive(tmp_path) == []


@pytest.mark.parametrize("part", ["trial", "experiment"])
async def test_a_trial_and_an_experiment_end_in_time(tmp_path: Path, part: str) -> None:
    environment = local(
        run=["sleep 600 & sleep 600"], teardown=['echo "$trial_id" >> "$config_dir/torn-down"']
    )
    limits = {part: "500ms"}
    summary, trials = await run(tmp_path, environment=environment, timeouts=limits, trials=1)
    assert statuses(trials) == [Status.TIMED_OUT]
    assert part in (trials[0].failure or "")
    wanted = "the experiment's time limit of 0.5 s is over" if part == "experiment" else None
    assert summary.stopped_because == wanted
    assert (tmp_path / "torn-down").read_text() == "1\n"
    assert left_alive(tmp_path) == []


async def test_a_wrong_rule_is_told_with_its_line_before_anything_is_touched(tmp_path: Path) -> None:
    rules = [{"name": "worst"}, {"name": "threshold", "metric": "latency", "abvoe": 3}]
    file = described(tmp_path, environment={"class": "MockEnv"}, pruner=rules)
    with pytest.raises(ConfigError) as caught:
        await windtunnel.run(file)
    lines = file.read_text().splitlines()
    line = next(i for i, line in enumerate(lines, 1) if "abvoe" in line)
    column = lines[line - 1].index('"abvoe') + 1
    assert str(caught.value).startswith(f"{file}:{line}:{column}: unknown key 'abvoe'; did you mean 'above'?")
    assert not (tmp_path / "e.db").exists()


# What the command makes of a session that ended early


def command(folder: Path, **changes: Any) -> subprocess.Popen[str]:
    folder.mkdir()
    file = str(described(folder, **changes))
    arguments = ["-m", "windtunnel", "run", file, "--json", "--log-format", "json", "-v"]
    return subprocess.Popen(
        [sys.executable, *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_the_exit_code_tells_a_used_up_failure_budget_from_a_time_budget(tmp_path: Path) -> None:
    retries = {"run": {"times": 1, "pause": "1ms"}}
    failing = command(
        tmp_path / "a", environment=local(run=["exit 3"]), trials=50, repeats=50, failures=1, retries=retries
    )
    mock = {"class": "MockEnv", "config": {"duration": "400ms"}}
    timed = command(tmp_path / "b", environment=mock, time_budget="600ms", trials=50, repeats=50)

    output, said = failing.communicate(timeout=20)
    ran = json.loads(output)
    assert failing.returncode == 1, said
    assert ran["stopped_because"].startswith("2 trials failed, more than the allowed 1")
    assert f"failed: stopped early: {ran['stopped_because']}" in said
    assert len([trial for trial in ran["trials"] if trial["status"] == "PENDING"]) >= 47, "what ran may end"
    logged = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert ("retried", "e", 1) in {
        (one.get("action"), one.get("experiment_id"), one.get("trial_id")) for one in logged
    }

    output, said = timed.communicate(timeout=20)
    ran = json.loads(output)
    assert timed.returncode == 0, said
    assert ran["stopped_because"] == "the time budget of 0.6 s is used up"
    assert f"stopped early: {ran['stopped_because']}" in said
    found = [trial["status"] for trial in ran["trials"]]
    assert set(found) == {"SUCCEEDED", "PENDING"}
    assert 1 <= found.count("SUCCEEDED") <= 3
