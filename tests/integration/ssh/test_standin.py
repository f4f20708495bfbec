"""Where OpenSSH is not installed, the same tests run on the stand-in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.ssh.servers import NEEDS_OPENSSH, NO_SSHD

HERE = Path(__file__).parent


@pytest.mark.timeout(90)
def test_without_openssh_the_stand_in_is_used_and_the_rest_is_skipped_loudly() -> None:
    chosen = "unchanged or binary or cancelled_after or no_place or refuses_channels"
    files = [str(HERE / "test_remote_exec.py"), str(HERE / "test_connecting.py")]
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-k", chosen, *files]
    env = {name: value for name, value in os.environ.items() if name != "WINDTUNNEL_CI"}
    done = subprocess.run(
        command, cwd=HERE.parents[2], env={**env, NO_SSHD: "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert NEEDS_OPENSSH in done.stdout
    assert re.search(r"[1-9]\d* passed, [1-9]\d* skipped", done.stdout), done.stdout


def test_ci_does_without_nothing() -> None:
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-k", "binary"]
    env = {**os.environ, NO_SSHD: "1", "WINDTUNNEL_CI": "1"}
    done = subprocess.run(
        [*command, str(HERE / "test_remote_exec.py")],
        cwd=HERE.parents[2],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "sshd is not installed; CI has to have it" in done.stdout
