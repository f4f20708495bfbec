"""Functions whose minima are known, to see what an optimizer is worth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from windtunnel.model import History, Status
from windtunnel.objectives import parse_objectives
from windtunnel.optimizers import make_optimizer
from windtunnel.tunables import TunableGroups

__all__ = ["BRANIN", "HARTMANN6", "MIXED", "PROBLEMS", "Problem", "best_of", "median_best"]

Config = Mapping[str, Any]


class Problem(NamedTuple):
    """A function to minimize.

    :ivar least: the value at its minimum.
    """

    space: TunableGroups
    value: Callable[[Config], float]
    least: float


def _branin(config: Config) -> float:
    x, y = config["x"], config["y"]
    valley = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return float(valley**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10)


_HEIGHTS = (1.0, 1.2, 3.0, 3.2)
_WIDTHS = (
    (10, 3, 17, 3.5, 1.7, 8),
    (0.05, 10, 17, 0.1, 8, 14),
    (3, 3.5, 1.7, 10, 17, 8),
    (17, 8, 0.05, 10, 0.1, 14),
)
_PLACES = (
    (1312, 1696, 5569, 124, 8283, 5886),
    (2329, 4135, 8307, 3736, 1004, 9991),
    (2348, 1451, 3522, 2883, 3047, 6650),
    (4047, 8828, 8732, 5743, 1091, 381),
)


def _hartmann6(config: Config) -> float:
    point = [config[f"x{axis}"] for axis in range(6)]
    return -sum(
        height
        * math.exp(
            -sum(
                width * (x - place / 1e4) ** 2 for width, x, place in zip(widths, point, places, strict=True)
            )
        )
        for height, widths, places in zip(_HEIGHTS, _WIDTHS, _PLACES, strict=True)
    )


def _mixed(config: Config) -> float:
    pool = 1.5 if config["pool"] == 0 else abs(math.log(config["pool"] / 40))
    ratio = 0.4 if config["ratio"] == -1 else 1.2 + 4 * (config["ratio"] - 0.6) ** 2
    mode = {"a": 1.0, "b": 0.3, "c": 0.1 * abs(config["depth"] - 7)}[config["mode"]]
    return float(pool + ratio + mode)


def _space(**params: Mapping[str, Any]) -> TunableGroups:
    return TunableGroups({"all": {"params": params}})


BRANIN = Problem(
    _space(
        x={"type": "float", "range": [-5, 10], "default": 2.5},
        y={"type": "float", "range": [0, 15], "default": 7.5},
    ),
    _branin,
    0.397887,
)
"""Two floats, three minima; Branin, 1972."""

HARTMANN6 = Problem(
    _space(**{f"x{axis}": {"type": "float", "range": [0, 1], "default": 0.5} for axis in range(6)}),
    _hartmann6,
    -3.32237,
)
"""Six floats, six minima of which one is deepest; Hartman, 1973."""

MIXED = Problem(
    _space(
        pool={"type": "int", "range": [1, 4096], "log": True, "special": [0], "default": 0},
        ratio={"type": "float", "range": [0, 1], "special": [-1], "default": 0.5},
        mode={"type": "categorical", "values": ["a", "b", "c"], "default": "a"},
        depth={"type": "int", "range": [1, 16], "default": 1},
    ),
    _mixed,
    0.4,
)
"""As systems have them: one special value is best, another is not, one tunable matters in one mode only."""

PROBLEMS: Mapping[str, Problem] = {"branin": BRANIN, "hartmann6": HARTMANN6, "mixed": MIXED}


def best_of(problem: Problem, name: str, seed: int, *, trials: int = 50, at_once: int = 1) -> float:
    """The least value an optimizer finds.

    :param at_once: so many are under way; the oldest of them is the next to be told.
    """
    optimizer = make_optimizer(
        name,
        tunables=problem.space,
        objectives=parse_objectives({"value": "min"}),
        seed=seed,
        start_with_defaults=False,
        planned=trials,
    )
    values: list[float] = []
    under_way = optimizer.ask(min(at_once, trials))
    while under_way:
        config = under_way.pop(0)
        values.append(problem.value(config))
        scores: list[dict[str, Any] | None] = [{"value": values[-1]}]
        optimizer.tell(History([len(values)], [dict(config)], scores, [Status.SUCCEEDED]))
        if len(values) + len(under_way) < trials:
            under_way += optimizer.ask(1)
    return min(values)


def median_best(problem: Problem, name: str, seeds: Iterable[int], **how: int) -> float:
    """The median of ``best_of`` over seeds."""
    return statistics.median(best_of(problem, name, seed, **how) for seed in seeds)
