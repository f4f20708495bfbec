"""What commands that change something tell programs, and what the shell completes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.inprocess import Call, make_call
from tests.integration.test_import_mlos import Lab
from windtunnel.cli.main import make_app

EXPERIMENT: dict[str, Any] = {
    "experiment": "mine",
    "objectives": {"score": "min"},
    "trials": 2,
    "optimizer": {"name": "random", "seed": 1},
    "tunables": {"g": {"params": {"x": {"type": "int", "range": [0, 100], "default": 50}}}},
    "environment": {"class": "MockEnv"},
}


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    for name in ("mine", "other"):
        (tmp_path / f"{name}.json").write_text(json.dumps({**EXPERIMENT, "experiment": name}))
    return make_call(tmp_path, capsys, monkeypatch)


def test_every_change_is_told_as_json(call: Call, tmp_path: Path) -> None:
    assert call("run", "mine.json").code == call("run", "other.json").code == 0
    queued = call("enqueue", "mine", "x=7", "--json").data
    assert (queued["trial_id"], queued["config"], queued["not_before"]) == (3, {"x": 7}, None)
    done = call("cancel", "mine", "3", "1", "99", "--json")
    assert done.code == 1
    assert done.data["canceled"] == [3]
    assert sorted(done.data["refused"]) == ["1", "99"]
    merged = call("merge", "mine", "other", "--json").data
    assert [(one["experiment_id"], one["trials"]) for one in merged["learns_from"]] == [("other", 2)]
    copied = call("copy", "sqlite:///windtunnel.db", "sqlite:///copy.db", "other", "--json").data
    assert [(one["experiment_id"], one["new"]) for one in copied] == [("other", 2)]
    assert call("rename", "other", "another", "--json").data == {"old": "other", "new": "another"}
    assert call("delete", "another", "--yes", "--force", "--json").data == {
        "experiment_id": "another",
        "deleted": True,
    }
    Lab(tmp_path / "lab.db").config(1, x="1")
    imported = call("import-mlos", "sqlite:///lab.db", "--prefix", "old-", "--json").data
    assert [one["experiment_id"] for one in imported] == ["old-exp"]
    assert call("db", "upgrade", "--json").data["storage"] == "sqlite:///windtunnel.db"


def test_the_shell_completes_commands_and_ids(call: Call, tmp_path: Path) -> None:
    def completed(line: str, **more: str) -> list[str]:
        words = line.split(" ")
        environ = {
            "_WINDTUNNEL_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        }
        done = subprocess.run(
            [Path(sys.executable).with_name("windtunnel")],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", **environ},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        return done.stdout.split()

    assert call("run", "mine.json").code == 0
    assert completed("windtunnel show-") == ["show-config"]
    assert completed("windtunnel resume m") == ["mine"]
    assert completed("windtunnel show --storage sqlite:///gone.db m") == []


def test_whatever_prints_data_can_print_json() -> None:
    """Those without have formats of their own: export several, schema JSON, convert YAML."""
    root: Any = typer.main.get_command(make_app())
    without = {
        name
        for name, command in root.commands.items()
        if not hasattr(command, "commands")
        and not any("--json" in getattr(one, "opts", ()) for one in command.params)
    }
    assert without <= {"convert", "export", "schema"}
