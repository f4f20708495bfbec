"""The engines of other libraries keep the contract, and what is particular about each."""

from __future__ import annotations

import itertools
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from windtunnel.cli.main import make_app
from windtunnel.cli.optimizers import offers
from windtunnel.config import from_mapping
from windtunnel.config.build import make_parts
from windtunnel.errors import ConfigError, TunableError
from windtunnel.model import History, Status
from windtunnel.objectives import parse_objectives
from windtunnel.optimizers import Optimizer, make_optimizer, registry
from windtunnel.optimizers.mixed import Mixed
from windtunnel.optimizers.registry import OPTIMIZERS
from windtunnel.testing.optimizers import OptimizerContract, OptimizerFactory
from windtunnel.tunables import TunableGroups

OBJECTIVES = parse_objectives({"score": "min"})
SPACE = TunableGroups(
    {
        "g": {
            "params": {
                "x": {"type": "float", "range": [0, 1], "default": 0.5},
                "k": {"type": "categorical", "values": ["a", "b"], "default": "a"},
            }
        }
    }
)


class TestTPE(OptimizerContract):
    @pytest.fixture
    def make(self) -> OptimizerFactory:
        return partial(make_optimizer, "tpe")


class TestCMAES(OptimizerContract):
    @pytest.fixture
    def make(self) -> OptimizerFactory:
        return partial(make_optimizer, "cmaes")


class TestNSGA2(OptimizerContract):
    @pytest.fixture
    def make(self) -> OptimizerFactory:
        return partial(make_optimizer, "nsga2", options={"population": 8})


@pytest.mark.skipif(bool(OPTIMIZERS["gp"].missing), reason="needs PyTorch: pip install 'windtunnel[gp]'")
class TestGP(OptimizerContract):
    budget = 15
    results = 0

    @pytest.fixture
    def make(self) -> OptimizerFactory:
        import torch

        torch.set_num_threads(1)  # the other processors have tests of their own
        return partial(make_optimizer, "gp")

    def test_its_model_does_not_repeat_what_is_under_way(
        self, make: OptimizerFactory, space: TunableGroups
    ) -> None:
        optimizer = make(tunables=space, objectives=OBJECTIVES, seed=5)
        given = optimizer.ask(11)
        scores: list[dict[str, Any] | None] = [{"score": float(one["ratio"])} for one in given]
        statuses = [Status.SUCCEEDED] * 11
        optimizer.tell(History(list(range(11)), [dict(one) for one in given], scores, statuses))
        given += [one for _ in range(12) for one in optimizer.ask(1)]
        assert len(set(given)) == len(given)


@pytest.mark.skipif(bool(OPTIMIZERS["smac"].missing), reason="needs SMAC: pip install 'windtunnel[smac]'")
@pytest.mark.filterwarnings("ignore::RuntimeWarning:numpy")  # SMAC takes means of nothing for its log
class TestSMAC(OptimizerContract):
    budget = 15

    @pytest.fixture
    def make(self) -> OptimizerFactory:
        return partial(make_optimizer, "smac", options={"startup": 4, "retrain": 8, "challengers": 100})


class TestFLAML(OptimizerContract):
    @pytest.fixture
    def make(self) -> OptimizerFactory:
        return partial(make_optimizer, "flaml")


class TestQuasiRandom(OptimizerContract):
    @pytest.fixture
    def make(self) -> OptimizerFactory:
        return partial(make_optimizer, "qmc")


class TestMixed(OptimizerContract):
    @pytest.fixture
    def make(self) -> OptimizerFactory:
        members: list[Any] = [
            {"name": "qmc", "trials": 4},
            {"name": "tpe", "startup": 6},
            {"name": "random", "share": 0.25},
        ]
        return partial(make_optimizer, "mixed", options={"members": members})

    @pytest.mark.skip(reason="members that do not learn know of what they proposed themselves, and no more")
    def test_fifty_in_a_row_are_fifty_configurations_of_sixty_four(self) -> None:  # type: ignore[override]
        raise NotImplementedError


# What there is, and what is told of it


