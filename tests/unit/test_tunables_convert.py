"""Between configurations and numbers: the unit cube, random draws, grids."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.errors import TunableError
from windtunnel.tunables import Tunable, TunableGroups
from windtunnel.tunables.convert import from_unit, grid_values, sample, to_unit


def space(**tunables: dict[str, Any]) -> TunableGroups:
    return TunableGroups({"all": {"params": tunables}})


def draws(count: int, **config: Any) -> list[Any]:
    groups, rng = space(x=config), random.Random(3)
    return [sample(groups, rng)["x"] for _ in range(count)]


@st.composite
def tunable_configs(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["int", "float", "categorical"]))
    if kind == "categorical":
        values = draw(st.lists(st.text(max_size=5), min_size=1, max_size=6, unique=True))
        return {"type": kind, "values": values, "default": values[0]}
    low = draw(st.integers(-10_000, 10_000))
    high = low + draw(st.integers(1, 10_000))
    special = draw(st.lists(st.integers(-20_000, 20_000), max_size=3, unique=True))
    config: dict[str, Any] = {"type": kind, "range": [low, high], "default": high, "special": special}
    config["log"] = low > 0 and draw(st.booleans())
    if draw(st.booleans()):
        config["quantization_bins"] = draw(st.integers(2, min(50, high - low + 1)))
    if draw(st.booleans()) and special:
        config["special_weights"] = [draw(st.integers(1, 5)) for _ in special]
        config["range_weight"] = draw(st.integers(0, 3))
    if draw(st.booleans()):
        config["distribution"] = {"type": "beta", "params": {"alpha": 2, "beta": 0.5}}
    return config


spaces = st.lists(tunable_configs(), min_size=1, max_size=4).map(
    lambda configs: space(**{f"t{index}": config for index, config in enumerate(configs)})
)


def proposable(tunable: Tunable, value: Any) -> bool:
    listed = tunable.quantized_values
    return tunable.is_special(value) or (tunable.in_range(value) if listed is None else value in listed)


@given(spaces, st.integers())
def test_a_draw_is_always_proposable(groups: TunableGroups, seed: int) -> None:
    drawn = sample(groups, random.Random(seed))
    assert all(proposable(groups.tunable(name), value) for name, value in drawn.items())
    assert sample(groups, random.Random(seed)) == drawn


@given(spaces, st.data())
def test_every_point_of_the_cube_is_a_proposable_configuration(
    groups: TunableGroups, data: st.DataObject
) -> None:
    point = data.draw(st.lists(st.floats(0, 1), min_size=len(groups), max_size=len(groups)))
    found = from_unit(groups, point)
    assert all(proposable(groups.tunable(name), value) for name, value in found.items())


@given(spaces, st.integers())
def test_a_configuration_comes_back_from_the_cube(groups: TunableGroups, seed: int) -> None:
    drawn = sample(groups, random.Random(seed))
    point = to_unit(drawn)
    assert all(0 <= coordinate <= 1 for coordinate in point)
    back = from_unit(groups, point)
    for name, value in drawn.items():
        is_rounded = groups.tunable(name).cardinality is None
        assert back[name] == (pytest.approx(value, rel=1e-9, abs=1e-7) if is_rounded else value)


def test_the_cube_is_even_in_the_logarithm_and_reaches_the_ends() -> None:
    groups = space(
        lin={"type": "float", "range": [0, 10], "default": 5},
        log={"type": "float", "range": [1, 100], "log": True, "default": 10},
        cat={"type": "categorical", "values": ["a", "b"], "default": "b"},
    )
    assert to_unit(groups) == pytest.approx([0.5, 0.5, 0.75])
    assert dict(from_unit(groups, [0, 0, 0.49])) == {"lin": 0.0, "log": 1.0, "cat": "a"}
    assert dict(from_unit(groups, [1, 1, 0.5])) == {"lin": 10.0, "log": 100.0, "cat": "b"}


def test_all_ints_are_equally_wide_in_the_cube() -> None:
    groups = space(x={"type": "int", "range": [0, 3], "default": 0})
    found = Counter(from_unit(groups, [(i + 0.5) / 400])["x"] for i in range(400))
    assert found == {0: 100, 1: 100, 2: 100, 3: 100}


def test_a_value_off_the_quantization_grid_comes_back_as_its_neighbour() -> None:
    groups = space(x={"type": "int", "range": [0, 100], "quantization_bins": 11, "default": 34})
    assert from_unit(groups, to_unit(groups))["x"] == 30


def test_special_values_have_their_share_of_the_axis() -> None:
    groups = space(x={"type": "int", "range": [1, 4], "special": [-1, 0], "default": 1})
    found = [from_unit(groups, [c])["x"] for c in (0.0, 0.24, 0.26, 0.49, 0.51, 0.99)]
    assert found == [-1, -1, 0, 0, 1, 4]


def test_a_range_without_weight_is_never_proposed() -> None:
    weights = {"special_weights": [1, 1, 1], "range_weight": 0}
    config = {"type": "int", "range": [1, 4], "special": [-1, -2, -3], "default": 1, **weights}
    assert from_unit(space(x=config), [1.0])["x"] == -3
    assert set(draws(200, **config)) == {-1, -2, -3}


@pytest.mark.parametrize("bad", [[], [0.5, 0.5], [1.5], [-0.1], [math.nan]])
def test_what_is_not_a_point_of_the_cube_is_refused(bad: list[float]) -> None:
    with pytest.raises(TunableError, match=r"\[0, 1\]"):
        from_unit(space(x={"type": "float", "range": [0, 1], "default": 1}), bad)


def test_draws_honour_weights() -> None:
    modes = Counter(
        draws(4000, type="categorical", values=["a", "b", "c"], values_weights=[1, 3, 0], default="a")
    )
    assert modes["b"] / 4000 == pytest.approx(0.75, abs=0.03)
    assert "c" not in modes
    config = {"type": "float", "range": [1, 2], "special": [-1, -2], "default": 1}
    plain = Counter(draws(4000, **config))
    assert plain[-1] / 4000 == pytest.approx(0.25, abs=0.03)
    weighted = Counter(draws(4000, **config, special_weights=[1, 0], range_weight=9))
    assert weighted[-1] / 4000 == pytest.approx(0.1, abs=0.03)
    assert -2 not in weighted


def test_draws_honour_distribution_and_logarithm() -> None:
    ints = Counter(draws(4000, type="int", range=[1, 4], default=1))
    assert all(count / 4000 == pytest.approx(0.25, abs=0.03) for count in ints.values())
    logs = draws(4000, type="float", range=[1, 10_000], log=True, default=1)
    assert sum(value < 100 for value in logs) / 4000 == pytest.approx(0.5, abs=0.03)
    bell = {"type": "normal", "params": {"mu": 0.5, "sigma": 0.01}}
    assert all(
        7_000 < value < 14_000
        for value in draws(500, type="int", range=[100, 1_000_000], log=True, default=100, distribution=bell)
    )


@pytest.mark.parametrize(
    ("config", "points", "expected"),
    [
        ({"type": "categorical", "values": ["a", "b", "c"], "default": "a"}, 2, ["a", "b", "c"]),
        ({"type": "int", "range": [1, 3], "default": 1}, 3, [1, 2, 3]),
        ({"type": "int", "range": [0, 100], "default": 1}, 3, [0, 50, 100]),
        ({"type": "int", "range": [1, 1000], "log": True, "default": 1}, 4, [1, 10, 100, 1000]),
        ({"type": "int", "range": [1, 6], "log": True, "default": 1}, 5, [1, 2, 4, 6]),
        ({"type": "float", "range": [0, 1], "default": 1}, 3, [0.0, 0.5, 1.0]),
        (
            {"type": "float", "range": [0, 1], "quantization_bins": 5, "default": 1},
            2,
            [0.0, 0.25, 0.5, 0.75, 1.0],
        ),
        ({"type": "int", "range": [0, 10], "special": [-1, 10], "default": 1}, 2, [0, 10, -1]),
    ],
)
def test_grid_values_cover_the_domain_from_end_to_end(
    config: dict[str, Any], points: int, expected: list[Any]
) -> None:
    assert grid_values(Tunable.parse("x", config), points) == expected
