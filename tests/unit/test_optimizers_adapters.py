"""Engines that search a projection of the space."""

from __future__ import annotations

import math
import random
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import windtunnel
from windtunnel.config import from_mapping
from windtunnel.errors import ConfigError, OptimizerError
from windtunnel.model import History, Status
from windtunnel.objectives import Objective
from windtunnel.optimizers import Optimizer, make_optimizer
from windtunnel.optimizers.adapters import AdapterConfig, Projection
from windtunnel.testing.optimizers import OptimizerContract, OptimizerFactory
from windtunnel.tunables import TunableGroups
from windtunnel.tunables.convert import sample

OBJECTIVES = {"score": Objective(direction="min")}
WIDE = TunableGroups(
    {
        "floats": {
            "params": {f"x{i}": {"type": "float", "range": [0, 8], "default": 2} for i in range(20)},
        },
        "others": {
            "params": {
                "mode": {"type": "categorical", "values": ["a", "b", "c"], "default": "b"},
                "size": {"type": "int", "range": [1, 4096], "log": True, "default": 64},
                "limit": {"type": "int", "range": [0, 99], "special": [-1], "default": 9},
                "depth": {"type": "int", "range": [1, 9], "default": 3, "when": {"mode": ["a", "b"]}},
            }
        },
    },
    constraints=["x0 <= x1 + 6", "mode != 'c' or size >= 8"],
)


def projection(space: TunableGroups, seed: int = 1, **options: Any) -> Projection:
    return Projection(space, AdapterConfig(name="llamatune", **options), seed)


def adapted(name: str, **adapter: Any) -> OptimizerFactory:
    return partial(make_optimizer, name, adapter=AdapterConfig(name="llamatune", **adapter))


class TestTPE(OptimizerContract):
    budget = 30

    @pytest.fixture
    def make(self) -> OptimizerFactory:
        return adapted("tpe", dimensions=3)


class TestRandom(OptimizerContract):
    @pytest.fixture
    def make(self) -> OptimizerFactory:
        return adapted("random", dimensions=3, buckets=1000)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.integers(2, 30), st.integers(50, 10_000), st.data())
def test_every_point_stands_for_a_configuration(
    seed: int, dimensions: int, buckets: int, data: st.DataObject
) -> None:
    projected = projection(WIDE, seed, dimensions=dimensions, buckets=buckets)
    points = projected.points
    assert len(points) == min(dimensions, len(WIDE))
    assert points.is_feasible
    assert projected.configuration(points).is_feasible

    point = points.assign({name: data.draw(st.integers(0, buckets - 1)) for name in points})
    found = projected.configuration(point)
    assert found == projected.configuration(point) == WIDE.assign(dict(found))
    assert point.violated == found.violated
    back = projected.configuration(projected.nearest(found))
    assert projected.distance(found, back) < 0.1
    if dimensions >= len(WIDE):
        assert back == found


def test_the_same_seed_gives_the_same_projection() -> None:
    point = {f"axis{i}": i * 1000 for i in range(1, 9)}
    one, two, other = (projection(WIDE, seed, dimensions=8).configuration(point) for seed in (1, 1, 2))
    assert one == two != other


def test_tunables_run_along_an_axis_together_some_of_them_backwards() -> None:
    params = {f"x{i}": {"type": "float", "range": [0, 1], "default": 0.5} for i in range(30)}
    projected = projection(TunableGroups({"g": {"params": params}}), dimensions=3, buckets=11)
    found = projected.configuration({"axis1": 1, "axis2": 3, "axis3": 6})
    values = sorted(round(float(value), 9) for value in found.values())
    assert [sum(value in (x, round(1 - x, 9)) for value in values) for x in (0.1, 0.3, 0.6)] == [10, 10, 10]
    assert {0.1, 0.9, 0.3, 0.7, 0.6, 0.4} == set(values)


@pytest.mark.parametrize(
    ("weights", "share"), [({}, 0.3), ({"special_weights": [3], "range_weight": 1}, 0.75)]
)
def test_special_values_have_their_share(weights: dict[str, Any], share: float) -> None:
    limit = {"type": "int", "range": [0, 99], "special": [-1], "default": 9, **weights}
    projected = projection(
        TunableGroups({"g": {"params": {"limit": limit}}}), dimensions=1, special_share=0.3, buckets=1001
    )
    found = [projected.configuration({"axis1": i})["limit"] for i in range(1001)]
    assert found.count(-1) / 1001 == pytest.approx(share, abs=0.002)


def test_what_no_point_can_keep_is_told_with_the_constraint() -> None:
    # Both run along the only axis, so they are equal or add up to one.
    params = {f"x{i}": {"type": "float", "range": [0, 1], "default": i * 0.7} for i in range(2)}
    space = TunableGroups({"g": {"params": params}}, constraints=["abs(x1 - x0) > 0.6 and x0 + x1 < 0.9"])
    with pytest.raises(OptimizerError, match=r"'abs.x1 - x0. > 0.6 and x0 . x1 < 0.9' is violated most"):
        projection(space, dimensions=1)


