"""The optimizers that learn nothing, their registry, and the base that others subclass."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from itertools import product
from types import ModuleType
from typing import Any

import pytest

from windtunnel.errors import ConfigError, OptimizerError, TunableError
from windtunnel.model import History, Status
from windtunnel.objectives import Objective
from windtunnel.optimizers import Optimizer, make_optimizer, optimizer_class
from windtunnel.optimizers.grid import GridSearch
from windtunnel.optimizers.oneshot import OneShot
from windtunnel.optimizers.random import RandomSearch
from windtunnel.options import Options
from windtunnel.testing.optimizers import OptimizerContract, OptimizerFactory
from windtunnel.tunables import TunableGroups
from windtunnel.tunables.convert import grid_values

OBJECTIVES = {"score": Objective(direction="min")}
SMALL = TunableGroups(
    {
        "cheap": {"cost": 1, "params": {"n": {"type": "int", "range": [1, 3], "default": 2}}},
        "dear": {
            "cost": 9,
            "params": {"mode": {"type": "categorical", "values": ["a", "b"], "default": "b"}},
        },
    }
)


class Learner(Optimizer):
    """Proposes the best configuration it was told, the defaults before that; and keeps what it was told."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.histories: list[History] = []

    def _ask(self, index: int, count: int) -> Sequence[TunableGroups]:
        scored = [
            (score["score"], config)
            for history in self.histories
            for score, config in zip(history.scores, history.configs, strict=True)
            if score is not None
        ]
        best = min(scored, key=lambda pair: pair[0])[1] if scored else {}
        return [self.tunables.assign(best)] * count

    def _tell(self, history: History) -> None:
        self.histories.append(history)


class TestRandom(OptimizerContract):
    @pytest.fixture
    def make(self) -> OptimizerFactory:
        return RandomSearch


class TestGrid(OptimizerContract):
    @pytest.fixture
    def make(self) -> OptimizerFactory:
        return partial(GridSearch, points=3)


class TestOneShot(OptimizerContract):
    @pytest.fixture
    def make(self) -> OptimizerFactory:
        return OneShot


def build(name: str, **given: Any) -> Optimizer:
    return make_optimizer(name, **{"tunables": SMALL, "objectives": OBJECTIVES, "seed": 1, **given})


def asked_for(optimizer: Optimizer, count: int) -> list[dict[str, Any]]:
    return [dict(suggestion) for suggestion in optimizer.ask(count)]


def test_random_seeds_differ() -> None:
    wide = TunableGroups({"g": {"params": {"x": {"type": "float", "range": [0, 1], "default": 0}}}})
    one, two = build("random", tunables=wide, seed=1), build("random", tunables=wide, seed=2)
    assert one.ask(5)[1:] != two.ask(5)[1:]
    assert len({suggestion["x"] for suggestion in one.ask(100)}) == 100


def test_seeds_that_are_drawn_differ() -> None:
    assert len({build("random", seed=None).seed for _ in range(20)}) > 1


def test_the_grid_is_complete_and_changes_expensive_groups_least() -> None:
    assert asked_for(build("grid", start_with_defaults=False), 100) == [
        {"n": n, "mode": mode} for mode in ("a", "b") for n in (1, 2, 3)
    ]


def test_the_grid_does_not_repeat_defaults_that_came_first() -> None:
    cells = asked_for(build("grid"), 100)
    assert cells[0] == {"n": 2, "mode": "b"}
    assert cells[1:] == [c for c in ({"n": n, "mode": m} for m in "ab" for n in (1, 2, 3)) if c != cells[0]]


def test_defaults_off_the_grid_come_on_top() -> None:
    space = TunableGroups({"g": {"params": {"x": {"type": "float", "range": [0, 1], "default": 0.3}}}})
    optimizer = build("grid", tunables=space, options={"points": 3})
    assert [s["x"] for s in optimizer.ask(100)] == [0.3, 0.0, 0.5, 1.0]


def test_a_huge_grid_is_not_enumerated() -> None:
    params = {f"x{i}": {"type": "float", "range": [0, 1], "default": 0} for i in range(50)}
    optimizer = build("grid", tunables=TunableGroups({"g": {"params": params}}), asked=5**49)
    assert isinstance(optimizer, GridSearch)
    assert optimizer.size == 5**50
    first = optimizer.ask(2)[0]
    assert (first["x0"], first["x1"], first["x49"]) == (0.25, 0.0, 0.0)


CONDITIONAL = TunableGroups(
    {
        "dear": {
            "cost": 9,
            "params": {
                "n": {"type": "int", "range": [1, 3], "default": 2, "when": {"mode": "a"}},
                "x": {"type": "float", "range": [0, 1], "default": 0.3, "when": {"n": [1, 2]}},
            },
        },
        "cheap": {
            "cost": 1,
            "params": {
                "mode": {"type": "categorical", "values": ["a", "b"], "default": "b"},
                "k": {"type": "int", "range": [1, 4], "default": 1},
            },
        },
    },
    constraints=["n + k <= 5", "mode == 'a' or k != 2"],
)


def cells_of(space: TunableGroups) -> set[TunableGroups]:
    """Every configuration of the grid of three points, found by trying all there is."""
    names, values = zip(*((name, grid_values(one, 3)) for name, one in space.tunables.items()), strict=True)
    tried = (space.assign(dict(zip(names, chosen, strict=True))) for chosen in product(*values))
    return {one for one in tried if one.is_feasible}


@pytest.mark.parametrize("start_with_defaults", [True, False])
def test_the_grid_has_every_feasible_configuration_once(start_with_defaults: bool) -> None:
    def after(asked: int) -> list[TunableGroups]:
        given: dict[str, Any] = {"asked": asked, "start_with_defaults": start_with_defaults}
        return build("grid", tunables=CONDITIONAL, options={"points": 3}, **given).ask(1000)

    cells = after(0)
    assert len(cells) == len(set(cells))
    assert set(cells) == cells_of(CONDITIONAL)
    assert all(after(asked) == cells[asked:] for asked in range(len(cells) + 1))


