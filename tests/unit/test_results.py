"""Parsers of what scripts write."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.environments.results import (
    LinePattern,
    parse_number,
    parse_results,
    parse_telemetry,
    parse_timestamp,
)
from windtunnel.errors import ResultsInvalid
from windtunnel.model import Sample


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        (" -7 ", -7),
        ("+3", 3),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("-inf", float("-inf")),
        ("1_000", "1_000"),
        ("1.2.3", "1.2.3"),
        ("12 ms", "12 ms"),
        ("", ""),
        ("٣", 3.0),
    ],
)
def test_numbers_become_numbers_and_the_rest_stays_text(text: str, value: object) -> None:
    parsed = parse_number(text)
    assert parsed == value
    assert type(parsed) is type(value)


@given(st.text())
def test_any_text_can_be_parsed(text: str) -> None:
    assert isinstance(parse_number(text), int | float | str)


@given(st.integers() | st.floats(allow_nan=False))
def test_numbers_survive(number: float) -> None:
    assert parse_number(str(number)) == number


def test_very_long_numbers_do_not_raise() -> None:
    assert isinstance(parse_number("9" * 100_000), float | str)


def test_naive_times_are_utc_and_others_are_converted() -> None:
    noon = datetime(2025, 6, 1, 12, tzinfo=UTC)
    assert parse_timestamp("2025-06-01T12:00:00") == noon
    assert parse_timestamp("2025-06-01 14:00:00+02:00") == noon
    assert parse_timestamp("2025-06-01T12:00:00Z").tzinfo is UTC


# Patterns


@pytest.mark.parametrize(
    "pattern",
    [r"^(?P<metric>\w+): (?P<value>\S+)$", r"^(\w+): (\S+)$", r"(?P<value>\S+) is (?P<metric>\w+)$"],
)
def test_patterns_find_metrics(pattern: str) -> None:
    line = "3.5 is qps" if "is" in pattern else "qps: 3.5"
    assert list(LinePattern(pattern).metrics(line)) == [("qps", 3.5)]
    assert list(LinePattern(pattern).metrics("something else entirely")) == []


def test_a_line_may_hold_several_metrics() -> None:
    assert list(LinePattern(r"(\w+)=(\S+)").metrics("a=1 b=x c=2.0")) == [("a", 1), ("b", "x"), ("c", 2.0)]


@pytest.mark.parametrize("pattern", ["(", r"no groups", r"(one)", r"(?P<metric>a)(?P<x>b)", r"(a)(b)(c)"])
def test_bad_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"expected|regular expression"):
        LinePattern(pattern)


def test_samples_take_the_time_in_the_line_or_now() -> None:
    pattern = LinePattern(r"^(?:\[(?P<timestamp>[^]]*)\] )?(?P<metric>\w+)=(?P<value>\S+)$")
    before = datetime.now(UTC)
    assert pattern.samples("[2025-06-01T14:00:00+02:00] qps=1") == [
        Sample(datetime(2025, 6, 1, 12, tzinfo=UTC), "qps", 1)
    ]
    for line in ("qps=1", "[garbled] qps=1"):
        (sample,) = pattern.samples(line)
        assert before <= sample.timestamp <= datetime.now(UTC)


# Results files


@pytest.mark.parametrize(
    ("name", "text", "metrics"),
    [
        ("r.csv", "metric,value\nqps,3\nname, x y \n", {"qps": 3, "name": "x y"}),
        ("r.csv", "Metric,Value\r\nqps,3.5\r\n\r\n", {"qps": 3.5}),
        ("r.csv", 'qps,"the name"\n3,"a,b"\n', {"qps": 3, "the name": "a,b"}),
        ("r.csv", "a,b\n1,2", {"a": 1, "b": 2}),
        ("r.csv", "score\n1.25\n", {"score": 1.25}),
        ("r.csv", "metric,value\n", {}),
        ("r.csv", 'metric,value\rqps,3\rnote,"two\nlines"\r', {"qps": 3, "note": "two\nlines"}),
        ("r.csv", "metric,value\nnote,a\u2028b\x0cc\n", {"note": "a\u2028b\x0cc"}),
        ("r.json", '{"qps": 3, "x": 1.5, "s": "t"}', {"qps": 3, "x": 1.5, "s": "t"}),
        ("r.txt", ' {"qps": 3}', {"qps": 3}),
    ],
)
def test_results_files(name: str, text: str, metrics: dict[str, Any]) -> None:
    assert parse_results(text, name=name) == metrics


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("r.csv", ""),
        ("r.csv", " \n\n"),
        ("r.csv", "a,b\n"),
        ("r.csv", "a,b\n1,2\n3,4\n"),
        ("r.csv", "a,b\n1\n"),
        ("r.csv", "a,\n1,2\n"),
        ("r.csv", "metric,value\nqps\n"),
        ("r.csv", "metric,value\nqps,1,2\n"),
        ("r.csv", 'a,b\n"1,2\n'),
        ("r.json", "[1, 2]"),
        ("r.json", "{"),
        ("r.json", '{"a": null}'),
        ("r.json", '{"a": [1]}'),
        ("r.json", '{"a": true}'),
    ],
)
def test_bad_results_files_are_named(name: str, text: str) -> None:
    with pytest.raises(ResultsInvalid, match=rf"results file '{name}'"):
        parse_results(text, name=name)


def test_a_column_without_a_name_is_told() -> None:
    with pytest.raises(ResultsInvalid, match="column 2 has no name"):
        parse_results("a,\n1,2\n", name="r.csv")


@given(st.text(), st.sampled_from(["r.csv", "r.json"]))
def test_any_text_gives_metrics_or_a_clear_error(text: str, name: str) -> None:
    with suppress(ResultsInvalid):
        assert isinstance(parse_results(text, name=name), dict)


# Telemetry files


@pytest.mark.parametrize("header", ["", "timestamp,metric,value\n", "Timestamp, Metric, Value\n"])
def test_telemetry_files(header: str) -> None:
    text = header + "2025-06-01T12:00:00,cpu,0.5\n\n2025-06-01T14:00:01+02:00,state,up\n"
    noon = datetime(2025, 6, 1, 12, tzinfo=timezone(timedelta(0)))
    assert list(parse_telemetry(text.splitlines(keepends=True), name="t.csv")) == [
        Sample(noon, "cpu", 0.5),
        Sample(noon + timedelta(seconds=1), "state", "up"),
    ]


@pytest.mark.parametrize(
    "row", ["yesterday,cpu,1", "2025-06-01T12:00:00,cpu", "2025-06-01T12:00:00,,1", "1,2,3,4", '"open']
)
def test_bad_telemetry_rows_are_named_with_their_line(row: str) -> None:
    lines = ["timestamp,metric,value\n", row]
    with pytest.raises(ResultsInvalid, match=r"'t.csv', line 2"):
        list(parse_telemetry(lines, name="t.csv"))


def test_an_empty_telemetry_file_has_no_samples() -> None:
    assert list(parse_telemetry([], name="t.csv")) == []


def test_a_zone_is_for_times_that_have_none() -> None:
    lines = ["2026-01-01T00:00:00,a,1\n", "2026-01-01T00:00:00Z,a,2\n"]
    east = timezone(timedelta(hours=2))
    times = [sample.timestamp for sample in parse_telemetry(lines, name="t.csv", zone=east)]
    assert times == [datetime(2025, 12, 31, 22, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)]
    here = next(iter(parse_telemetry(lines, name="t.csv", zone=None))).timestamp
    assert here == datetime(2026, 1, 1).astimezone(UTC)
