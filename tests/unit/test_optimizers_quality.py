"""Engines find better configurations than chance does.

Those that learn nothing need not: ``random`` is chance, and ``qmc`` covers the space as evenly as it can.
``gp`` and ``smac`` think too long for this place; ``benchmarks/optimizers.py --quality`` measures them.
"""

from __future__ import annotations

from functools import cache

import pytest

from windtunnel.testing.problems import PROBLEMS, median_best

SEEDS = range(11)
MANY = range(99)
"""Of chance more can be had for the same time, so that it is not luck that is beaten, or missed."""


@cache
def by_chance(problem: str) -> float:
    return median_best(PROBLEMS[problem], "random", MANY)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", ["tpe", "cmaes", "nsga2", "flaml"])
def test_an_engine_beats_chance_within_50_trials(name: str, problem: str) -> None:
    assert median_best(PROBLEMS[problem], name, SEEDS) < by_chance(problem)
