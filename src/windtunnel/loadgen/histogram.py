"""Counts of latencies in buckets that widen with the value, so that percentiles merge exactly.

The layout is that of HdrHistogram with three significant digits and a unit of one nanosecond: below 2048
every value has a bucket of its own, above that each power of two is divided into 1024.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Self

__all__ = ["ERROR", "LONGEST_NS", "Histogram", "lowest_of", "width_of"]

ERROR = 1 / 2048
"""A percentile differs from the true one by at most this share of it."""

_HALF_BITS = 10
_LINEAR_BITS = _HALF_BITS + 1
LONGEST_NS = 2**43 - 1
"""Two hours and 26 minutes; what takes longer counts in the last bucket, only the maximum stays exact."""


def lowest_of(bucket: int) -> int:
    """The lowest value that counts in this bucket."""
    shift = max((bucket >> _HALF_BITS) - 1, 0)
    return (bucket - (shift << _HALF_BITS)) << shift


def width_of(bucket: int) -> int:
    """How many values count in it."""
    return 1 << max((bucket >> _HALF_BITS) - 1, 0)


class Histogram:
    """Durations in whole nanoseconds. Memory is bounded by the 33 792 buckets there are.

    Counts, sum, minimum and maximum of a merged histogram are those of one that had recorded everything.
    """

    __slots__ = ("_counts", "count", "largest", "smallest", "total")

    def __init__(self) -> None:
        self._counts: defaultdict[int, int] = defaultdict(int)
        self.count = 0
        self.total = 0
        self.smallest = LONGEST_NS
        self.largest = 0

    def record(self, values: Iterable[int]) -> None:
        """Count each value; a negative one counts as 0."""
        values = values if isinstance(values, list) else list(values)
        if not values:
            return
        low, high = min(values), max(values)
        if low < 0 or high > LONGEST_NS:
            self.largest = max(self.largest, high)
            values = [min(max(value, 0), LONGEST_NS) for value in values]
            low = max(low, 0)
        counts = self._counts
        for value in values:
            shift = (value >> _LINEAR_BITS).bit_length()
            counts[(shift << _HALF_BITS) + (value >> shift)] += 1
        self.count += len(values)
        self.total += sum(values)
        self.smallest = min(self.smallest, low)
        self.largest = max(self.largest, high)

    def add(self, value: int, count: int) -> None:
        """Count a value several times."""
        shift = (value >> _LINEAR_BITS).bit_length()
        self._counts[(shift << _HALF_BITS) + (value >> shift)] += count
        self.count += count
        self.total += value * count
        self.smallest = min(self.smallest, value)
        self.largest = max(self.largest, value)

    def merge(self, other: Histogram) -> None:
        """Add what another one has counted."""
        counts = self._counts
        for bucket, count in other._counts.items():
            counts[bucket] += count
        self.count += other.count
        self.total += other.total
        self.smallest = min(self.smallest, other.smallest)
        self.largest = max(self.largest, other.largest)

    def quantile(self, share: float) -> int:
        """The smallest value that at least this share of all does not exceed, in ns; 0 if there is none.

        :param share: from 0 to 1. Those of 0 and 1 are exact.
        """
        return self.quantiles([share])[0]

    def quantiles(self, shares: Iterable[float]) -> list[int]:
        """``quantile`` of each share, which must rise."""
        found: list[int] = []
        buckets = iter(sorted(self._counts))
        reached, value = 0, 0
        for share in shares:
            rank = min(max(math.ceil(share * self.count - 1e-9), 1), self.count)
            while reached < rank:
                bucket = next(buckets)
                reached += self._counts[bucket]
                value = lowest_of(bucket) + width_of(bucket) // 2
            found.append(self.largest if rank == self.count else max(min(value, self.largest), self._low))
        return found

    @property
    def _low(self) -> int:
        return self.smallest if self.count else 0

    @property
    def mean(self) -> float:
        """In ns; 0 if there is none."""
        return self.total / self.count if self.count else 0.0

    @property
    def counts(self) -> Mapping[int, int]:
        """Bucket → how many, for those that are not empty."""
        return self._counts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and self.as_data() == other.as_data()

    __hash__ = None  # type: ignore[assignment]  # it changes

    def as_data(self) -> list[Any]:
        """As plain values for JSON; see ``of``."""
        flat = [one for bucket in sorted(self._counts) for one in (bucket, self._counts[bucket])]
        return [self.count, self.total, self.smallest, self.largest, flat]

    @classmethod
    def of(cls, data: list[Any]) -> Self:
        """What ``as_data`` gave."""
        made = cls()
        made.count, made.total, made.smallest, made.largest, flat = data
        made._counts.update(zip(flat[::2], flat[1::2], strict=True))
        return made
