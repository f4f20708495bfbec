"""The highest rate that a system still serves well, found by steps whose outcomes may be wrong.

Pure: what to try next is a function of what was tried, so that a search goes on where it stopped.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["Capacity", "Step", "capacity", "knee", "next_rate"]

_WRONG = 0.1
"""How likely a step is taken to mislead."""
_REACH = 4.0
"""How far beyond the rates that were tried the capacity may lie, as a factor."""
_GROWTH = 2.0
_SURE = 0.9


class Step(NamedTuple):
    """A rate that was tried.

    :ivar kept: whether what is to be kept was.
    """

    rate: float
    kept: bool


class Capacity(NamedTuple):
    """What the steps of a search say.

    :ivar rate: the estimate; 0 if no rate was good enough.
    :ivar low: with ``high`` an interval that holds it with a probability of 90 %.
    :ivar high: infinite if every rate was good enough.
    """

    rate: float
    low: float
    high: float


def capacity(steps: Sequence[Step]) -> Capacity:
    """The estimate from all steps; every one has its say, none is final."""
    if not any(step.kept for step in steps):
        return Capacity(0.0, 0.0, min((step.rate for step in steps), default=math.inf))
    low, rate, high = (_quantile(steps, share) for share in ((1 - _SURE) / 2, 0.5, (1 + _SURE) / 2))
    if all(step.kept for step in steps):
        highest = max(step.rate for step in steps)
        return Capacity(highest, highest, math.inf)
    return Capacity(rate, low, high)


def next_rate(
    steps: Sequence[Step], *, start: float, precision: float = 0.05, most: int = 15
) -> float | None:
    """What to try next; None when the search is over.

    The median of what is believed of the capacity: bisection with noisy responses (Waeber, Frazier and
    Henderson, 2013). It never goes beyond double the highest rate that was tried.

    :param precision: it ends when the interval is this share of the rate to either side.
    :param most: how many steps there may be.
    """
    if not steps:
        return start
    found = capacity(steps)
    is_precise = found.rate > 0 and found.high / found.low <= (1 + precision) ** 2
    if is_precise or len(steps) >= most:
        return None
    tried = [step.rate for step in steps]
    return min(max(_quantile(steps, 0.5), min(tried) / _GROWTH), max(tried) * _GROWTH)


def _quantile(steps: Sequence[Step], share: float) -> float:
    """Of the posterior of the capacity, which is even in the logarithm between neighbouring rates."""
    rates = sorted({step.rate for step in steps})
    edges = [rates[0] / _REACH, *rates, rates[-1] * _REACH]
    masses = [
        math.log(high / low) * _likelihood(steps, math.sqrt(low * high))
        for low, high in itertools.pairwise(edges)
    ]
    wanted = share * sum(masses)
    for (low, high), mass in zip(itertools.pairwise(edges), masses, strict=True):
        if wanted <= mass:
            return low * math.pow(high / low, wanted / mass)
        wanted -= mass
    return edges[-1]


def _likelihood(steps: Sequence[Step], true: float) -> float:
    wrong = sum(step.kept != (step.rate <= true) for step in steps)
    return math.pow(_WRONG, wrong) * math.pow(1 - _WRONG, len(steps) - wrong)


def knee(latencies: Mapping[float, float]) -> float | None:
    """The rate at which the curve of latency over rate bends upwards most; None without three rates.

    By the greatest distance from the chord of the curve, both axes scaled to 1, the latency as its logarithm
    (Satopää et al., Finding a "Kneedle" in a Haystack, 2011).
    """
    points = sorted((rate, math.log(value)) for rate, value in latencies.items() if value > 0)
    if len(points) < 3:
        return None
    (first_x, first_y), (last_x, last_y) = points[0], points[-1]
    if last_x <= first_x or last_y <= first_y:
        return None

    def below(point: tuple[float, float]) -> float:
        return (point[0] - first_x) / (last_x - first_x) - (point[1] - first_y) / (last_y - first_y)

    best = max(points, key=below)
    return best[0] if below(best) > 0 else None
