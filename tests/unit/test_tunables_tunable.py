"""One tunable: what it accepts, what it refuses, and how it says so."""

from __future__ import annotations

import math
import pickle
import random
from fractions import Fraction
from typing import Any

import pytest

from windtunnel.errors import ConfigError, TunableError
from windtunnel.tunables import Tunable
from windtunnel.tunables.distribution import Beta, Normal

CACHE = {"type": "int", "range": [64, 65536], "log": True, "default": 2048}
MODE = {"type": "categorical", "values": ["delete", "wal"], "default": "delete"}
RATIO = {"type": "float", "range": [0, 1], "default": 0.5}
SPECIAL = {"type": "int", "range": [0, 100], "special": [-1, 0], "default": 10}


def without(config: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k != key}


BAD_DEFINITIONS: list[tuple[dict[str, Any], str, tuple[str, ...]]] = [
    # config, key its path ends in, parts of the message
    ({**CACHE, "rang": 1}, "rang", ("unknown key 'rang'", "did you mean 'range'?")),
    ({**CACHE, "type": "integer"}, "type", ("'int'", "'categorical'", "'integer'")),
    (without(CACHE, "type"), "type", ("missing key 'type'",)),
    (without(CACHE, "default"), "default", ("missing key 'default'",)),
    (without(CACHE, "range"), "range", ("needs a 'range'", "None")),
    ({**CACHE, "range": [1]}, "range", ("two numbers", "[1]")),
    ({**CACHE, "range": [1, 2, 3]}, "range", ("two numbers", "[1, 2, 3]")),
    ({**CACHE, "range": [65536, 64]}, "range", ("must rise", "[65536, 64]")),
    ({**CACHE, "range": [64, 64]}, "range", ("must rise", "[64, 64]")),
    ({**CACHE, "range": [0, 65536]}, "range", ("log needs a range above 0", "[0, 65536]")),
    ({**CACHE, "range": [64.5, 65536]}, "range", ("64.5", "lose precision", "int")),
    ({**CACHE, "range": [64, "many"]}, "range", ("'many' is not a number",)),
    ({**CACHE, "range": [1, 2**80]}, "range", ("too wide", str(2**80))),
    ({**RATIO, "range": [-1e308, 1e308]}, "range", ("too wide",)),
    ({**RATIO, "range": [0, math.inf]}, "range", ("inf", "finite")),
    ({**CACHE, "log": "yes"}, "log", ("'yes'",)),
    ({**CACHE, "default": 63}, "default", ("default 63 is out of range", "int in [64, 65536], log")),
    ({**CACHE, "default": None}, "default", ("default None is not a number",)),
    ({**MODE, "default": "off"}, "default", ("default 'off'", "one of 'delete', 'wal'")),
    ({**CACHE, "values": ["a"]}, "values", ("belongs to categorical",)),
    ({**CACHE, "quantization_bins": 1}, "quantization_bins", ("from 2 to", "found 1")),
    ({**SPECIAL, "quantization_bins": 102}, "quantization_bins", ("from 2 to 101", "found 102")),
    ({**SPECIAL, "special": [-1, "-1"]}, "special", ("must differ", "[-1, -1]")),
    ({**SPECIAL, "special": [True]}, "special", ("True is not a number",)),
    ({**SPECIAL, "special_weights": [1, 1]}, "range_weight", ("give both",)),
    ({**SPECIAL, "range_weight": 1}, "special_weights", ("give both",)),
    ({**SPECIAL, "special_weights": [1], "range_weight": 1}, "special_weights", ("2 weights", "found 1")),
    ({**SPECIAL, "special_weights": [1, -1], "range_weight": 1}, "special_weights", ("0 or more", "-1")),
    ({**SPECIAL, "special_weights": [0, 0], "range_weight": 0}, "range_weight", ("not all 0",)),
    ({**SPECIAL, "special_weights": [1, 1], "range_weight": -1}, "range_weight", ("0 or more", "-1")),
    ({**MODE, "range": [1, 2]}, "range", ("categorical takes no 'range'",)),
    ({**MODE, "log": True}, "log", ("categorical takes no 'log'",)),
    ({**MODE, "special": [1]}, "special", ("categorical takes no 'special'",)),
    ({**MODE, "quantization_bins": 3}, "quantization_bins", ("categorical takes no 'quantization_bins'",)),
    ({**MODE, "range_weight": 0.5}, "range_weight", ("categorical takes no 'range_weight'",)),
    ({**MODE, "values": []}, "values", ("at least one",)),
    ({**MODE, "values": "delete"}, "values", ("list", "'delete'")),
    ({**MODE, "values": ["delete", "wal", "delete"]}, "values", ("'delete' is listed twice",)),
    ({**MODE, "values": [1, "1"], "default": 1}, "values", ("'1' is listed twice",)),
    ({**MODE, "values": ["delete", None]}, "values", ("null", "quote it")),
    ({**MODE, "values_weights": [1]}, "values_weights", ("2 weights", "found 1")),
    ({**MODE, "values_weights": [1, -2]}, "values_weights", ("0 or more", "-2")),
    ({**MODE, "values_weights": [0, 0]}, "values_weights", ("above 0",)),
    ({**RATIO, "distribution": {"type": "gauss"}}, "distribution", ("'gauss'", "normal")),
    ({**RATIO, "distribution": {"type": "normal"}}, "distribution", ("mu and sigma", "none")),
    (
        {**RATIO, "distribution": {"type": "normal", "params": {"mu": 9, "sigma": 1}}},
        "distribution",
        ("9", "[0, 1]"),
    ),
    (
        {**RATIO, "distribution": {"type": "normal", "params": {"mu": 0, "sigma": 0}}},
        "distribution",
        ("sigma", "0"),
    ),
    (
        {**RATIO, "distribution": {"type": "beta", "params": {"alpha": 0, "beta": 1}}},
        "distribution",
        ("alpha",),
    ),
    ({**RATIO, "meta": {"suffix": {"a": 1}}}, "meta", ("scalars", "{'a': 1}")),
]


