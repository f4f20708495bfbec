"""When an experiment ends before it has all its trials."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from windtunnel.texts import many

__all__ = ["FailureBudget", "Tally", "exceeded", "time_left"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureBudget:
    """How many trials may fail; None means no limit.

    :ivar most: trials whose configuration failed.
    :ivar share: of the trials that ran, 0 to 1.
    :ivar least: trials that ran before ``share`` counts.
    :ivar setup: trials whose environment could not be set up, or whose host failed. They say nothing of their
        configurations and count here only.
    """

    most: int | None = None
    share: float | None = None
    least: int = 10
    setup: int | None = None


class Tally(NamedTuple):
    """What trials have come to.

    :ivar finished: trials that succeeded or failed, in whatever way.
    :ivar failed: those whose configuration failed: the run, its results, or by a timeout.
    :ivar setup_failed: those that failed in set-up or by their host.
    """

    finished: int
    failed: int
    setup_failed: int


def exceeded(budget: FailureBudget, tally: Tally) -> str | None:
    """Why the experiment must end; None while the budget lasts."""
    failed, broken = tally.failed, tally.setup_failed
    ran = tally.finished - broken
    if budget.setup is not None and broken > budget.setup:
        return (
            f"{many(broken, 'trial')} failed in set-up or by the host, more than the allowed {budget.setup}; "
            "mend the environment or the hosts, or allow more"
        )
    if budget.most is not None and failed > budget.most:
        return f"{many(failed, 'trial')} failed, more than the allowed {budget.most}; {_ADVICE}"
    if budget.share is not None and ran >= max(budget.least, 1) and failed / ran > budget.share:
        found = f"{failed} of {many(ran, 'trial')} failed"
        return f"{found}, more than the allowed share of {budget.share:g}; {_ADVICE}"
    return None


_ADVICE = "see what they printed, or allow more failures"


def time_left(budget: timedelta | None, elapsed_s: float) -> float:
    """Seconds until the time budget is used up: 0 if it is, infinite without one."""
    return math.inf if budget is None else max(0.0, budget.total_seconds() - elapsed_s)
