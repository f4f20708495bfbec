"""The running averages of trials that ended, in a bounded digest."""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections import deque
from typing import NamedTuple

from windtunnel.pruners.base import MOST_ENDED

__all__ = ["MOST_POINTS", "Averages", "Curve"]

MOST_POINTS = 256
"""How many points of a curve are kept."""


class Curve(NamedTuple):
    """The running averages of one trial.

    :ivar points: number k is the average of what came by progress ``k * step``; NaN if nothing had come.
    :ivar final: the average of everything; it holds from the last point on.
    """

    points: array[float]
    final: float

    def at(self, k: int) -> float:
        """The average at point k."""
        return self.points[k] if k < len(self.points) else self.final


class Averages:
    """The newest ``MOST_ENDED`` curves, sorted point by point, so that a median is a look-up.

    It holds every number twice, at 8 bytes: 4 MiB at most.

    :ivar step: the progress between two points; ``coarsen`` doubles it.
    """

    def __init__(self, step: float) -> None:
        self.step = step
        self._curves: deque[Curve] = deque()
        self._sorted: list[array[float]] = []
        self._finals: array[float] = array("d")

    def add(self, curve: Curve) -> None:
        """Remember one more; the oldest is forgotten if there are too many."""
        if curve.final != curve.final:  # NaN: nothing that could be compared
            return
        if len(self._curves) == MOST_ENDED:
            self._forget(self._curves.popleft())
        while len(self._sorted) < len(curve.points):  # none of the others is that long
            self._sorted.append(self._finals[:])
        for k, averages in enumerate(self._sorted):
            average = curve.at(k)
            if average == average:
                insort(averages, average)
        insort(self._finals, curve.final)
        self._curves.append(curve)

    def at(self, k: int) -> array[float]:
        """The averages of all curves at point k, sorted; those that have one."""
        return self._sorted[k] if k < len(self._sorted) else self._finals

    def coarsen(self) -> None:
        """Give up every second point of all curves."""
        self.step *= 2
        del self._sorted[1::2]
        for curve in self._curves:
            del curve.points[1::2]

    def _forget(self, curve: Curve) -> None:
        for k, averages in enumerate(self._sorted):
            average = curve.at(k)
            if average == average:
                del averages[bisect_left(averages, average)]
        del self._finals[bisect_left(self._finals, curve.final)]
