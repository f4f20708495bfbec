"""``windtunnel watch``: what it shows of a real experiment elsewhere, and that its reads are bounded."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event

from tests.inprocess import Call, make_call
from windtunnel import open_storage
from windtunnel.cli.watching import Watcher, sparkline
from windtunnel.config.stored import target_of
from windtunnel.storage import watching

PROGRAM = [sys.executable, "-m", "windtunnel"]
EXPERIMENT: dict[str, Any] = {
    "experiment": "watched",
    "objectives": {"score": "min"},
    "trials": 12,
    "concurrency": 3,
    "optimizer": {"name": "random", "seed": 1},
    "tunables": {"g": {"params": {"x": {"type": "int", "range": [0, 100], "default": 50}}}},
    "environment": {"class": "MockEnv", "config": {"telemetry": 2}},
}


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    (tmp_path / "e.json").write_text(json.dumps(EXPERIMENT))
    return make_call(tmp_path, capsys, monkeypatch)


@contextmanager
def running(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """An experiment whose running trials have told something, and do not end."""
    config = {"telemetry": 2, "hang": True}
    (folder / "h.json").write_text(
        json.dumps(
            {**EXPERIMENT, "experiment": "hangs", "environment": {"class": "MockEnv", "config": config}}
        )
    )
    process = subprocess.Popen([*PROGRAM, "run", "h.json"], cwd=folder, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # it says that it begins: the database is there
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=15)


def test_a_finished_experiment_is_shown_once_and_left(call: Call) -> None:
    assert call("run", "e.json").code == 0
    done = call("watch", "watched")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("12/12 trials")
    shown = call("watch", "watched", "--once").out
    assert "12 trials: 12 succeeded" in shown
    assert "best so far" in shown
    assert "localhost  12 succeeded  0 failed" in shown
    assert "\x1b" not in shown
    data = call("watch", "watched", "--once", "--json").data
    assert data["trials"] == {
        "done": 12,
        "target": 12,
        "total": 12,
        "pending": 0,
        "running": 0,
        "succeeded": 12,
        "failed": 0,
        "canceled": 0,
        "timed_out": 0,
        "aborted": 0,
    }
    assert data["is_over"]
    values = [one["value"] for one in data["best_so_far"]]
    assert values == sorted(values, reverse=True), "the best so far only gets better"
    assert values[-1] == data["best"]["metrics"]["score"]


@pytest.mark.timeout(40)
def test_what_runs_elsewhere_is_seen_with_its_telemetry(call: Call, tmp_path: Path) -> None:
    with running(tmp_path):
        data: dict[str, Any] = {}
        command = [*PROGRAM, "watch", "hangs", "--json", "--every", "0.2"]
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as watcher:
            assert watcher.stdout is not None
            for line in watcher.stdout:
                data = json.loads(line)
                if len(data["running"]) == 3 and all(one["telemetry"] for one in data["running"]):
                    break
            watcher.send_signal(signal.SIGINT)
            assert watcher.wait(timeout=10) == 0, "leaving it is no failure"
        assert data["trials"]["running"] == 3
        assert [one["running"] for one in data["workers"]] == [3]
        assert list(data["running"][0]["telemetry"]) == ["score"]
        assert not data["is_over"]
        assert "running" in call("watch", "hangs", "--once").out


def test_on_a_terminal_it_is_drawn_in_place(call: Call, tmp_path: Path) -> None:
    assert call("run", "e.json").code == 0
    leader, follower = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    process = subprocess.Popen(
        [*PROGRAM, "watch", "watched"], cwd=tmp_path, stdout=follower, stderr=follower, env=environ
    )
    os.close(follower)
    shown = b""
    while select.select([leader], [], [], 15)[0]:
        try:
            shown += os.read(leader, 4096)
        except OSError:
            break
    os.close(leader)
    assert process.wait(timeout=10) == 0
    assert b"12/12 trials" in shown
    assert b"\x1b[" in shown


def test_an_experiment_that_is_not_there_is_told(call: Call) -> None:
    assert "there is no database" in call("watch", "nonsuch").err
    call("run", "e.json", "--trials", "1")
    done = call("watch", "nonsuch")
    assert done.code == 2
    assert "'nonsuch'" in done.err


async def test_the_rate_is_that_of_the_looks(tmp_path: Path) -> None:
    import windtunnel

    url = f"sqlite:///{tmp_path}/e.db"
    now = 100.0
    async with open_storage(url) as storage:
        for trials in (4, 10):
            await windtunnel.run({**EXPERIMENT, "storage": url}, trials=trials)
            experiment = await storage.open_experiment("watched")
            assert target_of(await experiment.stored_description()) == trials
            if trials == 4:
                watcher = Watcher(experiment, 20, clock=lambda: now)
                await watcher.look()
        now = 103.0
        look = await watcher.look()
    snapshot = look.snapshot
    assert (snapshot.done, snapshot.total) == (10, 20)
    assert snapshot.per_second is None, "nothing waits or runs"
    assert not look.is_over


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ([], ""),
        (["text"], ""),
        ([1, 1, 1], "▄▄▄"),
        ([0, 7], "▁█"),
        ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
        ([float("nan"), 1.0, float("inf"), 2.0], "▁█"),
    ],
)
def test_a_sparkline(values: list[Any], drawn: str) -> None:
    assert sparkline(values) == drawn


def test_every_read_of_a_look_uses_an_index(call: Call, tmp_path: Path) -> None:
    """No statement may go through all trials or all telemetry; each is explained by SQLite itself."""
    assert call("run", "e.json").code == 0
    engine = create_engine(f"sqlite:///{tmp_path / 'windtunnel.db'}")
    statements: list[tuple[str, Any]] = []
    with engine.connect() as connection:
        event.listen(engine, "before_cursor_execute", lambda *args: statements.append((args[2], args[3])))
        watching.observe(connection, 1)
        watching.best_so_far(connection, 1, "min")
        watching._newest_points(connection, 1, 12, 1)
        found = list(statements)
        plans = {
            text: [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", given)]
            for text, given in found
        }
    engine.dispose()
    assert len(plans) >= 6
    for text, plan in plans.items():
        scans = [step for step in plan if step.startswith("SCAN") and "session" not in step]
        assert scans == [], (text, plan)
        if "FROM telemetry" in text:
            assert any("PRIMARY KEY" in step or "sqlite_autoindex" in step for step in plan), plan
            assert not any("TEMP B-TREE" in step for step in plan), plan
