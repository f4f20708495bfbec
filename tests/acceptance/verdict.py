"""What a sweep must have done, and found."""

from __future__ import annotations

import sys

from tests.acceptance.sweep import Report

__all__ = ["check"]

CORE = (
    "scheduling.",
    "telemetry.",
    "storage.writer:",
    "storage.database:",
    "storage.sqlite:",
    "storage.holding:",
)
"""Where nearly every point lies on the scenario's way."""
SHARE = 0.75


def check(report: Report) -> None:
    """Nothing failed, the faults really happened, and the scenario goes nearly everywhere."""
    missed = [point for point in report.not_reached if point.startswith(CORE)]
    reached = [point for point in report.reached if point.startswith(CORE)]
    told = f"{report.cases} cases, {report.struck} struck, {report.tried_again} tried again"
    _say(f"{told}, in {report.seconds:.0f} s; not reached:", *missed)
    for one in report.failed:
        _say("=" * 80, str(one["case"]), *one["problems"], *one["logs"])
    assert [(one["case"], one["problems"]) for one in report.failed] == []
    assert report.struck >= 0.9 * report.cases
    assert len(reached) >= SHARE * (len(reached) + len(missed)), f"the scenario misses {missed}"


def _say(*lines: str) -> None:
    """Where the test's own output goes."""
    sys.stdout.write("\n".join((*lines, "")))