def valley(configuration: TunableGroups) -> float:
    return sum((float(configuration[f"x{i}"]) - 6) ** 2 for i in range(4))


def tell(optimizer: Optimizer, suggestions: list[TunableGroups], first: int) -> None:
    count = len(suggestions)
    optimizer.tell(
        History(
            list(range(first, first + count)),
            [dict(one) for one in suggestions],
            [{"score": valley(one)} for one in suggestions],
            [Status.SUCCEEDED] * count,
        )
    )


def run(optimizer: Optimizer, count: int) -> list[TunableGroups]:
    given: list[TunableGroups] = []
    for number in range(optimizer.asked, optimizer.asked + count):
        suggestions = optimizer.ask(1)
        tell(optimizer, suggestions, number + 1)
        given += suggestions
    return given


def test_it_finds_what_few_of_many_tunables_decide() -> None:
    def best(name: str, seed: int) -> float:
        make = adapted(name, dimensions=4)
        return min(map(valley, run(make(tunables=WIDE, objectives=OBJECTIVES, seed=seed), 40)))

    learnt = sorted(best("tpe", seed) for seed in range(5))[2]
    blind = sorted(best("random", seed) for seed in range(5))[2]
    assert learnt < blind


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_where_a_configuration_has_one_point_it_is_resumed_as_if_never_stopped(name: str) -> None:
    space = WIDE.subgroup(["floats"])
    make = adapted(name, dimensions=4)
    everything = run(make(tunables=space, objectives=OBJECTIVES, seed=3), 20)
    resumed = make(tunables=space, objectives=OBJECTIVES, seed=3, asked=13)
    tell(resumed, everything[:13], 1)
    assert run(resumed, 7) == everything[13:]


def test_it_learns_from_trials_that_are_near_to_a_point_and_says_of_how_many_it_does_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    space = WIDE.subgroup(["floats"])
    near = projection(space, 3, dimensions=4)
    rng = random.Random(3)
    point = sample(near.points, rng)
    like = near.configuration(point)
    like = space.assign({name: min(max(float(v) + rng.gauss(0, 0.05), 0), 8) for name, v in like.items()})
    assert near.distance(like, near.configuration(near.nearest(like))) < 0.02

    learning = adapted("tpe", dimensions=4)(tunables=space, objectives=OBJECTIVES, seed=3)
    foreign = [like, *(sample(space, rng) for _ in range(9))]
    tell(learning, foreign, -10)
    assert "9 trials are not learnt from" in caplog.text
    assert math.isfinite(valley(learning.ask(2)[1]))


DESCRIBED: dict[str, Any] = {
    "experiment": "e",
    "objectives": {"score": "min"},
    "tunables": {
        "g": {"params": {f"x{i}": {"type": "float", "range": [0, 1], "default": 0.3} for i in range(9)}}
    },
    "environment": {"class": "MockEnv"},
}
COARSE = {"adapter": {"name": "llamatune", "dimensions": 1, "buckets": 2}}


@pytest.mark.parametrize(
    "optimizer", [{"name": "random", **COARSE}, {"name": "mixed", "members": [{"name": "random", **COARSE}]}]
)
async def test_a_description_names_it(url: str, optimizer: dict[str, Any]) -> None:
    whole = {**DESCRIBED, "storage": url, "trials": 6, "optimizer": {**optimizer, "seed": 1}}
    summary = await windtunnel.run(whole)
    assert summary.succeeded == 6
    async with windtunnel.open_storage(url) as storage:
        experiment = await storage.open_experiment("e")
        tried = {str(one.config) async for one in experiment.trials()}
    assert len(tried) == 3, "the defaults, and what two points stand for"


@pytest.mark.parametrize(
    ("adapter", "path", "said"),
    [
        ("lamatune", (), "expected 'llamatune', found 'lamatune'; did you mean 'llamatune'?"),
        ({"dimensions": 3}, ("name",), "missing key 'name'"),
        ({"name": "llamatune", "dimensions": 0}, ("dimensions",), "expected at least 1, found 0"),
        ({"name": "llamatune", "bucket": 9}, ("bucket",), "did you mean 'buckets'?"),
        ({"name": "llamatune", "special_share": 1}, ("special_share",), "expected a value below 1"),
    ],
)
def test_a_wrong_adapter_is_refused_where_it_stands(adapter: Any, path: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping({**DESCRIBED, "optimizer": {"name": "random", "adapter": adapter}})
    assert caught.value.path == ("optimizer", "adapter", *path)
    assert said in str(caught.value)