@pytest.mark.parametrize(("config", "key", "parts"), BAD_DEFINITIONS)
def test_a_bad_definition_is_refused_with_its_place(
    config: dict[str, Any], key: str, parts: tuple[str, ...]
) -> None:
    with pytest.raises(TunableError) as caught:
        Tunable.parse("knob", config)
    assert caught.value.path == (key,)
    for part in ("tunable 'knob'", *parts):
        assert part in caught.value.message


@pytest.mark.parametrize("name", ["", "1st", "a b", "x!y", "ü", "-x"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(TunableError, match="cannot name a tunable"):
        Tunable.parse(name, RATIO)


BAD_VALUES: list[tuple[dict[str, Any], object, tuple[str, ...]]] = [
    (CACHE, 63, ("63 is out of range", "int in [64, 65536], log")),
    (CACHE, 65537, ("65537 is out of range",)),
    (CACHE, 64.5, ("64.5 would lose precision", "int in")),
    (CACHE, "64.5", ("'64.5' would lose precision",)),
    (CACHE, "lots", ("'lots' is not a number",)),
    (CACHE, True, ("True is not a number",)),
    (CACHE, None, ("None is not a number",)),
    (CACHE, [64], ("[64] is not a number",)),
    (CACHE, math.nan, ("nan is not a finite number",)),
    (CACHE, math.inf, ("inf is not a finite number",)),
    (RATIO, math.nan, ("nan is not a finite number", "float in [0.0, 1.0]")),
    (RATIO, "-inf", ("'-inf' is not a finite number",)),
    (RATIO, 10**400, ("is not a finite number",)),
    (RATIO, False, ("False is not a number",)),
    (RATIO, 1.0000001, ("out of range",)),
    (SPECIAL, -2, ("-2 is out of range", "int in [0, 100], or special -1, 0")),
    (MODE, "off", ("'off' is not among its values", "one of 'delete', 'wal'")),
    (MODE, "WAL", ("'WAL'",)),
    (MODE, None, ("None is not among",)),
]


@pytest.mark.parametrize(("config", "value", "parts"), BAD_VALUES)
def test_a_bad_value_is_refused_with_tunable_value_and_domain(
    config: dict[str, Any], value: object, parts: tuple[str, ...]
) -> None:
    with pytest.raises(TunableError) as caught:
        Tunable.parse("knob", config).check(value)
    for part in ("tunable 'knob'", "expected", *parts):
        assert part in str(caught.value)


def test_a_refused_value_is_a_config_error_and_a_value_error() -> None:
    with pytest.raises(ConfigError):
        Tunable.parse("knob", CACHE).check(1)
    with pytest.raises(ValueError):
        Tunable.parse("knob", CACHE).check(1)


@pytest.mark.parametrize(
    ("config", "given", "held"),
    [
        (CACHE, "2048", 2048),
        (CACHE, 2048.0, 2048),
        (CACHE, "2e3", 2000),
        (CACHE, Fraction(128), 128),
        (RATIO, 1, 1.0),
        (RATIO, "0.25", 0.25),
        (RATIO, -0.0, 0.0),
        (SPECIAL, -1, -1),
        (SPECIAL, "-1", -1),
        (MODE, "wal", "wal"),
        ({**MODE, "values": [True, False], "default": True}, True, "true"),
        ({**MODE, "values": [True, False], "default": True}, "false", "false"),
        ({**MODE, "values": [1, 2.5], "default": 1}, 2.5, "2.5"),
    ],
)
def test_a_value_is_converted_without_loss(config: dict[str, Any], given: object, held: object) -> None:
    result = Tunable.parse("knob", config).check(given)
    assert (result, type(result)) == (held, type(held))
    assert not isinstance(result, float) or math.copysign(1, result) > 0


def test_a_number_written_in_exponent_form_is_one_although_yaml_gives_text() -> None:
    assert Tunable.parse("knob", {"type": "int", "range": ["1e3", "1e6"], "default": "1e4"}).range == (
        1000,
        1000000,
    )


def test_special_values_are_told_from_the_range() -> None:
    tunable = Tunable.parse("knob", SPECIAL)
    assert [tunable.is_special(v) for v in (-1, 0, 1)] == [True, True, False]
    assert [tunable.in_range(v) for v in (-1, 0, 100, 101, "1")] == [False, True, True, False, False]
    assert tunable.special_shares == (0.25, 0.25)
    weighted = Tunable.parse("knob", {**SPECIAL, "special_weights": [3, 1], "range_weight": 4})
    assert weighted.special_shares == (0.375, 0.125)


@pytest.mark.parametrize(
    ("config", "count", "values"),
    [
        (MODE, 2, ("delete", "wal")),
        ({"type": "int", "range": [1, 3], "default": 1}, 3, range(1, 4)),
        ({"type": "int", "range": [0, 10], "quantization_bins": 5, "default": 1}, 5, (0, 3, 5, 8, 10)),
        ({"type": "float", "range": [0, 1], "quantization_bins": 3, "default": 1}, 3, (0.0, 0.5, 1.0)),
        (
            {"type": "int", "range": [1, 1000], "log": True, "quantization_bins": 4, "default": 1},
            4,
            (1, 10, 100, 1000),
        ),
        (RATIO, None, None),
    ],
)
def test_what_can_be_proposed_is_countable_or_not(
    config: dict[str, Any], count: int | None, values: object
) -> None:
    tunable = Tunable.parse("knob", config)
    assert tunable.cardinality == count
    assert tunable.quantized_values == values


def test_quantize_rounds_to_the_nearest_value_of_the_grid() -> None:
    linear = Tunable.parse(
        "knob", {"type": "int", "range": [0, 100], "quantization_bins": 11, "default": 3, "special": [55]}
    )
    assert [linear.quantize(v) for v in (0, 4, 5, 6, 55, 96, 100)] == [0, 0, 0, 10, 55, 100, 100]
    log = Tunable.parse(
        "knob", {"type": "float", "range": [1, 100], "log": True, "quantization_bins": 3, "default": 1}
    )
    assert [log.quantize(v) for v in (3, 4, 40)] == [1.0, pytest.approx(10.0), 100.0]
    assert Tunable.parse("knob", RATIO).quantize(0.3) == 0.3
    assert linear.check(3) == 3, "quantization binds proposals, not values that users give"


def test_wide_integer_ranges_keep_every_digit() -> None:
    tunable = Tunable.parse("knob", {"type": "int", "range": [0, 2**64 - 1], "default": 2**64 - 1})
    assert tunable.default == 2**64 - 1
    assert tunable.cardinality == 2**64
    assert tunable.spaced(3) == (0, 2**63, 2**64 - 1)


def test_an_extreme_log_range_can_be_spaced() -> None:
    points = Tunable.parse(
        "knob", {"type": "float", "range": [1e-300, 1e300], "log": True, "default": 1}
    ).spaced(3)
    assert points == pytest.approx((1e-300, 1.0, 1e300))


def test_a_definition_cannot_be_changed() -> None:
    tunable = Tunable.parse("knob", {**RATIO, "meta": {"levels": [1, 2]}})
    with pytest.raises(AttributeError):
        tunable.default = 1  # type: ignore[misc] # that it is refused is what is tested
    with pytest.raises(TypeError):
        tunable.meta["levels"] = 3  # type: ignore[index] # the same
    assert tunable.meta["levels"] == (1, 2)


FULL = {
    "type": "int",
    "range": [1, 1000],
    "default": 10,
    "log": True,
    "quantization_bins": 4,
    "special": [-1],
    "special_weights": [0.25],
    "range_weight": 0.75,
    "distribution": {"type": "normal", "params": {"mu": 0.5, "sigma": 0.1}},
    "description": "how much",
    "meta": {"unit": "MB", "levels": [1, 2]},
}


@pytest.mark.parametrize("config", [CACHE, MODE, RATIO, SPECIAL, FULL, {**MODE, "values_weights": [1, 3]}])
def test_a_definition_survives_its_config_form_and_pickling(config: dict[str, Any]) -> None:
    tunable = Tunable.parse("knob", config)
    assert Tunable.parse("knob", tunable.definition()) == tunable
    assert pickle.loads(pickle.dumps(tunable)) == tunable
    assert hash(Tunable.parse("knob", config)) == hash(tunable)
    assert {**config, **tunable.definition()} == tunable.definition(), "nothing that was given is lost"


def test_a_tunable_can_be_built_in_code() -> None:
    built = Tunable(name="knob", type="int", range=(64, 65536), log=True, default=2048)
    assert built == Tunable.parse("knob", CACHE)


@pytest.mark.parametrize(
    ("distribution", "mean"),
    [
        (Normal(0.5, 0.1), 0.5),
        (Normal(1.0, 1e-9), 1.0),
        (Normal(0.0, 1e6), 0.5),
        (Beta(2, 6), 0.25),
    ],
)
def test_a_distribution_stays_in_the_unit_interval_around_its_mean(
    distribution: Normal | Beta, mean: float
) -> None:
    rng = random.Random(7)
    draws = [distribution.draw(rng) for _ in range(4000)]
    assert all(0 <= draw <= 1 for draw in draws)
    assert sum(draws) / len(draws) == pytest.approx(mean, abs=0.02)
