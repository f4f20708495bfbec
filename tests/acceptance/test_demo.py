"""The real demo, as a newcomer runs it: SQLite is tuned, by scripts, in processes of their own."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

import windtunnel
from windtunnel import Status, open_storage
from windtunnel.config.load import load

WINDTUNNEL = [sys.executable, "-m", "windtunnel"]
EXAMPLE = Path(windtunnel.__file__).parent / "examples" / "sqlite_pragmas" / "experiment.yaml"

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty current directory, beside the one that takes the temporary files."""
    (tmp_path / "temp").mkdir()
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def windtunnel_at(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "TMPDIR": str(home.parent / "temp"), "NO_COLOR": "1", "COLUMNS": "160"}
    command = [*WINDTUNNEL, *arguments]
    return subprocess.run(
        command, cwd=home, env=environ, text=True, capture_output=True, timeout=50, check=False
    )


def demo(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = windtunnel_at(home, "demo", *arguments)
    assert done.returncode == 0, done.stderr + done.stdout
    return done


def databases(home: Path) -> str:
    return f"sqlite:///{home / 'windtunnel-demo.db'}"


def suggested(output: str, command: str) -> Sequence[str]:
    """The arguments of the suggested ``windtunnel <command> …``."""
    lines = (line.strip() for line in output.splitlines())
    return shlex.split(next(line for line in lines if line.startswith(f"windtunnel {command} ")))[1:]


async def telemetry_of(home: Path, experiment_id: str) -> Mapping[int, set[str]]:
    """trial → the metrics of its telemetry, for the succeeded trials."""
    async with open_storage(databases(home)) as storage:
        experiment = await storage.open_experiment(experiment_id)
        succeeded = [record async for record in experiment.trials() if record.status is Status.SUCCEEDED]
        return {
            record.trial_id: {metric for _, metric, _ in await experiment.load_telemetry(record.trial_id)}
            for record in succeeded
        }


def left_behind(home: Path) -> list[str]:
    """Files and processes that should be gone."""
    files = [path.name for path in home.iterdir() if not path.name.startswith("windtunnel-demo.db")]
    files += [path.name for path in (home.parent / "temp").iterdir()]
    commands = (" ".join(_command(process)) for process in psutil.process_iter())
    return files + [command for command in commands if "bench.py" in command and str(home) in command]


def _command(process: psutil.Process) -> Sequence[str]:
    try:
        command: list[str] = process.cmdline()
    except psutil.Error:
        return []
    return command


def test_demo_tunes_sqlite_and_says_how_much_it_helped(home: Path) -> None:
    done = demo(home, "--trials", "6")
    report = done.stdout
    assert "default" in report
    assert "best" in report
    assert "journal_mode" in report
    assert "ops_per_s" in report
    assert "Speed-up:" in report or "No configuration had a better ops_per_s" in report
    assert str(EXAMPLE) in report
    telemetry = anyio.run(telemetry_of, home, "sqlite-pragmas")
    assert telemetry == {trial_id: {"ops_per_s", "p99_ms"} for trial_id in range(1, 7)}
    assert left_behind(home) == []
    shown = windtunnel_at(home, *suggested(report, "show"))
    assert shown.returncode == 0, shown.stderr
    assert "sqlite-pragmas" in shown.stdout


def test_demo_runs_afresh_every_time(home: Path) -> None:
    first = json.loads(demo(home, "--trials", "1", "--json").stdout)
    second = json.loads(demo(home, "--trials", "1", "--json").stdout)
    assert [one["experiment_id"] for one in (first, second)] == ["sqlite-pragmas", "sqlite-pragmas-2"]
    assert [len(one["trials"]) for one in (first, second)] == [1, 1]
    assert first["trials"][0]["config"] == defaults()
    assert first["best"]["metrics"]["ops_per_s"] > 0
    assert left_behind(home) == []


def test_an_interrupted_demo_cleans_up_and_the_next_one_resumes_it(home: Path) -> None:
    environ = {**os.environ, "TMPDIR": str(home.parent / "temp")}
    command = [*WINDTUNNEL, "demo", "--trials", "4", "--concurrency", "1"]
    with subprocess.Popen(command, cwd=home, env=environ, text=True, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if "trial 1 succeeded" in line:
                running.send_signal(signal.SIGINT)
                break
        rest = running.stdout.read()
    assert running.returncode == 3, rest
    assert left_behind(home) == []
    resumed = json.loads(demo(home, "--trials", "4", "--json").stdout)
    assert resumed["experiment_id"] == "sqlite-pragmas"
    assert [trial["status"] for trial in resumed["trials"]] == ["SUCCEEDED"] * 4
    assert resumed["trials"][0]["attempt"] == 1


def defaults() -> dict[str, Any]:
    return dict(load(EXAMPLE).config.tunables.defaults())


@pytest.mark.parametrize("setting", ["off", "normal", "memory"])
def test_only_settings_that_keep_data_are_on_offer(setting: str) -> None:
    tunables = load(EXAMPLE).config.tunables
    offered = {value for name in ("journal_mode", "synchronous") for value in tunables.tunable(name).values}
    assert setting not in offered


def test_defaults_are_those_of_sqlite(home: Path) -> None:
    """What the report calls the default must be what SQLite does when it is told nothing."""
    pragmas = ("journal_mode", "synchronous", "wal_autocheckpoint", "page_size", "cache_size", "temp_store")
    with closing(sqlite3.connect(home / "default.db")) as db:
        found = {name: db.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas}
    offered = defaults()
    assert found == {
        "journal_mode": offered["journal_mode"],
        "synchronous": {"full": 2}[offered["synchronous"]],
        "wal_autocheckpoint": offered["wal_autocheckpoint"],
        "page_size": int(offered["page_size"]),
        "cache_size": -offered["cache_kib"],
        "temp_store": {"default": 0}[offered["temp_store"]],
    }
