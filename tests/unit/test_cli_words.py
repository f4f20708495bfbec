"""Numbers and texts as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.cli.words import assignments, cut, duration, first_line, number, outlier, plain, rate
from windtunnel.model import OutlierHost


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1m 00s"),
        (185, "3m 05s"),
        (3599.9, "1h 00m"),
        (7620, "2h 07m"),
        (90000, "1d 01h"),
        (-1, "0.0 s"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("per_second", "text"),
    [
        (5123.4, "5123 trials/s"),
        (1, "1 trials/s"),
        (0.5, "30 trials/min"),
        (0.01, "36 trials/h"),
        (0, "0 trials/h"),
    ],
)
def test_rate(per_second: float, text: str) -> None:
    assert rate(per_second) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1234567, "1234567"),
        (812345.678, "812346"),
        (3.14159265, "3.1416"),
        (1e-9, "1e-09"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (True, "true"),
        (None, "-"),
        ("wal\nx", "wal x"),
    ],
)
def test_number(value: object, text: str) -> None:
    assert number(value) == text


def test_assignments_say_when_some_are_left_out() -> None:
    assert assignments({"a": 1, "b": 2, "c": 3}, most=2) == "a=1, b=2, …"
    assert assignments({}) == "-"


def test_what_steers_a_terminal_is_taken_out() -> None:
    assert plain("\x1b[31mred\x1b[0m\a \x1b]0;title\x07\x1bcdone\r\nnext\tcell") == "red done\nnext\tcell"


@given(st.text())
def test_plain_text_holds_no_control_characters(text: str) -> None:
    assert all(char in "\n\t" or (char >= " " and char != "\x7f") for char in plain(text) if ord(char) < 160)


def test_the_first_line_that_says_something() -> None:
    assert first_line("\n  \n  run failed: 'x'\nmore") == "run failed: 'x'"
    assert first_line("\n \n") == ""
    assert cut("abcdef", 4) == "abc…"


@pytest.mark.parametrize(
    ("deviation", "side"), [(4.21, "4.2 standard deviations above"), (-3.0, "3.0 standard deviations below")]
)
def test_a_host_that_stands_out(deviation: float, side: str) -> None:
    text = outlier(OutlierHost("b\x1b[1m", 12, deviation))
    assert text == f"host b stands out: over 12 runs its results lie {side} those of others"
