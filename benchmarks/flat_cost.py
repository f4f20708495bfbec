"""Does a trial cost the same late in a long experiment as early in it?

One experiment of no-op trials in an SQLite file is filled to 1000, 5000, 10 000 and 20 000 trials. At each
of these totals it is resumed for 1000 trials more, 8 at once, and that is timed: opening, finding out where
it stopped, and running. The dearest of the four may cost at most 1.3 times the cheapest, by the medians
over the runs.

The peer does the same on a smaller scale: 100 trials more at 100, 1000 and 2000 trials.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _report import TUNABLES, Figure, Stopwatch, parser, report, scratch
from windtunnel import tune

TOTALS, STEP = (1000, 5000, 10_000, 20_000), 1000
PEER_TOTALS, PEER_STEP = (100, 1000, 2000), 100
BAR = 1.3

Grow = Callable[[int, int], None]
"""Bring the experiment to so many trials, so many at once."""


async def objective(params: dict[str, Any]) -> dict[str, Any]:
    return {"score": params["x"]}


def ours(folder: Path) -> Grow:
    def grow(total: int, concurrency: int) -> None:
        summary = asyncio.run(
            tune(
                objective,
                TUNABLES,
                objectives={"score": "min"},
                trials=total,
                concurrency=concurrency,
                seed=1,
                storage=f"sqlite:///{folder / 'flat.db'}",
                experiment_id="flat",
            )
        )
        if summary.succeeded != total:
            raise RuntimeError(f"expected {total} trials that succeeded, found {summary}")

    return grow


def optuna_study(folder: Path) -> Grow:
    import optuna  # only with --peers

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def peer_objective(trial: Any) -> float:
        trial.suggest_categorical("k", ["a", "b"])
        x: float = trial.suggest_float("x", 0, 1)
        return x

    def grow(total: int, _concurrency: int) -> None:
        study = optuna.create_study(
            study_name="flat",
            storage=f"sqlite:///{folder / 'optuna.db'}",
            sampler=optuna.samplers.RandomSampler(seed=1),
            load_if_exists=True,
        )
        study.optimize(peer_objective, n_trials=total - len(study.get_trials(deepcopy=False)))

    return grow


def costs(grow: Grow, totals: Sequence[int], step: int) -> list[float]:
    """Microseconds a trial at each of ``totals``."""
    found: list[float] = []
    for total in totals:
        grow(total, 500)
        with Stopwatch() as watch:
            grow(total + step, 8)
        found.append(watch.seconds / step * 1e6)
    return found


def figures(prefix: str, totals: Sequence[int], runs: Sequence[Sequence[float]]) -> dict[str, Figure]:
    return {
        f"{prefix}at_{total}": Figure(unit="µs/trial", runs=values)
        for total, values in zip(totals, zip(*runs, strict=True), strict=True)
    }


def growth(runs: Sequence[Sequence[float]]) -> float:
    """How much dearer the dearest total is than the cheapest."""
    medians = [statistics.median(values) for values in zip(*runs, strict=True)]
    ratio: float = max(medians) / min(medians)
    return ratio


def main() -> int:
    options = parser(__doc__).parse_args()
    runs: list[list[float]] = []
    peer_runs: list[list[float]] = []
    for _ in range(options.runs):
        with scratch() as folder:
            runs.append(costs(ours(folder), TOTALS, STEP))
            if options.peers:
                peer_runs.append(costs(optuna_study(folder), PEER_TOTALS, PEER_STEP))
    found = figures("", TOTALS, runs)
    found["dearest_to_cheapest"] = Figure(unit="ratio", runs=[growth(runs)], bar=("at most", BAR))
    if peer_runs:
        found |= figures("optuna_", PEER_TOTALS, peer_runs)
        found["optuna_dearest_to_cheapest"] = Figure(unit="ratio", runs=[growth(peer_runs)])
    return report(__doc__, found)


if __name__ == "__main__":
    sys.exit(main())
