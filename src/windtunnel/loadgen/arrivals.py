"""When requests are to start: nanoseconds from the beginning of a run, rising, known before anything is sent.

Everything here is a pure function of its arguments, so that several generators can walk the same schedule and
each take its share.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

__all__ = ["Piece", "due_times", "share_of"]

_SECOND = 1e9


class Piece(NamedTuple):
    """A part of a profile, in which the rate changes evenly.

    :ivar begin: requests a second at its beginning.
    :ivar end: and at its end.
    :ivar seconds: how long it lasts.
    """

    begin: float
    end: float
    seconds: float

    @property
    def size(self) -> float:
        """How many requests it has, or is expected to have."""
        return (self.begin + self.end) / 2 * self.seconds

    def when(self, number: float) -> float:
        """Seconds into the piece until this many requests were due."""
        if self.begin == self.end:
            return number / self.begin
        slope = (self.end - self.begin) / self.seconds
        root = math.sqrt(max(self.begin**2 + 2 * slope * number, 0.0))
        return 2 * number / (self.begin + root) if number else 0.0


def due_times(profile: Sequence[Piece], *, seed: int | None = None) -> Iterator[int]:
    """The intended start of each request of a profile.

    Evenly spaced, the k-th when the integral of the rate reaches k; or at random, as an inhomogeneous Poisson
    process by time rescaling (Cinlar, Introduction to Stochastic Processes, 1975).

    :param seed: of the Poisson process; None for even spacing.
    """
    numbers: Iterator[float] = map(float, itertools.count()) if seed is None else _poisson(seed)
    number = next(numbers)
    passed_s, passed = 0.0, 0.0
    for piece in profile:
        size = piece.size
        # The product of a rate and a duration is rarely a whole number as a float, though meant to be one.
        until = passed + size - 1e-9 * max(size, 1.0)
        while number < until:
            yield round((passed_s + piece.when(number - passed)) * _SECOND)
            number = next(numbers)
        passed_s += piece.seconds
        passed += size


def _poisson(seed: int) -> Iterator[float]:
    draw = random.Random(seed).expovariate  # noqa: S311 - nothing secret
    return itertools.accumulate(iter(lambda: draw(1.0), None))


def share_of(times: Iterable[int], part: int, parts: int) -> Iterator[int]:
    """Every ``parts``-th time, from number ``part`` on: what one of several generators has to send."""
    return itertools.islice(times, part, None, parts)
