"""Whether a run went well enough: the exit code and the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from windtunnel.model import Summary

if TYPE_CHECKING:
    from windtunnel.loadgen.result import Result
    from windtunnel.loadgen.search import Found

__all__ = [
    "CUT",
    "FAILED",
    "INTERRUPTED",
    "MISUSED",
    "OK",
    "Verdict",
    "verdict",
    "verdict_of_load",
    "verdict_of_search",
]

OK, FAILED, MISUSED, INTERRUPTED, CUT = range(5)
"""The exit codes: fine, the experiment failed, the command or the configuration is wrong, interrupted and
stopped in order, interrupted and the teardowns cut short.

What a command names and is not there (a file, a folder, a database, an experiment, a trial) makes the command
wrong. What is there and cannot be used (a database that is locked or damaged, a server that does not answer)
counts as a failure.
"""

_TOLERATED = 0.2


class Verdict(NamedTuple):
    """:ivar problem: what is wrong, for people; empty if nothing is."""

    exit_code: int
    problem: str = ""
    interrupted: bool = False


def verdict(summary: Summary, *, target: int) -> Verdict:
    """Judge an experiment by its end.

    It failed if no trial succeeded, if more than a fifth of those that succeeded or failed did fail, or if a
    failure budget or the experiment's own time limit ended it. A time budget that is used up is no failure.

    :param target: how many trials were asked for.
    """
    finished = summary.succeeded + summary.failed
    ended = finished + summary.aborted
    if summary.interrupted and (summary.teardowns_cut or ended < target):
        return _interrupted(f"{ended} of {target} trials have an outcome", cut=summary.teardowns_cut)
    if summary.stopped_by in ("failures", "time_limit"):
        return Verdict(FAILED, f"failed: stopped early: {summary.stopped_because}")
    if summary.succeeded == 0:
        return Verdict(FAILED, "failed: no trial succeeded")
    if summary.failed > _TOLERATED * finished:
        return Verdict(FAILED, f"failed: {summary.failed} of {finished} trials failed, more than a fifth")
    return Verdict(OK)


def _interrupted(left: str, *, cut: bool) -> Verdict:
    if cut:
        told = f"interrupted: {left}; teardowns were cut short and may have left something behind"
        return Verdict(CUT, told, interrupted=True)
    return Verdict(INTERRUPTED, f"interrupted: {left}; run the same command to resume", interrupted=True)


def verdict_of_load(result: Result, *, interrupted: bool) -> Verdict:
    """Judge a load test.

    It failed if a threshold was missed, if a limit ended it, if its figures are not to be trusted, or if
    every request failed and no threshold says how many may.
    """
    if interrupted:
        return Verdict(INTERRUPTED, "interrupted: this is what there was until then", interrupted=True)
    problems = [f"{limit.text} was missed" for limit in result.missed]
    if result.ended_by:
        problems.append(f"it was ended by {result.ended_by}")
    if result.invalid_because:
        problems.append("the run is invalid")
    if result.error_rate >= 1 and not any(limit.counts_errors for limit in result.thresholds):
        problems.append("every request failed")
    return Verdict(FAILED, f"failed: {'; '.join(problems)}") if problems else Verdict(OK)


def verdict_of_search(found: Found, *, interrupted: bool) -> Verdict:
    """Judge a search for the highest rate. It failed if it has none, or could not go on."""
    if interrupted:
        return Verdict(INTERRUPTED, "interrupted: this is what there was until then", interrupted=True)
    if found.problem:
        return Verdict(FAILED, f"failed: {found.problem}")
    return Verdict(OK) if found.capacity.rate else Verdict(FAILED, "failed: no rate was low enough")
