"""How wide a confidence interval is."""

from __future__ import annotations

import functools
import math
from statistics import NormalDist

__all__ = ["student_t"]

_EXACT = 30
"""Degrees of freedom up to which the distribution itself is inverted."""


def student_t(freedom: int, confidence: float = 0.95) -> float:
    """Student's t of a two-sided interval: half of the confidence lies on each side of the mean.

    Right to four decimals. Exact up to 30 degrees of freedom, above by the expansion in Abramowitz and
    Stegun, 26.7.5.

    :param freedom: degrees of freedom, 1 or more.
    :param confidence: above 0 and below 1.
    """
    return _inverted(freedom, confidence) if freedom <= _EXACT else _expanded(freedom, confidence)


@functools.lru_cache(maxsize=256)
def _inverted(freedom: int, confidence: float) -> float:
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        if _within(angle, freedom) < confidence:
            low = angle
        else:
            high = angle
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """How likely t = √freedom · tan(angle) is not exceeded either way; Abramowitz and Stegun, 26.7.3-4."""
    odd = freedom % 2
    cosine = math.cos(angle)
    term = (cosine if freedom > 1 else 0.0) if odd else 1.0
    total = term
    for i in range(2 if odd else 1, freedom - 1, 2):
        term *= i / (i + 1) * cosine * cosine
        total += term
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def _expanded(freedom: int, confidence: float) -> float:
    z = _normal(confidence)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


@functools.lru_cache(maxsize=16)
def _normal(confidence: float) -> float:
    return -NormalDist().inv_cdf((1 - confidence) / 2)
