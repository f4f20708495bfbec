"""Where OpenSSH is not installed, the same tests run on the stand-in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.ssh.servers import NEEDS_OPENSSH, NO_SSHD, missing

HERE = Path(__file__).parent


@pytest.mark.timeout(90)
def test_without_openssh_the_stand_in_is_used_and_the_rest_is_skipped_loudly() -> None:
    chosen = "unchanged or binary or cancelled_after or no_shell"
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-k", chosen]
    command.append(str(HERE / "test_remote_exec.py"))
    env = {name: value for name, value in os.environ.items() if name != "WINDTUNNEL_CI"}
    done = subprocess.run(
        command, cwd=HERE.parents[2], env={**env, NO_SSHD: "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert NEEDS_OPENSSH in done.stdout
    assert re.search(r"[1-9]\d* passed, [1-9]\d* skipped", done.stdout), done.stdout


def test_ci_does_without_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINDTUNNEL_CI", "1")
    with pytest.raises(pytest.fail.Exception, match="no sshd; CI has to have it"):
        missing("no sshd")
    monkeypatch.delenv("WINDTUNNEL_CI")
    with pytest.raises(pytest.skip.Exception, match="no sshd"):
        missing("no sshd")
