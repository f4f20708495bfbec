"""What a sweep has found, and what is expected of it. Imports nothing of ours that a sweep rewrites."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from windtunnel.testing.faults import Moment

__all__ = ["FAULTS", "SAMPLE", "Case", "Failure", "Fault", "Report", "check", "swept"]

Fault = Literal["cancel", "error", "kill", "freeze"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
SAMPLE = os.environ.get("WINDTUNNEL_SWEEP") or str(datetime.now(UTC).toordinal())
"""Which cases: a number for a sample, the day's unless it is said; ``all`` for each."""

_CORE = (
    "scheduling.",
    "telemetry.",
    "storage.writer:",
    "storage.database:",
    "storage.sqlite:",
    "storage.holding:",
)
"""Where nearly every point lies on the scenario's way."""
_SHARE = 0.75


class Case(NamedTuple):
    """One fault: at the ``number``-th time that ``point`` is reached."""

    point: str
    moment: Moment
    number: int
    fault: Fault


class Failure(NamedTuple):
    """A case in which something was wrong.

    :ivar logs: the end of what its processes said.
    """

    case: Case
    problems: list[str]
    logs: list[str]


class Report(NamedTuple):
    """What a sweep found.

    :ivar cases: how many there were.
    :ivar struck: in how many of them the fault happened: no two runs are the same.
    :ivar tried_again: how many seemed to fail for want of a processor only.
    :ivar lost: trials that were cancelled because others had them by then.
    :ivar refused: outcomes that the database refused because others had the trials by then.
    :ivar cpu_s: seconds of processor time, of all its processes.
    """

    fault: Fault
    cases: int
    struck: int
    failed: list[Failure]
    tried_again: int
    lost: int
    refused: int
    reached: list[str]
    not_reached: list[str]
    seconds: float
    cpu_s: float


def swept(fault: Fault) -> Report:
    """Strike with ``fault``; needs a process whose modules are rewritten, so one is started."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.acceptance.sweep", fault],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "WINDTUNNEL_SWEEP": SAMPLE},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    report = Report(*json.loads(done.stdout))
    failed = [Failure(Case(*case), wrong, logs) for case, wrong, logs in report.failed]
    return report._replace(failed=failed)


def check(report: Report) -> Report:
    """Nothing failed, the faults really happened, and the scenario goes nearly everywhere."""
    missed = [point for point in report.not_reached if point.startswith(_CORE)]
    reached = [point for point in report.reached if point.startswith(_CORE)]
    _say(_told(report), "not reached:", *missed)
    for one in report.failed:
        _say("=" * 80, str(one.case), *one.problems, *one.logs)
    assert [(one.case, one.problems) for one in report.failed] == [], f"WINDTUNNEL_SWEEP={SAMPLE} repeats it"
    assert report.struck >= 0.9 * report.cases > 0
    assert len(reached) >= _SHARE * (len(reached) + len(missed)), f"the scenario misses {missed}"
    return report


def _told(report: Report) -> str:
    return (
        f"{report.fault}, WINDTUNNEL_SWEEP={SAMPLE}: {report.cases} cases, {report.struck} struck, "
        f"{report.tried_again} tried again, {report.lost} trials lost, {report.refused} outcomes refused, "
        f"in {report.seconds:.0f} s and {report.cpu_s:.0f} s of processor time"
    )


def _say(*lines: str) -> None:
    """Where the test's own output goes."""
    sys.stdout.write("\n".join((*lines, "")))
