"""Configuration trees of mlos_bench on the command line: real scripts, real databases."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.inprocess import Call, make_call
from tests.mlos_trees import LOCAL, MOCK, optimizer, written

SQLITE = {
    "class": "mlos_bench.storage.sql.storage.SqlStorage",
    "config": {"drivername": "sqlite", "database": "results.sqlite"},
}
MEASURE = """
import json, os, sys
params = json.load(open(sys.argv[1]))
seen = {name: os.environ.get(name) for name in sys.argv[2:]}
with open(os.environ["out"] + "/" + os.environ["trial_id"], "w") as file:
    json.dump({"params": params, "argv": sys.argv[1:], "seen": seen}, file)
with open("results.csv", "w") as file:
    file.write("score,label\\n%s,abc\\n" % (params["workers"] * 2))
print("elapsed=1.5")
"""
LOCAL_ENV: dict[str, Any] = {
    "name": "local",
    "class": LOCAL,
    "include_tunables": ["tunables.jsonc"],
    "config": {
        "tunable_params": ["web"],
        "required_args": ["out", "trial_id"],
        "const_args": {"flag": True, "where": "$place/$experiment_id"},
        "shell_env_params": ["out", "trial_id", "flag", "where"],
        "shell_env_params_rename": {"alive": "keep-alive"},
        "dump_params_file": "params.json",
        "setup": ["mkdir sub", "cd sub"],
        "run": ["scripts/measure.py params.json flag where alive 'x  y'"],
        "results_stdout_pattern": r"(\w+)=(\S+)",
        "read_results_file": "results.csv",
        "teardown": ["echo $trial_id >> $out/teardown"],
    },
}
MAIN = {
    "config_path": ["tree"],
    "environment": "env.jsonc",
    "storage": "db.jsonc",
    "optimizer": "opt.jsonc",
    "globals": ["globals.jsonc"],
    "experiment_id": "lab",
}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """The current folder, with a tree that runs scripts in a folder of the search path."""
    files = {
        "scripts/measure.py": MEASURE,
        "env.jsonc": LOCAL_ENV,
        "db.jsonc": SQLITE,
        "opt.jsonc": optimizer(max_suggestions=2, seed=3),
        "globals.jsonc": {"out": str(tmp_path / "out"), "place": "lab"},
    }
    written(tmp_path / "tree", files)
    written(tmp_path, {"main.jsonc": MAIN})
    (tmp_path / "out").mkdir()
    handlers = list(logging.getLogger().handlers)
    yield tmp_path
    logging.getLogger().handlers[:] = handlers


def seen(home: Path, trial: int = 1) -> dict[str, Any]:
    found = json.loads((home / "out" / str(trial)).read_text())
    assert isinstance(found, dict)
    return found


@pytest.fixture
def call(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    return make_call(home, capsys, monkeypatch)


def ran(call: Call, *argv: str) -> dict[str, Any]:
    """The JSON that a run prints."""
    done = call("mlos", *argv, "--json")
    assert done.code == 0, done.err
    assert isinstance(done.data, dict)
    return done.data


def test_a_tree_of_scripts_runs_unchanged(home: Path, call: Call) -> None:
    result = ran(call, "--config", "main.jsonc")
    assert [trial["status"] for trial in result["trials"]] == ["SUCCEEDED"] * 2
    assert result["trials"][0]["metrics"] == {"score": 8, "label": "abc", "elapsed": 1.5}
    assert seen(home) == {
        "params": {"workers": 4, "keep-alive": "True"},
        "argv": ["params.json", "flag", "where", "alive", "x  y"],
        "seen": {"flag": "True", "where": "lab/lab", "alive": "True", "x  y": None},
    }
    assert (home / "out/teardown").read_text() == "1\n2\n"


def test_the_json_is_that_of_run_and_a_converted_file_does_the_same(home: Path, call: Call) -> None:
    result = ran(call, "--config", "main.jsonc")
    before = [seen(home, trial) for trial in (1, 2)]
    (home / "new").mkdir()
    assert call("convert", "main.jsonc", "--output", "new/lab.yaml").code == 0
    again = call("run", "new/lab.yaml", "--storage", "sqlite:///other.db", "--json").data
    assert again.keys() == result.keys()
    for key in ("config", "metrics", "status"):
        assert [trial[key] for trial in again["trials"]] == [trial[key] for trial in result["trials"]]
    assert [seen(home, trial) for trial in (1, 2)] == before


def test_a_run_is_resumed_by_its_id_and_a_stored_configuration_is_run_again(home: Path, call: Call) -> None:
    assert len(ran(call, "--config", "main.jsonc")["trials"]) == 2
    resumed = ran(call, "--config", "main.jsonc", "--max_suggestions", "3")
    assert [trial["trial_id"] for trial in resumed["trials"]] == [1, 2, 3]
    again = ran(call, "--config", "main.jsonc", "--max_suggestions", "4", "--config_id", "1")
    assert [trial["config_id"] for trial in again["trials"]][3:] == [1]


def test_runners_work_at_the_same_time(home: Path, call: Call) -> None:
    """Each of two trials waits in a pipe until the other one is there, too."""
    meet = (
        "p=$out/$((trial_id % 2)) q=$out/$(((trial_id + 1) % 2)); "
        "say() { echo here > $p; }; hear() { read -r x < $q; }; "
        "if [ $((trial_id % 2)) = 0 ]; then say && hear; else hear && say; fi"
    )
    for name in ("0", "1"):
        os.mkfifo(home / "out" / name)
    environment = {
        **LOCAL_ENV,
        "config": {
            "required_args": ["out", "trial_id", "trial_runner_id"],
            "shell_env_params": ["out", "trial_id", "trial_runner_id"],
            "run": [meet, 'echo "score=$trial_runner_id"'],
            "results_stdout_pattern": r"(\w+)=(\S+)",
        },
    }
    written(home, {"env.jsonc": environment})
    flags = (
        "--trial_config_repeat_count",
        "2",
        "--num_trial_runners",
        "2",
        "--globals",
        "tree/globals.jsonc",
    )
    result = ran(call, "--environment", "env.jsonc", "--experiment_id", "e", *flags)
    assert sorted(trial["metrics"]["score"] for trial in result["trials"]) == [1, 2]


def test_optimizers_and_the_configuration_they_begin_with(home: Path, call: Call) -> None:
    written(home, {"mock.jsonc": MOCK, "grid.jsonc": optimizer("GridSearchOptimizer", max_suggestions=3)})
    cycle = [{"workers": 3}, {}, {"workers": -1, "keep-alive": False}]
    written(home, {"manual.jsonc": optimizer("ManualOptimizer", tunable_values_cycle=cycle, max_cycles=2)})
    values = ("--tunable_values", '{"workers": 9}')
    flags = ("--environment", "mock.jsonc", "--experiment_id", "e", *values)

    def tried(name: str) -> list[list[Any]]:
        result = ran(call, *flags, "--optimizer", name)
        return [list(trial["config"].values()) for trial in result["trials"]]

    assert tried("tree/opt.jsonc")[0] == [9, "True"]
    assert tried("grid.jsonc")[0] == [4, "True"]
    assert tried("manual.jsonc") == [[3, "True"], [4, "True"], [-1, "False"]] * 2


def test_results_in_memory_are_said_to_be_gone(home: Path, call: Call) -> None:
    written(home, {"mock.jsonc": MOCK})
    told = call("mlos", "--environment", "mock.jsonc", "--experiment_id", "e").out
    assert "e: 1 trial, 1 at once, in memory" in told
    assert told.splitlines()[-1].startswith("this was kept in memory only")


def test_scores_of_the_mock_environment_are_those_of_the_predecessor(home: Path, call: Call) -> None:
    """Found by running it with the same files and flags."""
    config = {"tunable_params": ["web", "cache"], "mock_env_seed": 42, "mock_env_range": [60, 120]}
    written(home, {"mock.jsonc": {**MOCK, "config": config}})
    flags = ("--environment", "mock.jsonc", "--experiment_id", "m", "--mock_env_seed", "-1")
    for values, score in {
        '{"workers": 17, "ratio": 0.7, "keep-alive": "False"}': 91.08999748047367,
        '{"workers": -1}': 61.25,
        "{}": 61.2953514739229,
    }.items():
        best = ran(call, *flags, "--tunable_values", values)["best"]
        assert best["metrics"] == {"score": pytest.approx(score, abs=1e-12)}


def test_nothing_runs_if_something_cannot_be_honoured(home: Path, call: Call) -> None:
    azure = {"class": "mlos_bench.services.remote.azure.AzureVMService"}
    written(home, {"azure.jsonc": azure})
    azured = call("mlos", "--config", "main.jsonc", "--services", "azure.jsonc")
    told = "error: azure.jsonc:2:3: AzureVMService: nothing here makes machines in Azure; use machines"
    assert (azured.code, azured.err.startswith(told)) == (2, True)
    misspelt = call("mlos", "--config", "main.jsonc", "--experimnt_id", "x")
    assert (misspelt.code, "did you mean 'experiment_id'" in misspelt.err) == (2, True)
    assert not (home / "results.sqlite").exists()
    assert not list((home / "out").iterdir())


def test_a_converted_file_says_what_is_missing_in_it(home: Path, call: Call) -> None:
    network = {"name": "n", "class": "mlos_bench.environments.remote.NetworkEnv"}
    children = [network, {**LOCAL_ENV, "include_tunables": ["tree/tunables.jsonc"]}]
    tree = {"name": "all", "class": "mlos_bench.environments.CompositeEnv", "config": {"children": children}}
    written(home, {"all.jsonc": tree})
    code, text, _ = call("convert", "all.jsonc", "--globals", "tree/globals.jsonc")
    assert code == 2
    assert (
        "# CANNOT BE HONOURED, and is missing here:\n# - all.jsonc:8:9: NetworkEnv: nothing here makes"
        in text
    )
    assert "class: LocalEnv" in text


def test_a_database_of_the_predecessor_stays_as_it_is(home: Path, call: Call) -> None:
    with closing(sqlite3.connect(home / "results.sqlite")) as connection:
        for table in ("experiment", "trial", "config_param", "objectives", "trial_telemetry"):
            connection.execute(f"CREATE TABLE {table} (id)")
    before = (home / "results.sqlite").read_bytes()
    code, _, told = call("mlos", "--config", "main.jsonc")
    assert code == 0
    assert "tree/db.jsonc:5:5: 'results.sqlite' is a database of mlos_bench and stays as it is" in told
    assert "import-mlos sqlite:///results.sqlite --storage sqlite:///results.windtunnel.sqlite" in told
    assert (home / "results.sqlite").read_bytes() == before
    assert (home / "results.windtunnel.sqlite").exists()


def test_a_log_file_has_what_the_level_asks_for(home: Path, call: Call) -> None:
    argv = ("--config", "main.jsonc", "--log_file", "run.log", "--colour", "red")
    done = call("mlos", *argv, "--log_level", "INFO")
    told = "--colour: nothing in the tree uses a global 'colour'"
    assert f"windtunnel.cli.trees WARNING {told}" in (home / "run.log").read_text()
    assert f"warning: {told}" in done.err
    assert call("mlos", *argv, "--log_level", "ERROR", "--log_file", "errors.log").code == 0
    assert (home / "errors.log").read_text() == ""
    loud = call("mlos", "--config", "main.jsonc", "--log_level", "LOUD")
    assert loud.err == "error: expected a log level, such as DEBUG or INFO, found 'LOUD'\n"


def test_the_database_alone_is_made_on_request(home: Path) -> None:
    command = [sys.executable, "-m", "windtunnel", "mlos", "--config", "main.jsonc"]
    only = "--create-update-storage-schema-only"
    done = subprocess.run([*command, only], cwd=home, check=True, capture_output=True)
    assert done.stdout == b""
    with closing(sqlite3.connect(home / "results.sqlite")) as connection:
        assert connection.execute("SELECT count(*) FROM trial").fetchone() == (0,)


def test_the_help_shows_every_flag(call: Call) -> None:
    text = call("mlos", "--help").out
    for flag in ("config", "globals", "num_trial_runners", "tunable_values", "no_teardown", "random_seed"):
        assert f"--{flag}" in text
