"""Whether a host that failed is left alone for a while, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from windtunnel.scheduling.policy.retries import Retry, pause_before

__all__ = ["HEALTHY", "Health", "Quarantine", "judge_host"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantine:
    """A host that keeps failing gets no trials for a while, then one; if that fails, a longer while.

    :ivar after: failures in a row; a host that was lost need not fail again.
    :ivar pause: the first.
    :ivar factor: by which each pause is longer than the one before; 1 or more.
    :ivar longest: no pause is longer.
    """

    after: int = 3
    pause: timedelta = timedelta(seconds=10)
    factor: float = 2.0
    longest: timedelta = timedelta(minutes=10)


class Health(NamedTuple):
    """What is remembered of a host since it last did well.

    :ivar failures: in a row, since the last pause.
    :ivar pauses: in a row.
    """

    failures: int = 0
    pauses: int = 0


HEALTHY = Health()


def judge_host(
    rule: Quarantine, health: Health, *, ok: bool, lost: bool = False
) -> tuple[Health, timedelta | None]:
    """What to remember after a trial on a host that is not in quarantine, and the pause it gets, if any.

    One success and all is forgiven; a host that had a pause already and fails again gets the next at once.

    :param ok: whether the host did its part, however the trial ended.
    :param lost: whether it could not be reached any more.
    """
    if ok:
        return HEALTHY, None
    failures = health.failures + 1
    if not (lost or health.pauses or failures >= rule.after):
        return health._replace(failures=failures), None
    return Health(pauses=health.pauses + 1), _pause(rule, health.pauses)


def _pause(rule: Quarantine, pauses: int) -> timedelta | None:
    pause, factor, longest = rule.pause, rule.factor, rule.longest
    backoff = Retry(times=pauses + 1, pause=pause, factor=factor, longest=longest, jitter=0)
    return pause_before(backoff, pauses, draw=0)
