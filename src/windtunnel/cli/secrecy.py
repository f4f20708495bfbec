"""What this process must not print: known in one place to the log and to what is told of errors."""

from __future__ import annotations

from windtunnel.texts import Secrets

__all__ = ["hidden", "keep_secret"]

_kept: list[Secrets] = []


def keep_secret(secrets: Secrets) -> None:
    """From now on hide these, also those that are added to them later."""
    _kept[:] = [secrets]  # a process runs one description


def hidden(text: str) -> str:
    """``text`` as it may be printed."""
    for secrets in _kept:
        text = secrets.hide(text)
    return text
