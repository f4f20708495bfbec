"""Commands that change what is stored, as people use them."""

from __future__ import annotations

import io
import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_import_mlos import Lab
from windtunnel.cli.errors import report
from windtunnel.cli.main import _called
from windtunnel.errors import WindtunnelError

EXPERIMENT: dict[str, Any] = {
    "experiment": "mock",
    "objectives": {"score": "min"},
    "trials": 3,
    "optimizer": {"name": "random", "seed": 1},
    "tunables": {"g": {"cost": 1, "params": {"x": {"type": "int", "range": [0, 100], "default": 50}}}},
    "environment": {"class": "MockEnv", "config": {"telemetry": 2}},
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiment.json").write_text(json.dumps(EXPERIMENT))
    return tmp_path


@pytest.fixture
def shell(capfd: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capfd)


class Shell:
    """Calls the command line in this process; what it printed comes back."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *arguments: str, code: int = 0) -> str:
        try:
            found = _called(arguments)
        except WindtunnelError as error:
            found = report(error)
        printed = self._capture.readouterr()
        text = printed.out + printed.err
        assert found == code, text
        return text


def trials(shell: Shell, *storage: str) -> dict[int, dict[str, Any]]:
    shown = json.loads(shell("show", "mock", "--json", *storage))
    return {one["trial_id"]: one for one in shown["trials"]}


def test_enqueue_and_cancel_and_run_again(shell: Shell) -> None:
    shell("run", "experiment.json")
    assert shell("enqueue", "mock", "x=7", "--priority", "2") == "trial 4 of mock is queued: x=7\n"
    shell("enqueue", "mock", "--from-best")
    queued = shell("enqueue", "mock", "--config-id", "1", "--not-before", "2030-01-01T22:00")
    assert queued.endswith(", not before 2030-01-01T22:00:00+00:00\n")
    assert shell("cancel", "mock", "6", "--reason", "too late") == "trial 6 of mock is canceled\n"
    shell("run", "experiment.json")
    found = trials(shell)
    assert (found[4]["config"], found[4]["status"]) == ({"x": 7}, "SUCCEEDED")
    best = min((one for i, one in found.items() if i < 4), key=lambda one: one["metrics"]["score"])
    assert found[5]["config"] == best["config"]
    assert found[6]["config"] == found[1]["config"]
    assert (found[6]["status"], found[6]["failure"]) == ("CANCELED", "canceled: too late")
    said = shell("cancel", "mock", "4", "99", code=1)
    assert "trial 4 is SUCCEEDED already" in said
    assert "no trial 99" in said


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["x=101"], 2, "error: tunable 'x': '101' is out of range; expected int in [0, 100]"),
        (["y=1"], 2, "no tunable 'y'"),
        (["x"], 2, "expected NAME=VALUE, found 'x'"),
        (["x=1", "x=2"], 2, "expected one value for 'x', found '1' and '2'"),
        ([], 2, "expected NAME=VALUE, --config-id N or --from-best, found none of them"),
        (["x=1", "--config-id", "1"], 2, "--config-id names all values"),
        (["--config-id", "99"], 2, "there is no configuration 99"),
        (["--from-best"], 2, "there is no succeeded trial to start from in experiment 'mock'"),
        (["x=1", "--not-before", "soon"], 2, "expected a time such as 2030-01-01T22:00"),
        (["x=1", "--storage", "sqlite:///no.db"], 2, "there is no database 'no.db'"),
    ],
)
def test_what_cannot_be_enqueued(shell: Shell, arguments: list[str], code: int, said: str) -> None:
    _empty_experiment(shell)
    text = shell("enqueue", "mock", *arguments, code=code)
    assert said in text
    assert "Traceback" not in text
    assert not Path("no.db").exists()
    assert trials(shell) == {}


def _empty_experiment(shell: Shell) -> None:
    shell("run", "experiment.json")
    with closing(sqlite3.connect("windtunnel.db")) as connection, connection:
        connection.execute("DELETE FROM telemetry")
        connection.execute("DELETE FROM trial")


def test_rename_then_delete(shell: Shell) -> None:
    shell("run", "experiment.json")
    assert shell("rename", "mock", "was-mock") == "mock is now was-mock\n"
    assert "no experiment 'mock'; there are: was-mock" in shell("rename", "mock", "x", code=2)
    assert "add --yes" in shell("delete", "was-mock", code=2)
    assert shell("delete", "was-mock", "--yes") == "was-mock is deleted\n"
    assert "no experiment yet" in shell("list")


@pytest.mark.parametrize(("answer", "left"), [("y\n", 0), ("yes\n", 0), ("n\n", 1), ("\n", 1), ("", 1)])
def test_a_deletion_is_confirmed(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, answer: str, left: int
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shell("run", "experiment.json")
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    said = shell("delete", "mock")
    assert said.startswith("mock in sqlite:///windtunnel.db has 3 trials. Delete them for good? [y/N]")
    assert said.endswith("nothing is deleted\n" if left else "mock is deleted\n")
    assert len(json.loads(shell("list", "--json"))) == left


def test_copy(shell: Shell) -> None:
    shell("run", "experiment.json")
    before = trials(shell)
    said = shell("copy", "sqlite:///windtunnel.db", "sqlite:///copy.db")
    assert "mock: 3 trials, 3 of them new; " in said
    assert trials(shell, "--storage", "sqlite:///copy.db") == before
    assert "mock: 3 trials, 0 of them new; 0 new points" in shell(
        "copy", "sqlite:///windtunnel.db", "sqlite:///copy.db", "mock"
    )
    assert "no database 'sqlite:///no.db'" in shell("copy", "sqlite:///no.db", "sqlite:///copy.db", code=2)
    assert "expected two databases" in shell("copy", "sqlite:///copy.db", "sqlite:///copy.db", code=2)


def test_import_mlos(shell: Shell, home: Path) -> None:
    lab = Lab(home / "mlos.sqlite")
    lab.config(1, size="64")
    lab.trial(1, 1, score="1.5")
    said = shell("import-mlos", "sqlite:///mlos.sqlite", "--prefix", "old-")
    assert said == "old-exp: 1 trial, 1 of them new; 0 new points of telemetry\nin sqlite:///windtunnel.db\n"
    shown = json.loads(shell("show", "old-exp", "--json"))
    assert shown["trials"][0]["config"] == {"size": 64}
    assert "expected the tables of an mlos_bench database" in shell(
        "import-mlos", "sqlite:///windtunnel.db", code=1
    )
