"""``new``, ``resume`` and ``run --dry-run``."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.inprocess import Call, make_call
from tests.integration.load.server import closed_port
from windtunnel.cli.templates import TEMPLATES

EXPERIMENT: dict[str, Any] = {
    "experiment": "scripts",
    "objectives": {"score": "max"},
    "trials": 4,
    "repeats": 2,
    "optimizer": {"name": "grid", "points": 3},
    "tunables": {"g": {"params": {"x": {"type": "int", "range": [1, 9], "default": 5}}}},
    "environment": {
        "class": "CompositeEnv",
        "config": {
            "children": [
                {"class": "MockEnv", "config": {"mock_env_metrics": ["other"]}},
                {
                    "class": "LocalEnv",
                    "name": "server",
                    "config": {
                        "const_args": {"rows": "$rows", "doubled": "${x}0"},
                        "shell_env_params": ["x", "rows", "doubled"],
                        "setup": ["touch $config_dir/touched"],
                        "run": ['echo "score: $x"'],
                        "teardown": ["true"],
                        "results_stdout_pattern": r"^(?P<metric>\w+): (?P<value>\S+)$",
                    },
                },
            ]
        },
    },
}


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    (tmp_path / "e.json").write_text(json.dumps(EXPERIMENT))
    return make_call(tmp_path, capsys, monkeypatch)


# Projects

LOAD = ("-g", "duration=500ms", "-g", f"port={closed_port()}")
QUICK = {"load": LOAD, "local": ("-g", "kib=8"), "sqlite": ("-g", "seconds=0.1", "-g", "rows=200")}


@pytest.mark.parametrize("template", sorted(QUICK))
def test_a_new_project_runs_as_it_is(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    done = call("new", "my-bench", "--template", template)
    assert (done.code, done.err) == (0, "")
    assert "cd my-bench" in done.out
    monkeypatch.chdir(tmp_path / "my-bench")
    checked = call("validate", "experiment.yaml")
    assert checked.out.startswith("experiment.yaml is fine"), checked.err
    done = call("run", "experiment.yaml", "--trials", "2", *QUICK[template], "--json")
    assert done.code == 0, done.err
    assert done.data["experiment_id"] == "my-bench"
    assert [trial["status"] for trial in done.data["trials"]] == ["SUCCEEDED", "SUCCEEDED"]


def test_every_template_can_be_made_and_is_fine(call: Call) -> None:
    for template in TEMPLATES:
        made = call("new", f"of-{template}", "--template", template, "--json").data
        assert made["template"] == template
        assert "experiment.yaml" in made["files"]
        assert call("validate", f"of-{template}/experiment.yaml").code == 0


def test_what_is_there_is_left_alone(call: Call, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    done = call("new", "full")
    assert done.code == 2
    assert "'full' is there already and not empty" in done.err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    assert "expected a name of letters" in call("new", "no good").err
    assert call("new", "x", "--template", "nonsuch").code == 2


# Resuming


def trials(call: Call, name: str) -> list[str]:
    return [trial["status"] for trial in call("show", name, "--json").data["trials"]]


def test_resume_runs_what_is_stored_without_the_file(call: Call, tmp_path: Path) -> None:
    assert call("run", "e.json", "--trials", "2", "-g", "rows=7").code == 0
    (tmp_path / "e.json").unlink()
    with closing(sqlite3.connect(tmp_path / "windtunnel.db")) as database, database:
        database.execute("UPDATE trial SET status = 1, ended_us = NULL WHERE trial_id = 2")  # PENDING

    done = call("resume", "scripts", "--json")
    assert done.code == 0, done.err
    assert [trial["attempt"] for trial in done.data["trials"]] == [1, 2]
    assert trials(call, "scripts") == ["SUCCEEDED"] * 2

    assert call("resume", "scripts", "--trials", "4").code == 0
    assert trials(call, "scripts") == ["SUCCEEDED"] * 4
    assert "4 trials: 4 succeeded" in call("resume", "scripts").out, "what was asked for is kept"


def test_resume_needs_something_to_resume(call: Call) -> None:
    assert "there is no database 'windtunnel.db'" in call("resume", "scripts").err
    call("run", "e.json", "--trials", "1", "-g", "rows=7")
    done = call("resume", "script")
    assert done.code == 2
    assert "'script'" in done.err
    assert "windtunnel run FILE" in done.err


# Dry runs


def test_a_dry_run_shows_the_commands_and_touches_nothing(call: Call, tmp_path: Path) -> None:
    done = call("run", "e.json", "-g", "rows=7", "--dry-run")
    assert (done.code, done.err) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["e.json"]
    lines = [line.strip() for line in done.out.splitlines()]
    size = "4 trials, each configuration 2 times"
    assert lines[0] == f"scripts: {size}; nothing is run or stored; without a seed, a run proposes others"
    assert "trial 1  x=5" in lines
    assert "server: setup" in lines
    assert "touch $config_dir/touched" in lines
    (variables,) = {line for line in lines if "trial_id=3" in line}
    assert "x=1 " in variables
    assert "rows=7" in variables
    assert "doubled=10" in variables


def test_a_dry_run_is_what_a_run_does(call: Call) -> None:
    planned = call("run", "e.json", "-g", "rows=7", "--seed", "1", "--dry-run", "--json").data
    assert (planned["trials"], planned["repeats"]) == (4, 2)
    done = call("run", "e.json", "-g", "rows=7", "--seed", "1", "--json").data
    configs = {trial["trial_id"]: trial["config"] for trial in done["trials"]}
    assert {one["trial_id"]: one["config"] for one in planned["first"]} == {1: configs[1], 3: configs[3]}
    steps = [(one["environment"], one["step"]) for one in planned["first"][0]["commands"]]
    assert steps == [("server", "setup"), ("server", "run"), ("server", "teardown")]


def test_a_dry_run_without_commands_says_so(call: Call, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(
        json.dumps({**EXPERIMENT, "environment": {"class": "MockEnv"}, "objectives": {"score": "min"}})
    )
    assert "no commands: MockEnv runs in this process" in call("run", "m.json", "--dry-run").out


def test_a_dry_run_names_the_hosts(call: Call, tmp_path: Path) -> None:
    environment = {
        "class": "CompositeEnv",
        "config": {
            "children": [
                {
                    "class": "RemoteEnv",
                    "name": "load",
                    "on": "client",
                    "config": {"run": ["./load"], "results_stdout_pattern": "(a)(b)"},
                },
                {
                    "class": "OSEnv",
                    "name": "kernel",
                    "on": "server",
                    "config": {"sysctl": {"vm.swappiness": "$x"}},
                },
            ]
        },
    }
    hosts = [{"name": f"n{one}", "address": f"192.0.2.{one}"} for one in (1, 2, 3)]
    roles = {"server": 1, "client": 2}
    described = {**EXPERIMENT, "environment": environment, "hosts": hosts, "hosts_per_trial": roles}
    (tmp_path / "r.json").write_text(json.dumps(described))
    commands = call("run", "r.json", "--dry-run", "--json").data["first"][0]["commands"]
    assert (
        sorted((one["host"], one["step"], *one["lines"]) for one in commands)
        == [
            ("n1", "setup", "vm.swappiness = 5"),
            ("n2", "run", "./load"),
            ("n3", "run", "./load"),
        ]
        or len(commands) == 3
    )
