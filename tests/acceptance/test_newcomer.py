"""What somebody meets who has just cloned the repository and follows what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(sys.executable).with_name("windtunnel")
MODULE = """
import threading

from windtunnel import Environment, Optimizer, RunResult, Status
from windtunnel.model import utc_now

class Ping(Environment):
    async def _run(self):
        return RunResult(Status.SUCCEEDED, utc_now(), {"score": self.parameters["x"]})

class Upwards(Optimizer):
    def _ask(self, index, count):
        return [self.tunables.assign({"x": index + one}) for one in range(count)]

def hang(params):
    threading.Event().wait()

def square(params):
    return {"score": params["x"] ** 2}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "beside.py").write_text(MODULE)
    return tmp_path


def described(home: Path, **changes: Any) -> Path:
    file = home / "experiments" / "experiment.json"
    experiment = {
        "experiment": "new",
        "objectives": {"score": "max"},
        "trials": 3,
        "tunables": {"g": {"params": {"x": {"type": "int", "range": [0, 9], "default": 4}}}},
        "environment": {"class": "MockEnv"},
    }
    file.write_text(json.dumps({**experiment, **changes}))
    return file


def call(home: Path, *command: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "COLUMNS")}
    return subprocess.run(
        command,
        cwd=home,
        env={**kept, **environ},
        text=True,
        capture_output=True,
        timeout=20,
        check=False,
    )


@pytest.mark.parametrize(
    ("changes", "best"),
    [
        ({"environment": {"class": "beside.Ping"}, "optimizer": "beside.Upwards"}, 4),
        ({"environment": {"class": "FunctionEnv", "config": {"function": "beside:square"}}, "trials": 1}, 16),
    ],
    ids=["classes", "function"],
)
def test_a_module_beside_the_file_is_found(home: Path, changes: Mapping[str, Any], best: int) -> None:
    done = call(home, PROGRAM, "run", described(home, **changes), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["best"]["metrics"] == {"score": best}


def test_a_function_that_never_returns_keeps_no_process(home: Path) -> None:
    environment = {"class": "FunctionEnv", "config": {"function": "beside:hang"}}
    file = described(home, environment=environment, timeouts={"run": "0.1s"}, trials=2)
    done = call(home, PROGRAM, "run", file)
    assert done.returncode == 1
    assert "2 trials: 2 timed out" in done.stdout


def test_a_space_that_is_exhausted_is_told(home: Path) -> None:
    file = described(home, optimizer={"name": "grid", "points": 3}, trials=50)
    for repeated in (False, True):
        done = call(home, PROGRAM, "run", file)
        assert done.returncode == 0
        assert "4 of 50 trials: the optimizer has no more configurations to propose" in done.stdout
        assert ("nothing to do" in done.stdout) == repeated
        assert "--trials" not in done.stdout


def test_a_file_beside_the_experiment_hides_no_installed_module(home: Path) -> None:
    (home / "experiments" / "statistics.py").write_text("raise RuntimeError('this is a script')")
    (home / "experiments" / "sqlalchemy.py").write_text("raise RuntimeError('this is a script')")
    done = call(home, PROGRAM, "run", described(home))
    assert done.returncode == 0, done.stderr


def test_the_command_it_suggests_works_where_it_was_called(home: Path) -> None:
    environ = home / "my environment" / "bin"
    environ.mkdir(parents=True)
    (environ / "windtunnel").symlink_to(PROGRAM)
    called = "my environment/bin/windtunnel"
    described(home)
    for path, suggested in ((os.defpath, f"'{called}'"), (f"{environ}:{os.defpath}", "windtunnel")):
        done = call(home, called, "run", "experiments/experiment.json", PATH=path)
        assert f"more: {suggested} show new\n" in done.stdout
        assert call(home, "sh", "-c", f"{suggested} show new", PATH=path).returncode == 0


def test_a_listing_fits_a_common_terminal(home: Path) -> None:
    call(home, PROGRAM, "run", described(home, experiment="sqlite-pragmas"))
    for command in (("list",), ("show", "sqlite-pragmas")):
        shown = call(home, PROGRAM, *command, COLUMNS="80").stdout
        whole = call(home, PROGRAM, *command, COLUMNS="200").stdout
        assert shown.split() == whole.split(), "nothing is folded"
