"""kill -9 in mid-run: nothing finished is lost or done again, nobody is left behind, and it goes on."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

CONFIG = """
experiment: crash
objectives: {x: min}
trials: 12
concurrency: 3
optimizer: {name: random, seed: 5}
tunables: {g: {params: {x: {type: int, range: [0, 1000], default: 7}}}}
environment:
  class: LocalEnv
  config:
    shell_env_params: [x]
    setup: ['sleep 600 & echo "$trial_id" >> "$config_dir/setups"']
    run:
      - echo "telemetry=1"
      - '[ "$trial_id" -le "$(cat "$config_dir/gate")" ] || sleep 600'
      - echo "$trial_id" >> "$config_dir/finishes"
      - 'echo "x: $x"'
    teardown: ['echo "$trial_id" >> "$config_dir/teardowns"']
    telemetry_stdout_pattern: '^(?P<metric>telemetry)=(?P<value>\\d+)$'
    results_stdout_pattern: '^(?P<metric>\\w+): (?P<value>\\S+)$'
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "experiment.yaml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "gate").write_text("5", encoding="utf-8")
    return tmp_path


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "windtunnel", "run", "experiment.yaml"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def rows(folder: Path, sql: str) -> list[tuple[object, ...]]:
    if not (folder / "windtunnel.db").exists():
        return []
    connection = sqlite3.connect(folder / "windtunnel.db", timeout=5)
    try:
        return connection.execute(sql).fetchall()
    except sqlite3.OperationalError:  # its tables are being made
        return []
    finally:
        connection.close()


def wait_until(condition: Callable[[], bool], what: str, limit_s: float = 15) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def finished(folder: Path) -> int:
    return len(rows(folder, "SELECT trial_id FROM trial WHERE status = 4"))


def running(folder: Path) -> int:
    return len(rows(folder, "SELECT trial_id FROM trial WHERE status = 3"))


def telemetry(folder: Path) -> int:
    return len(rows(folder, "SELECT trial_id FROM telemetry"))


def scripts_alive(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("config_dir") == str(folder):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return [p for p in found if p.status() != psutil.STATUS_ZOMBIE]


def lines(file: Path) -> Counter[int]:
    return Counter(int(line) for line in file.read_text().split())


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nobody_behind_and_is_resumed_exactly(
    folder: Path, number: signal.Signals
) -> None:
    first = start(folder)
    wait_until(lambda: finished(folder) == 5 and running(folder) == 3, "5 finished and 3 running")
    wait_until(lambda: telemetry(folder) == 8, "the telemetry of all that were started")
    assert len(scripts_alive(folder)) >= 3
    os.kill(first.pid, number)
    said, _ = first.communicate(timeout=20)
    assert "Traceback" not in said
    wait_until(lambda: not scripts_alive(folder), "the scripts to be gone")
    if number != signal.SIGKILL:
        assert first.returncode == 3
        assert rows(folder, "SELECT count(*) FROM trial WHERE status = 3") == [(0,)]
        assert rows(folder, "SELECT count(*) FROM trial WHERE status = 5") == [(3,)]
        assert sum(lines(folder / "teardowns").values()) == 8, (
            "those that were interrupted were torn down too"
        )

    (folder / "gate").write_text("99", encoding="utf-8")
    second = start(folder)
    said, _ = second.communicate(timeout=40)
    assert second.returncode == 0, said
    assert rows(folder, "SELECT status, count(*) FROM trial GROUP BY status") == [(4, 12)]
    assert lines(folder / "finishes") == dict.fromkeys(range(1, 13), 1), "each finished exactly once"
    again = {trial for trial, times in lines(folder / "setups").items() if times == 2}
    assert len(again) == 3, "only what was interrupted was begun again"
    attempts = rows(folder, "SELECT trial_id, attempt FROM trial WHERE attempt > 1")
    assert {trial for trial, _ in attempts} == again
    points = rows(folder, "SELECT trial_id FROM telemetry WHERE attempt = 1")
    assert again <= {trial for (trial,) in points}, "the first attempt's telemetry is still there"
    assert not scripts_alive(folder)