def test_what_a_constraint_forbids_of_a_huge_grid_is_not_enumerated() -> None:
    params = {f"x{i}": {"type": "int", "range": [0, 4], "default": 4} for i in range(50)}
    space = TunableGroups({"g": {"params": params}}, constraints=["x0 + x1 + x2 >= 12"])
    optimizer = build("grid", tunables=space, start_with_defaults=False)
    assert [(one["x0"], one["x2"], one["x49"]) for one in optimizer.ask(3)] == [(4, 4, k) for k in range(3)]


def test_a_grid_whose_cells_are_nearly_all_forbidden_says_which_constraint_does_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("windtunnel.optimizers.grid._REJECTED", 500)
    params = {f"x{i}": {"type": "int", "range": [0, 4], "default": 4} for i in range(20)}
    space = TunableGroups({"g": {"params": params}}, constraints=["x0 + x19 >= 8", "x1 <= 4"])
    with pytest.raises(OptimizerError, match=r"none of 500 .*'x0 \+ x19 >= 8' is violated most"):
        build("grid", tunables=space, start_with_defaults=False).ask(1)


def test_random_search_keeps_conditions_and_constraints() -> None:
    suggestions = build("random", tunables=CONDITIONAL).ask(200)
    assert all(one.is_feasible for one in suggestions)
    assert all(one["x"] == 0.3 for one in suggestions if one["mode"] == "b" or one["n"] == 3)


def test_one_shot_refuses_what_violates_a_constraint() -> None:
    with pytest.raises(TunableError, match=r"'n \+ k <= 5' to hold, found k=4, n=2"):
        build("oneshot", tunables=CONDITIONAL, options={"values": {"k": 4}})


def test_a_grid_of_no_tunables_is_one_configuration() -> None:
    assert asked_for(build("grid", tunables=TunableGroups({})), 5) == [{}]


def test_one_shot_gives_its_values_once() -> None:
    optimizer = build("oneshot", options={"values": {"n": "3"}})
    assert asked_for(optimizer, 5) == [{"n": 3, "mode": "b"}]
    assert optimizer.ask(5) == []


def test_one_shot_gives_current_values_without_others() -> None:
    assert asked_for(build("oneshot", tunables=SMALL.assign({"n": 1})), 5) == [{"n": 1, "mode": "b"}]


def test_one_shot_refuses_a_bad_value() -> None:
    with pytest.raises(TunableError, match=r"'n'.*7.*\[1, 3\]"):
        build("oneshot", options={"values": {"n": 7}})


def test_a_trial_is_learnt_from_once() -> None:
    optimizer = Learner(tunables=SMALL, objectives=OBJECTIVES)
    config = dict(SMALL)
    succeeded = Status.SUCCEEDED
    optimizer.tell(History([3], [config], [{"score": 1.0}], [succeeded]))
    optimizer.tell(History([3, 1], [config] * 2, [{"score": 1.0}, None], [succeeded, Status.FAILED]))
    optimizer.tell(History([1], [config], [None], [Status.FAILED]))
    assert [history.trial_ids for history in optimizer.histories] == [[3], [1]]
    assert optimizer.histories[1] == History([1], [config], [None], [Status.FAILED])


@pytest.mark.parametrize(
    ("name", "cls"), [("random", RandomSearch), ("grid", GridSearch), ("oneshot", OneShot)]
)
def test_an_optimizer_has_a_short_name_and_a_dotted_path(name: str, cls: type[Optimizer]) -> None:
    assert optimizer_class(name) is cls
    assert optimizer_class(f"{cls.__module__}.{cls.__qualname__}") is cls


def test_a_users_optimizer_is_built_with_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    class MineOptions(Options):
        depth: int = 3

    class Mine(Learner):
        options_class = MineOptions

        def __init__(self, *, depth: int, **given: Any) -> None:
            super().__init__(**given)
            self.depth = depth

    module = ModuleType("users_module")
    module.Mine = Mine  # type: ignore[attr-defined] # a module made for this test
    monkeypatch.setitem(sys.modules, "users_module", module)
    built = build("users_module.Mine", options={"depth": 5}, asked=4)
    assert isinstance(built, Mine)
    assert (built.depth, built.asked, built.seed) == (5, 4, 1)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("randm", ("'randm'", "did you mean 'random'?")),
        ("simplex", ("'simplex'", "known: capacity, cmaes")),
        ("no_such_module.Mine", ("'no_such_module'", "cannot be imported", "ModuleNotFoundError")),
        (".Mine", ("'.Mine'",)),
        ("windtunnel.optimizers.grid.Nothing", ("subclass of Optimizer", "None")),
        ("windtunnel.tunables.TunableGroups", ("subclass of Optimizer", "TunableGroups")),
        ("windtunnel.optimizers.Optimizer", ("concrete",)),
    ],
)
def test_what_is_not_an_optimizer_is_refused(name: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        optimizer_class(name)
    assert caught.value.path == ("name",)
    assert all(part in caught.value.message for part in parts)


@pytest.mark.parametrize(
    ("name", "options", "key", "part"),
    [
        ("grid", {"point": 3}, "point", "did you mean 'points'?"),
        ("grid", {"points": 1}, "points", "1"),
        ("random", {"points": 3}, "points", "unknown key 'points'"),
    ],
)
def test_a_bad_option_is_refused_with_its_place(
    name: str, options: dict[str, Any], key: str, part: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build(name, options=options)
    assert caught.value.path == (key,)
    assert part in caught.value.message
