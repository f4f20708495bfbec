"""What killed processes leave in the system's place for temporary files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

MAKE = """
from windtunnel.scratch import make_scratch
made = make_scratch()
(made / "big").write_bytes(b"x")
print(made, flush=True)
input()
"""


def begun(folder: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that waits, and the directory it has made."""
    process = subprocess.Popen(
        [sys.executable, "-c", MAKE],
        env={**os.environ, "TMPDIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def end(process: subprocess.Popen[str], how: signal.Signals = signal.SIGKILL) -> None:
    with process:
        process.send_signal(how)


def test_the_next_process_removes_what_a_killed_one_left_and_nothing_else(tmp_path: Path) -> None:
    killed, left = begun(tmp_path)
    living, used = begun(tmp_path)
    end(killed)
    assert left.parent == used.parent == tmp_path
    assert (left / "big").exists()
    pid = left.name.split("-")[1]
    others = [
        tmp_path / "windtunnel-notes",
        tmp_path / left.name.replace(f"-{pid}-", "-x-"),
        tmp_path / left.name.replace("windtunnel-", "another-"),
        tmp_path / left.name.replace(left.name.split("-")[3], "0ther600t"),  # of another boot or machine
    ]
    for other in others:
        other.mkdir()
    link = tmp_path / (left.name + "x")
    link.symlink_to(others[0])
    try:
        next_one, made = begun(tmp_path)
        end(next_one)
        assert not left.exists()
        assert {used, made, link, *others} <= set(tmp_path.iterdir())
        assert (used / "big").exists()
    finally:
        end(living)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make what is another user's")
def test_what_another_user_left_is_theirs(tmp_path: Path) -> None:
    killed, left = begun(tmp_path)
    end(killed)
    os.chown(left, 12345, 12345)
    next_one, _ = begun(tmp_path)
    end(next_one)
    assert left.exists()
