from __future__ import annotations

import math
import random
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.loadgen.hdrlog import Interval, decoded, encoded, log_lines
from windtunnel.loadgen.histogram import ERROR, LONGEST_NS, Histogram, lowest_of, width_of

latencies = st.lists(st.integers(0, LONGEST_NS), min_size=1, max_size=60)
shares = st.floats(0, 1)


def of(values: list[int]) -> Histogram:
    made = Histogram()
    made.record(values)
    return made


@given(latencies, shares)
def test_quantile_is_within_the_stated_error(values: list[int], share: float) -> None:
    exact = sorted(values)[max(math.ceil(share * len(values) - 1e-9), 1) - 1]
    assert abs(of(values).quantile(share) - exact) <= exact * ERROR


def test_stated_error_is_at_most_a_thousandth() -> None:
    assert ERROR <= 0.001


@given(latencies)
def test_extremes_count_and_mean_are_exact(values: list[int]) -> None:
    found = of(values)
    assert (found.count, found.smallest, found.largest) == (len(values), min(values), max(values))
    assert found.quantile(1) == max(values)
    assert found.mean == pytest.approx(sum(values) / len(values))


@given(latencies, latencies, latencies)
def test_merging_is_exact_whatever_the_order(one: list[int], two: list[int], three: list[int]) -> None:
    merged = of(three)
    for part in (one, two):
        merged.merge(of(part))
    assert merged == of(one + two + three)


@given(st.integers(0, LONGEST_NS))
def test_value_lies_in_its_bucket(value: int) -> None:
    (bucket,) = of([value]).counts
    assert lowest_of(bucket) <= value < lowest_of(bucket) + width_of(bucket)


def test_what_is_out_of_range_counts_at_its_end() -> None:
    found = of([-5, LONGEST_NS * 3])
    assert (found.smallest, found.largest) == (0, LONGEST_NS * 3)
    assert len(found.counts) == 2


def test_empty_histogram_has_zeros() -> None:
    assert Histogram().quantiles([0.5, 0.99, 1]) == [0, 0, 0]
    assert Histogram().mean == 0


def test_quantiles_of_ten_thousand_match_the_sorted_values() -> None:
    chance = random.Random(3)
    values = [int(chance.lognormvariate(14, 1)) for _ in range(10_000)]
    found = of(values).quantiles([0.5, 0.9, 0.99, 0.999, 0.9999])
    ranks = (5000, 9000, 9900, 9990, 9999)
    exact = [sorted(values)[rank - 1] for rank in ranks]
    assert all(abs(one - other) <= other * ERROR for one, other in zip(found, exact, strict=True))


@given(latencies)
def test_travels_as_data(values: list[int]) -> None:
    assert Histogram.of(of(values).as_data()) == of(values)


@settings(max_examples=50)
@given(latencies)
def test_travels_as_a_log_with_every_count(values: list[int]) -> None:
    assert decoded(encoded(of(values))).counts == of(values).counts


def test_log_is_written_as_its_format_says() -> None:
    start = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    text = encoded(of([1_500_000]))
    lines = list(log_lines([Interval(0.0, 1.0, 1_500_000, text)], start=start))
    assert lines[0] == "#[Histogram log format version 1.3]"
    assert lines[1] == "#[StartTime: 1767323045.000 (seconds since epoch), Fri Jan 02 03:04:05 UTC 2026]"
    assert lines[3].startswith("0.000,1.000,1.500,HISTFAAA")  # the cookie of a compressed histogram
    with pytest.raises(ValueError, match="version 2"):
        decoded("AAAAAAAAAAA=")
