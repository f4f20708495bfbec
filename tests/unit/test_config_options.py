"""Option values shared by all parts: durations, and what is said about a wrong option."""

from __future__ import annotations

import contextlib
import math
from datetime import timedelta
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from windtunnel.errors import ConfigError
from windtunnel.options import Options, expand, nearest, parse_duration, parse_options, shown


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (30, 30),
        (0.5, 0.5),
        ("30", 30),
        ("30s", 30),
        ("1.5h", 5400),
        ("1m 30s", 90),
        ("250ms", 0.25),
        ("2min", 120),
    ],
)
def test_durations(value: object, seconds: float) -> None:
    assert parse_duration(value) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "0s", "-1s", "s", "1x", "1 month", "1e3", "9" * 400),
        *(0, -1, 1e-9, 10**400, math.nan, math.inf, True),
        *(None, [], timedelta(0), timedelta(days=-1)),
    ],
)
def test_what_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match=r"expected a duration such as 30s, 5m or 1.5h, found"):
        parse_duration(value)


UNITS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


@given(st.integers(1, 9999), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " ", "  "]))
def test_a_number_and_a_unit_make_a_duration(count: int, unit: str, space: str) -> None:
    assert parse_duration(f"{count}{space}{unit}") == timedelta(seconds=count * UNITS[unit])


@given(st.timedeltas(min_value=timedelta(microseconds=1), max_value=timedelta(days=10_000)))
def test_a_duration_is_itself(value: timedelta) -> None:
    assert parse_duration(value) == value


@given(st.text(alphabet="0123456789.smhd -+e\u0663"))
def test_any_text_is_a_duration_or_a_clear_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert parse_duration(text) > timedelta(0)
        return
    with pytest.raises(ValueError, match="expected a duration such as"):
        parse_duration(text)


class Inner(Options):
    size: int = Field(default=1, gt=0, lt=10)
    kind: Literal["small", "large"] = "small"
    klass: str = Field(default="", alias="class")


class Outer(Options):
    inner: Inner | None = None
    several: tuple[Inner, ...] = ()
    named: dict[str, Inner] = Field(default_factory=dict)
    either: int | tuple[str, ...] = 1
    must: str


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"must": "x", "inner": {"sise": 1}}, "inner.sise: unknown key 'sise'; did you mean 'size'?"),
        ({"must": "x", "inner": {"klass": ""}}, "inner.klass: unknown key 'klass'; did you mean 'class'?"),
        (
            {"must": "x", "several": [{}, {"knd": 1}]},
            "several.1.knd: unknown key 'knd'; did you mean 'kind'?",
        ),
        ({"must": "x", "named": {"a": {"knd": 1}}}, "named.a.knd: unknown key 'knd'; did you mean 'kind'?"),
        ({"must": "x", "inner": {"kind": "larg"}}, "inner.kind: expected 'small' or 'large', found 'larg'"),
        ({"must": "x", "inner": {"size": 10}}, "inner.size: expected a value below 10, found 10"),
        ({"must": "x", "several": {}}, "several: expected a list, found {}"),
        # Told at the option itself, not at a member of the union that pydantic tried.
        ({"must": "x", "either": "y"}, "either: expected an integer, found 'y'"),
        ({"must": "x", "either": ["y", 2]}, "either: expected an integer, found ['y', 2]"),
        ({}, "must: missing key 'must'"),
        ({"must": None}, "must: expected a string, found null"),
        ({"must": "x", 3: 4}, "3: "),
        # The unknown key explains the missing one.
        ({"mist": "x"}, "mist: unknown key 'mist'; did you mean 'must'?"),
    ],
)
def test_a_wrong_option_is_told_with_its_path(raw: dict[Any, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_options(Outer, raw)

    assert str(caught.value).startswith(said)


def test_the_path_of_the_options_comes_first() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_options(Outer, {"must": 1}, path=("environment", "config"))
    assert caught.value.path == ("environment", "config", "must")
    with pytest.raises(ConfigError, match="config: expected a mapping, found null"):
        parse_options(Outer, None, path=("config",))  # type: ignore[arg-type]  # as a file may have it


def test_hints_and_values_are_short_and_plain() -> None:
    assert nearest("trails", ["trials", "repeats"]) == "; did you mean 'trials'?"
    assert nearest("zzz", ["b", "a"]) == "; known: a, b"
    assert nearest("zzz", []) == ""
    assert [shown(value) for value in (None, True, 1.5, "x")] == ["null", "true", "1.5", "'x'"]
    assert len(shown("x" * 1000)) == 78


def test_expansion_of_one_text() -> None:
    assert expand("$a ${b}c $$d $e", {"a": 1, "b": True}, missing_ok=True) == "1 truec $d $e"
    with pytest.raises(ConfigError, match=r"\$e is not defined; give it with -g e=VALUE; known: a"):
        expand("$e", {"a": 1})