def _in_readme() -> dict[str, list[str]]:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    section = text.partition("## Optimizers\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[1:] for row in rows}


def test_the_readme_tells_of_every_optimizer_what_the_command_tells() -> None:
    told = _in_readme()
    assert told.keys() == OPTIMIZERS.keys()
    for one in offers():
        purpose, options, needs = told[one["name"]]
        assert purpose == one["purpose"]
        assert needs.strip("`") == (one["install"] or "nothing")
        if one["options"] is not None:
            assert options == (", ".join(map(_as_told, one["options"])) or "none")


def _as_told(option: dict[str, Any]) -> str:
    default = option["default"]
    if default in (None, {}):
        return f"`{option['name']}`"
    return f"`{option['name']}: {default if isinstance(default, str) else json.dumps(default)}`"


def test_the_command_tells_people_and_programs() -> None:
    runner = CliRunner()
    for_people = runner.invoke(make_app(), ["optimizers"])
    for_programs = runner.invoke(make_app(), ["optimizers", "--json"])
    assert for_people.exit_code == for_programs.exit_code == 0
    assert "startup=10" in for_people.stdout
    assert [one["name"] for one in json.loads(for_programs.stdout)] == list(OPTIMIZERS)


def test_what_is_not_installed_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    without = {
        name: offer._replace(needs=(*offer.needs, "no_such_module")) for name, offer in OPTIMIZERS.items()
    }
    monkeypatch.setattr(registry, "OPTIMIZERS", without)
    with pytest.raises(ConfigError, match=r"'tpe' needs no_such_module.*pip install 'windtunnel\[optuna\]'"):
        make_optimizer("tpe", tunables=SPACE, objectives=OBJECTIVES)
    name, reason = registry.default_optimizer()
    assert (name, "windtunnel[optuna]" in reason) == ("random", True)


# Particulars


def test_weights_shape_the_points_of_a_sequence() -> None:
    params = {
        "x": {"type": "float", "range": [0, 1], "default": 0.5},
        "mode": {"type": "categorical", "values": ["a", "b"], "values_weights": [3, 1], "default": "a"},
        "limit": {
            "type": "int",
            "range": [1, 9],
            "special": [-1],
            "special_weights": [1],
            "range_weight": 3,
            "default": 1,
        },
    }
    space = TunableGroups({"g": {"params": params}})
    given = make_optimizer(
        "qmc", tunables=space, objectives=OBJECTIVES, seed=1, start_with_defaults=False
    ).ask(128)
    assert sum(one["mode"] == "a" for one in given) == pytest.approx(96, abs=2)
    assert sum(one["limit"] == -1 for one in given) == pytest.approx(32, abs=2)


def test_manual_goes_through_its_values_again_and_again() -> None:
    given: dict[str, Any] = {"tunables": SPACE, "objectives": OBJECTIVES, "seed": 1}
    values = [{"x": 0.25}, {"x": 0.75, "k": "b"}]
    forever = make_optimizer("manual", options={"values": values}, **given)
    assert [one["x"] for one in forever.ask(5)] == [0.25, 0.75, 0.25, 0.75, 0.25]
    twice = make_optimizer("manual", options={"values": values, "cycles": 2}, asked=3, **given)
    assert [dict(one) for one in twice.ask(5)] == [{"x": 0.75, "k": "b"}]
    with pytest.raises(TunableError, match="7"):
        make_optimizer("manual", options={"values": [{"x": 7}]}, **given)


@pytest.mark.parametrize("name", ["random", "grid", "qmc", "tpe"])
def test_the_defaults_and_given_configurations_come_first(name: str) -> None:
    given: dict[str, Any] = {"tunables": SPACE, "objectives": OBJECTIVES, "seed": 1}
    first: list[dict[str, Any]] = [{"x": 0.0}, {"k": "b"}, {"x": 0.0}]
    whole = make_optimizer(name, start_with=first, **given).ask(8)
    assert [dict(one) for one in whole[:3]] == [
        {"x": 0.5, "k": "a"},
        {"x": 0.0, "k": "a"},
        {"x": 0.5, "k": "b"},
    ]
    assert not set(whole[:3]) & set(whole[3:])
    if name != "tpe":
        assert make_optimizer(name, start_with=first, asked=2, **given).ask(6) == whole[2:]


@pytest.mark.skipif(bool(OPTIMIZERS["smac"].missing), reason="needs SMAC: pip install 'windtunnel[smac]'")
def test_smac_hears_what_became_of_a_trial_and_models_results_alone() -> None:
    from smac.runhistory import StatusType

    from windtunnel.optimizers.smac import SMAC

    optimizer = SMAC(tunables=SPACE, objectives=OBJECTIVES, seed=1)
    asked = [dict(one) for one in optimizer.ask(4)]
    statuses = [Status.TIMED_OUT, Status.FAILED, Status.CANCELED, Status.SUCCEEDED]
    optimizer.tell(History([1, 2, 3, 4], asked, [None, None, {"score": 9.0}, {"score": 0.5}], statuses))
    told = [value.status for value in optimizer._facade.runhistory.values()]
    assert told == [StatusType.TIMEOUT, StatusType.CRASHED, StatusType.CRASHED, StatusType.SUCCESS]
    _, costs = optimizer._facade._runhistory_encoder.transform()
    assert costs.shape == (1, 1)


@pytest.mark.parametrize(("planned", "population"), [(None, 16), (20, 4), (50, 5), (200, 20), (5000, 50)])
def test_generations_are_a_tenth_of_the_trials(planned: int | None, population: int) -> None:
    from windtunnel.optimizers.optuna import NSGA2

    given: dict[str, Any] = {"tunables": SPACE, "objectives": OBJECTIVES, "planned": planned}
    assert NSGA2(**given).population == population
    assert NSGA2(population=7, **given).population == 7


def test_an_optimizer_knows_how_many_configurations_are_planned() -> None:
    loaded = from_mapping(
        {
            "experiment": "e",
            "tunables": SPACE.definition(),
            "objectives": {"score": "min"},
            "environment": {"class": "MockEnv"},
            "optimizer": [{"name": "tpe", "trials": 9}, {"name": "nsga2"}],
            "trials": 31,
            "repeats": 2,
        }
    )
    mixed = make_parts(loaded).optimizer
    assert isinstance(mixed, Mixed)
    assert [mixed.planned, *(one.planned for one in mixed._members)] == [16, 9, 16]


def test_steps_lead_away_from_a_special_value() -> None:
    params = {"n": {"type": "int", "range": [1, 1000], "log": True, "special": [0], "default": 0}}
    space = TunableGroups({"g": {"params": params}})
    optimizer = make_optimizer("flaml", tunables=space, objectives=OBJECTIVES, seed=1, options={"startup": 1})
    found = []
    for number in range(20):  # 0 is better than what is next to it on any axis, but not than 50
        (one,) = optimizer.ask(1)
        found.append(abs(math.log(float(one["n"]) / 50)) if one["n"] else 1.0)
        optimizer.tell(History([number], [dict(one)], [{"score": found[-1]}], [Status.SUCCEEDED]))
    assert found[0] == 1.0
    assert min(found) < 0.5


# Mixed


def _mixed(members: list[Any], **given: Any) -> Optimizer:
    options: dict[str, Any] = {"members": members}
    return make_optimizer(
        "mixed", **{"tunables": SPACE, "objectives": OBJECTIVES, "seed": 4, "options": options, **given}
    )


def test_phases_come_in_turn_and_shares_are_kept() -> None:
    manual = [{"x": i / 100} for i in range(1, 100)]
    members = [
        {"name": "grid", "points": 2, "trials": 4},
        {"name": "manual", "values": manual, "share": 0.25},
        {"name": "random"},
    ]
    given = _mixed(members, start_with_defaults=False).ask(44)
    assert [(one["x"], one["k"]) for one in given[:4]] == [(0.0, "a"), (0.0, "b"), (1.0, "a"), (1.0, "b")]
    places = [place for place, one in enumerate(given[4:]) if dict(one) == {"x": one["x"], "k": "a"}]
    chosen = [place for place in places if round(float(given[4 + place]["x"]), 2) == given[4 + place]["x"]]
    assert len(chosen) == 10
    assert {later - sooner for sooner, later in itertools.pairwise(chosen)} == {4}


@pytest.mark.parametrize("asked", [1, 3, 9, 17])
def test_a_mixed_one_goes_on_where_it_was(asked: int) -> None:
    members: list[Any] = [
        {"name": "grid", "points": 2, "trials": 9},  # it has four
        {"name": "qmc", "share": 0.5},
        {"name": "random", "share": 0.5},
    ]
    assert _mixed(members, asked=asked).ask(20 - asked) == _mixed(members).ask(20)[asked:]


def test_all_learn_from_all() -> None:
    optimizer = _mixed([{"name": "random", "trials": 12}, {"name": "tpe", "startup": 5}])
    asked = optimizer.ask(13)
    scores: list[dict[str, Any] | None] = [{"score": (float(one["x"]) - 0.8) ** 2} for one in asked]
    ids = list(range(1, 14))
    optimizer.tell(History(ids, [dict(one) for one in asked], scores, [Status.SUCCEEDED] * 13))
    near = [one for one in optimizer.ask(10) if abs(float(one["x"]) - 0.8) < 0.3]
    assert len(near) >= 6, "it knows where the random ones were good"


@pytest.mark.parametrize(
    ("members", "path", "part"),
    [
        ([{"name": "grid", "points": 1}], ("members", 0, "points"), "at least 2"),
        ([{"name": "random", "share": 0.5}], ("members",), "found 0.5"),
        ([{"name": "random", "share": 0.7}, {"name": "qmc", "share": 0.7}], ("members",), "found 1.4"),
        ([{"name": "random", "share": 1}, {"name": "qmc"}], ("members",), "less than 1"),
        ([{"name": "random", "share": 0.5, "trials": 3}], ("members", 0), "not both"),
        ([{"name": "gird"}], ("members", 0, "name"), "did you mean 'grid'?"),
    ],
)
def test_a_mistake_in_a_mixture_is_told_with_its_place(
    members: list[Any], path: tuple[str | int, ...], part: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        _mixed(members)
    assert caught.value.path == path
    assert part in caught.value.message
