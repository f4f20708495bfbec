"""Values on their way into columns and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from windtunnel.errors import ResultsInvalid
from windtunnel.storage import values

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
NUMBERS = st.integers() | st.floats(allow_nan=False)
KEYS = TEXT | st.sampled_from(["$float", "$$float", "$"])
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
ZONES = st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone)
MOMENTS = st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=ZONES)  # noqa: DTZ001 - bounds


class Whole:
    """A whole number that is no int, as numpy's are."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


@given(NUMBERS | TEXT)
@example(2**53)
@example(2**53 + 1)
@example(-(2**53) - 1)
@example("nan")
@example("-12")
@example(-0.0)
def test_telemetry_comes_back_as_it_was(value: float | str) -> None:
    stored = values.unpack(*values.pack(value))
    assert stored == value
    assert isinstance(stored, str) == isinstance(value, str)


@given(NUMBERS)
def test_a_number_is_kept_as_a_finite_double_or_as_its_literal(value: float) -> None:
    number, text = values.pack(value)
    assert number is not None
    assert math.isfinite(number)
    exact = -(2**53) <= value <= 2**53 if isinstance(value, int) else math.isfinite(value)
    assert (text is None) == exact


def test_nan_comes_back_as_nan() -> None:
    stored = values.unpack(*values.pack(math.nan))
    assert isinstance(stored, float)
    assert math.isnan(stored)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (True, 1.0),
        (Decimal("0.5"), 0.5),
        (Fraction(1, 4), 0.25),
        (Whole(7), 7.0),
        (Whole(2**60 + 1), 2**60 + 1),
    ],
)
def test_other_numbers_are_kept_as_numbers(value: object, stored: float) -> None:
    assert values.unpack(*values.pack(value)) == stored


@pytest.mark.parametrize(
    "value", [None, [], {}, b"1", object(), 1j, Fraction(10**400), Whole(10**5000), "\ud800"]
)
def test_what_is_neither_number_nor_text_is_refused(value: object) -> None:
    with pytest.raises(ResultsInvalid, match="telemetry must be"):
        values.pack(value)


@given(MOMENTS)
def test_a_time_comes_back_in_utc(moment: datetime) -> None:
    stored = values.from_us(values.to_us(moment))
    assert stored == moment
    assert stored.tzinfo is UTC


@given(MOMENTS, MOMENTS)
def test_microseconds_order_as_times_do(one: datetime, other: datetime) -> None:
    assert (values.to_us(one) < values.to_us(other)) == (one < other)


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(ValueError, match="add tzinfo=UTC"):
        values.to_us(datetime(2030, 1, 1))  # noqa: DTZ001


@given(st.dictionaries(KEYS, JSON, max_size=5))
@example({"$float": "nan"})
@example({"a": {"$float": 1, "b": 2}})
@example({"a": {"$$float": [math.inf]}})
def test_metrics_come_back_as_they_were(metrics: Mapping[str, Any]) -> None:
    stored = values.load(values.dump(metrics))
    assert stored == metrics
    assert list(stored) == list(metrics)
    assert [type(value) for value in stored.values()] == [type(value) for value in metrics.values()]


@given(st.floats() | st.lists(st.floats()))
def test_no_number_that_json_lacks_is_lost(value: object) -> None:
    text = values.dump({"m": value})
    assert "NaN" not in text
    assert "Infinity" not in text
    assert repr(values.load(text)) == repr({"m": value})


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (Decimal("2.5"), 2.5),
        (Whole(2**60 + 1), 2**60 + 1),
        ((1, (2,)), [1, [2]]),
        ({1: Decimal(1)}, {"1": 1.0}),
    ],
)
def test_other_metrics_become_plain_ones(value: object, stored: object) -> None:
    assert values.load(values.dump({"m": value})) == {"m": stored}


def _endless() -> list[Any]:
    inner: list[Any] = []
    inner.append(inner)
    return inner


@pytest.mark.parametrize(
    "value", [object(), b"1", {1}, datetime(2030, 1, 1, tzinfo=UTC), Whole(10**5000), _endless()]
)
def test_metrics_that_cannot_be_kept_are_refused(value: object) -> None:
    with pytest.raises(ResultsInvalid, match="metrics"):
        values.dump({"deep": [{"er": value}]})


def test_the_refusal_says_where() -> None:
    with pytest.raises(
        ResultsInvalid, match=r"metrics\['deep'\]\[1\]\['er'\] must be a number or text, found set"
    ):
        values.dump({"deep": [0, {"er": {1}}]})


def test_nothing_stored_is_nothing() -> None:
    assert values.load(None) == {}


def test_many_texts_are_loaded_as_one_by_one() -> None:
    given: list[dict[str, Any]] = [
        {"a": 1, "b": "ü"},
        {"a": math.inf},
        {},
        {"$float": "x"},
        {"deep": [{"$float": 1}, -math.inf]},
    ]
    texts = [values.dump(one) for one in given]
    assert values.load_all([*texts, None]) == [*given, None]
    assert values.load_all(texts[:1]) == given[:1]
    assert values.load_all([]) == []
