"""Types of values that were stored as text."""

from __future__ import annotations

import math
from typing import Any

import pytest

from windtunnel.storage.inference import GROUP, infer, measured, typed


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("0", 0), ("-7", -7), ("1.5", 1.5), ("1e-05", 1e-05), ("-0.25", -0.25)),
        *(
            (text, text)
            for text in ("1.10", "007", "+1", " 1", "1_000", "-0", "1E5", "1.", ".5", "0x10", "٣")
        ),
        *((text, text) for text in ("nan", "NaN", "inf", "-inf", "True", "None", "", "1.9.2")),
    ],
)
def test_only_what_python_would_write_so_is_a_number(text: str, value: object) -> None:
    found = typed(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("3", 3), ("-3", -3), ("1.10", 1.1), ("1E5", 1e5), ("2.50", 2.5), ("inf", math.inf)),
        *((text, text) for text in ("007", "1_000", "NaN", "fast", "", "1.9.2")),
    ],
)
def test_a_metric_is_any_decimal_number(text: str, value: object) -> None:
    found = measured(text)
    assert found == value
    assert type(found) is type(value)


def test_a_metric_may_be_no_number() -> None:
    found = measured("nan")
    assert isinstance(found, float)
    assert math.isnan(found)


@pytest.mark.parametrize(
    ("texts", "default", "wanted"),
    [
        (["1", "20", "3"], "3", {"type": "int", "range": [1, 20], "default": 3}),
        (["1", "2.5"], "1", {"type": "float", "range": [1.0, 2.5], "default": 1.0}),
        (["7"], "7", {"type": "int", "range": [7, 8], "default": 7}),
        (["1e+300"], "1e+300", {"type": "float", "range": [1e300, math.nextafter(1e300, math.inf)]}),
        (["1.10", "1.9"], "1.9", {"type": "categorical", "values": ["1.10", "1.9"], "default": "1.9"}),
        (["007", "8"], "8", {"type": "categorical", "values": ["007", "8"]}),
        (["1", "nan"], "1", {"type": "categorical", "values": ["1", "nan"], "default": "1"}),
        (["0", str(2**70)], "0", {"type": "categorical", "values": ["0", str(2**70)]}),
        (["-1e+308", "1e+308"], "1e+308", {"type": "categorical"}),
    ],
)
def test_a_tunable_allows_every_value_seen(texts: list[str], default: str, wanted: dict[str, Any]) -> None:
    inferred = infer({"x": texts}, {"x": default})
    definition = inferred.tunables.definition()[GROUP]["params"]["x"]
    assert {key: definition[key] for key in wanted} == wanted
    for text in texts:
        assert str(inferred.tunables.assign({"x": text})["x"]) in (text, _as_float(text))


def test_names_become_usable_and_stay_different() -> None:
    inferred = infer({"a b": ["1"], "a/b": ["2"], "9": ["3"], "a_b": ["4"]}, {})
    assert inferred.names == {"a b": "a_b", "a/b": "a_b_2", "9": "_9", "a_b": "a_b_3"}
    assert dict(inferred.tunables) == {"a_b": 1, "a_b_2": 2, "_9": 3, "a_b_3": 4}


def test_nothing_seen_gives_no_tunables() -> None:
    assert len(infer({}, {}).tunables) == 0


def _as_float(text: str) -> str:
    try:
        return str(float(text))
    except ValueError:
        return text
