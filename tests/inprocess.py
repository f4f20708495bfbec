"""The command line without a process of its own, which would take half a second to start."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from windtunnel.cli import main as command_line

__all__ = ["Call", "Done", "make_call"]


class Done(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


Call = Callable[..., Done]


def make_call(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Calls commands in ``folder``."""
    monkeypatch.chdir(folder)
    # Threads that the tests before left behind must not make it end the process.
    monkeypatch.setattr(command_line, "_left", int)

    def call(*arguments: str | Path) -> Done:
        capsys.readouterr()
        code = command_line.main([str(one) for one in arguments])
        return Done(code, *capsys.readouterr())

    return call
