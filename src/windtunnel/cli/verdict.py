"""Whether a run went well enough: the exit code and the reason."""

from __future__ import annotations

from typing import NamedTuple

from windtunnel.model import Summary

__all__ = ["FAILED", "MISUSED", "OK", "Verdict", "verdict"]

OK, FAILED, MISUSED = 0, 1, 2
"""The exit codes: fine, the experiment failed, the command or the configuration is wrong."""

_TOLERATED = 0.2


class Verdict(NamedTuple):
    """:ivar problem: what is wrong, for people; empty if nothing is."""

    exit_code: int
    problem: str = ""
    interrupted: bool = False


def verdict(summary: Summary, *, target: int) -> Verdict:
    """Judge an experiment by its end.

    It failed if it was interrupted before it was complete, if no trial succeeded, or if more than a fifth of
    those that succeeded or failed did fail.

    :param target: how many trials were asked for.
    """
    finished = summary.succeeded + summary.failed
    if summary.interrupted and finished < target:
        left = f"{finished} of {target} trials have an outcome"
        return Verdict(FAILED, f"interrupted: {left}; run the same command to resume", interrupted=True)
    if summary.succeeded == 0:
        return Verdict(FAILED, "failed: no trial succeeded")
    if summary.failed > _TOLERATED * finished:
        return Verdict(FAILED, f"failed: {summary.failed} of {finished} trials failed, more than a fifth")
    return Verdict(OK)
