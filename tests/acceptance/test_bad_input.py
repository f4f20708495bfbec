"""What a user can get wrong in an experiment: one clear error each, and nothing that was finished is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

GOOD: dict[str, Any] = {
    "experiment": "e",
    "objectives": {"score": "min"},
    "trials": 2,
    "tunables": {"g": {"params": {"x": {"type": "int", "range": [0, 9], "default": 3}}}},
    "environment": {
        "class": "LocalEnv",
        "config": {
            "shell_env_params": ["x"],
            "run": ['echo "score: $x"'],
            "results_stdout_pattern": r"^(?P<metric>\w+): (?P<value>\S+)$",
        },
    },
}


def changed(where: str, value: object) -> dict[str, Any]:
    """GOOD with one value changed; ``where`` is its dotted path."""
    config: dict[str, Any] = json.loads(json.dumps(GOOD))
    *path, last = where.split(".")
    place = config
    for key in path:
        place = place[key]
    place[last] = value
    return config


def run(folder: Path, config: dict[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "e.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    command = [sys.executable, "-m", "windtunnel", "run", "e.json", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=False)
    assert "Traceback" not in done.stdout + done.stderr
    return done


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("trails", 5, ["e.json:", "unknown key 'trails'", "did you mean 'trials'"]),
        ("trials", "many", ["e.json:6:2: trials: expected an integer, found 'many'"]),
        ("objectives.score", "best", ["e.json:", "'min' or 'max'", "'best'"]),
        ("tunables.g.params.x.default", 12, ["e.json:", "'x'", "12", "[0, 9]"]),
        ("tunables.g.params.x.ragne", [0, 1], ["e.json:", "'ragne'", "did you mean 'range'"]),
        ("environment.class", "LoclaEnv", ["e.json:", "'LoclaEnv'", "did you mean 'LocalEnv'"]),
        ("environment.config.shell_env_params", ["y"], ["e.json:", "no parameter 'y' to export"]),
        ("environment.config.tunable_params", ["h"], ["e.json:", "'h'"]),
        ("environment.config.run", [{"echo score": 1}], ["e.json:", "found {'echo score': 1}", "quotes"]),
        ("environment.config.run", ["echo \0"], ["e.json:", "NUL"]),
        (
            "environment.config.telemetry_stdout_patern",
            "x",
            ["e.json:", "did you mean 'telemetry_stdout_pattern'"],
        ),
        ("environment.config.results_stdout_pattern", "(", ["e.json:", "results_stdout_pattern"]),
        ("environment.config.const_args", {"a": "$nobody"}, ["e.json:", "$nobody is not defined"]),
        ("optimizer", {"name": "random", "points": 3}, ["e.json:", "'points'"]),
        ("storage", "oracle://me:hunter2@db/x", ["'oracle'", "not supported"]),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_place(
    tmp_path: Path, where: str, value: object, said: list[str]
) -> None:
    done = run(tmp_path, changed(where, value))
    assert done.returncode == 2, done.stderr
    for fragment in said:
        assert fragment in done.stderr
    assert "hunter2" not in done.stdout + done.stderr
    assert not (tmp_path / "windtunnel.db").exists(), "nothing was touched"


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("run", ["./bench.sh"], ["'./bench.sh'", "status 126", "chmod +x"]),
        ("run", ["./missing.sh"], ["'./missing.sh'", "status 127", "command not found"]),
        ("run", ["echo hello", "echo no disk >&2; exit 3", "echo never"], ["exit 3", "status 3", "no disk"]),
        ("run", ["echo nothing to see"], ["no objective 'score'", "nothing to see"]),
        ("run", ["echo 'score: nan'"], ["objective 'score' must be a finite number, found nan"]),
        ("run", ["echo 'score: fast'"], ["objective 'score' must be a finite number, found 'fast'"]),
        ("read_results_file", "r.csv", ["results file 'r.csv' was not written"]),
        ("run", ["echo 'other,1' > r.csv"], ["no objective 'score'"]),
        ("setup", ["exit 4"], ["setup failed", "'exit 4'", "status 4"]),
        ("temp_dir", "/proc/nope", ["setup failed", "/proc/nope"]),
    ],
)
def test_a_trial_that_cannot_work_fails_and_says_why(
    tmp_path: Path, where: str, value: object, said: list[str]
) -> None:
    script = tmp_path / "bench.sh"
    script.write_text("#!/bin/sh\necho 'score: 1'\n", encoding="utf-8")
    config = changed(f"environment.config.{where}", value)
    settings = config["environment"]["config"]
    settings["run"] = [line.replace("./", f"{tmp_path}/") for line in settings["run"]]
    done = run(tmp_path, config)
    assert done.returncode == 1, done.stderr
    for fragment in said:
        assert fragment.replace("./", f"{tmp_path}/") in done.stdout + done.stderr
    shown = json.loads(
        subprocess.run(
            [sys.executable, "-m", "windtunnel", "show", "e", "--json"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    assert [trial["status"] for trial in shown["trials"]] == ["FAILED", "FAILED"]
    assert shown["best"] is None


def test_a_run_that_takes_too_long_is_killed_with_its_children_and_shows_what_it_printed(
    tmp_path: Path,
) -> None:
    config = changed("environment.config.run", ["sleep 600 & echo so far so good; sleep 600"])
    config |= {"trials": 1, "timeouts": {"run": "500ms"}}
    config["environment"]["config"]["teardown"] = ['echo "$trial_id" > "$config_dir/torn-down"']
    done = run(tmp_path, config)
    assert done.returncode == 1
    assert "run was stopped after its time limit of 0.5 s" in done.stdout + done.stderr
    assert "so far so good" in done.stdout + done.stderr
    assert (tmp_path / "torn-down").read_text(encoding="utf-8") == "1\n"
    ours = [
        p
        for p in psutil.process_iter(["environ"])
        if (p.info["environ"] or {}).get("config_dir") == str(tmp_path)
    ]
    assert ours == [], "its children are gone too"


def test_importing_the_package_is_cheap() -> None:
    heavy = "{'sqlalchemy', 'asyncssh', 'alembic', 'pydantic', 'aiosqlite', 'typer', 'rich', 'pyarrow'}"
    code = f"import sys, windtunnel; assert not {heavy} & set(sys.modules); assert callable(windtunnel.tune)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system with room for very little."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_what_was_finished_is_kept(tmp_path: Path, small_disk: Path) -> None:
    storage = f"sqlite:///{small_disk}/x.db"
    config = changed("environment", {"class": "MockEnv", "config": {"mock_env_seed": -1}})
    assert run(tmp_path, config, "--storage", storage).returncode == 0
    config["environment"]["config"]["telemetry"] = 2000
    done = run(tmp_path, config, "--storage", storage, "--trials", "500")
    assert done.returncode == 1
    assert "the disk is full" in done.stderr
    assert str(small_disk) in done.stderr
    bigger = ["mount", "-o", "remount,size=64m", str(small_disk)]
    subprocess.run(bigger, check=True)
    config["environment"]["config"]["telemetry"] = 0
    resumed = run(tmp_path, config, "--storage", storage, "--trials", "500", "--json")
    assert resumed.returncode == 0, resumed.stderr
    trials = json.loads(resumed.stdout)["trials"]
    assert [trial["status"] for trial in trials] == ["SUCCEEDED"] * 500
    assert [trial["attempt"] for trial in trials[:2]] == [1, 1], "the finished ones were not run again"
