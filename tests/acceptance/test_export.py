"""``windtunnel export`` and ``windtunnel merge``, as people call them."""

from __future__ import annotations

import asyncio
import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from windtunnel.cli.main import main
from windtunnel.storage import open_storage
from windtunnel.testing.storage_fixtures import LEASE, TARGETS, TUNABLES, ended, new, point

SCORES = [1.5, math.nan, "text"]


async def _stored(file: Path) -> None:
    async with open_storage(f"sqlite:///{file}") as storage:
        for name in ("e", "other"):
            async with storage.experiment(
                experiment_id=name, tunables=TUNABLES, opt_targets=TARGETS
            ) as experiment:
                await experiment.add_trials([new(i) for i in range(len(SCORES))])
                for trial, score in zip(
                    await experiment.claim("w", limit=9, lease=LEASE), SCORES, strict=True
                ):
                    await experiment.record(trial, [point(0, "load", 0.5), point(1, "state", "ü,\n")])
                    await experiment.finish(trial, ended(score, late=[1, True]))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    asyncio.run(_stored(tmp_path / "windtunnel.db"))
    return tmp_path


def windtunnel(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "windtunnel", *arguments]
    return subprocess.run(command, cwd=home, capture_output=True, encoding="utf-8", timeout=20)


def test_csv_has_a_column_for_each_value(home: Path) -> None:
    ran = windtunnel(home, "export", "e")
    assert (ran.returncode, ran.stderr) == (0, "")
    rows = list(csv.DictReader(ran.stdout.splitlines(keepends=True)))
    assert [row["trial_id"] for row in rows] == ["1", "2", "3"]
    assert [row["config.size"] for row in rows] == ["0", "1", "2"]
    assert [row["result.score"] for row in rows] == ["1.5", "nan", "text"]
    assert [row["result.late"] for row in rows] == ["[1, true]"] * 3
    assert (rows[0]["status"], rows[0]["ended"]) == ("SUCCEEDED", "2030-01-01T12:00:01.000000+00:00")


def test_jsonl_has_an_object_a_line(home: Path) -> None:
    ran = windtunnel(home, "export", "e", "--format", "jsonl", "--output", "trials.jsonl")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "wrote 3 trials to trials.jsonl\n")
    rows: list[Any] = [json.loads(line) for line in (home / "trials.jsonl").read_text().splitlines()]
    assert [row["result"]["score"] for row in rows] == [1.5, None, "text"]
    assert rows[1]["config"] == {"size": 1, "mode": "a"}


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_telemetry_as_text(home: Path, form: str) -> None:
    ran = windtunnel(home, "export", "e", "--telemetry", "--format", form)
    assert ran.returncode == 0
    lines = ran.stdout.splitlines(keepends=True)
    rows: list[Any] = list(csv.DictReader(lines)) if form == "csv" else [json.loads(line) for line in lines]
    assert [row["metric"] for row in rows] == ["load", "state"] * 3
    assert [str(row["value"]) for row in rows[:2]] == ["0.5", "ü,\n"]
    assert rows[0]["timestamp"] == "2030-01-01T12:00:00.000000+00:00"


@pytest.mark.parametrize("kind", [(), ("--telemetry",)])
def test_parquet(home: Path, kind: tuple[str, ...]) -> None:
    import polars

    ran = windtunnel(home, "export", "e", "--format", "parquet", "-o", "out.parquet", *kind)
    assert ran.returncode == 0, ran.stderr
    frame = polars.read_parquet(home / "out.parquet")
    assert frame.height == (6 if kind else 3)
    assert frame["text"].to_list()[1] == "ü,\n" if kind else frame["result.score"].to_list()[0] == "1.5"
    assert not (home / "out.parquet.part").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["export", "nobody"], 2, "error: there is no experiment 'nobody'; there are: e, other\n"),
        (["export", "e", "--format", "parquet"], 2, "name a file with --output FILE"),
        (["export", "e", "-o", "no/file"], 2, "expected a file in a folder that exists, found 'no/file'"),
        (["export", "e", "--format", "xml"], 2, "xml"),
        (["export", "e", "--storage", "sqlite:///none.db"], 2, "there is no database 'none.db'"),
        (["merge", "e", "nobody"], 2, "there is no experiment 'nobody'"),
        (["merge", "e", "e"], 1, "cannot be merged into itself"),
    ],
)
def test_what_cannot_be_done_is_said(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    for module in ("exporting", "merging"):  # it is the process's
        monkeypatch.setattr(f"windtunnel.cli.{module}.set_up_logging", lambda _console: None)
    monkeypatch.chdir(home)
    before = sorted(home.iterdir())
    assert main(arguments) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
    assert "Traceback" not in err
    assert sorted(home.iterdir()) == before


def test_merge_tells_what_is_learned(home: Path) -> None:
    for _ in range(2):
        ran = windtunnel(home, "merge", "e", "other")
        assert (ran.returncode, ran.stderr, ran.stdout) == (0, "", "e learns from:\n  other: 3 trials\n")
    assert windtunnel(home, "merge", "other", "e").returncode == 1
