"""Whether a trial that failed is tried again, and when."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

__all__ = ["Retry", "pause_before"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Exponential back-off with jitter, for failures of one kind.

    :ivar times: further attempts.
    :ivar pause: before the first of them.
    :ivar factor: by which each pause is longer than the one before; 1 or more.
    :ivar longest: no pause is longer.
    :ivar jitter: share of a pause that is left to chance, 0 to 1: what failed together does not come back
        together.
    """

    times: int = 0
    pause: timedelta = timedelta(seconds=1)
    factor: float = 2.0
    longest: timedelta = timedelta(seconds=60)
    jitter: float = 0.5


def pause_before(retry: Retry, used: int, draw: float) -> timedelta | None:
    """The pause before the next attempt; None if none is left.

    :param used: retries so far.
    :param draw: from 0 up to 1, drawn anew each time.
    """
    if used >= retry.times:
        return None
    seconds = min(_grown(retry, used), retry.longest.total_seconds())
    return timedelta(seconds=seconds * (1 - retry.jitter * (1 - draw)))


def _grown(retry: Retry, used: int) -> float:
    first = retry.pause.total_seconds()
    try:
        return first * retry.factor**used
    except OverflowError:
        return math.inf if first else 0.0
