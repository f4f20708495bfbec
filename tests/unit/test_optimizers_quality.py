"""Engines find better configurations than chance does; ``benchmarks/optimizers.py`` measures all of them."""

from __future__ import annotations

from functools import cache

import pytest

from windtunnel.testing.problems import PROBLEMS, median_best

SEEDS = range(11)


@cache
def by_chance(problem: str) -> float:
    return median_best(PROBLEMS[problem], "random", SEEDS)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", ["tpe", "cmaes"])
def test_engines_that_model_the_space_beat_chance_within_50_trials(name: str, problem: str) -> None:
    assert median_best(PROBLEMS[problem], name, SEEDS) < by_chance(problem)


def test_a_genetic_algorithm_beats_chance_where_few_generations_suffice() -> None:
    assert median_best(PROBLEMS["branin"], "nsga2", SEEDS) < by_chance("branin")


@pytest.mark.parametrize("problem", ["branin", "hartmann6"])
def test_a_local_search_beats_chance_where_steps_lead_on(problem: str) -> None:
    assert median_best(PROBLEMS[problem], "flaml", SEEDS) < by_chance(problem)
