"""What do optimizers cost and find, against the bare engine?

* asking and telling Optuna's TPE through ours, 10 tunables, trials 1 to 1000: at most 1.15 times the bare one
* the best of 50 trials on Hartmann6, 10 at once instead of one: what that loses (medians of 11 seeds), no
  more than the bare engine loses
* slots idle with TPE, 64 of them and trials of 1 s: at most 5 %
* the first suggestion after 10 000 trials, which the optimizer is told first: at most 1 s

With ``--quality`` instead: the best of 50 trials of every engine that learns and is installed, against chance
(medians of 11 seeds, and of 99 for chance).
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna

import windtunnel
from _report import Figure, Stopwatch, parser, report, scratch
from windtunnel.model import History, Status
from windtunnel.objectives import parse_objectives
from windtunnel.optimizers import Optimizer, make_optimizer
from windtunnel.optimizers.registry import OPTIMIZERS, optimizer_class
from windtunnel.testing.problems import HARTMANN6, PROBLEMS, best_of, median_best
from windtunnel.tunables import TunableGroups

SEEDS = range(11)
SLOTS, TRIAL_S, WAVES = 64, 1.0, 12
OBJECTIVES = parse_objectives({"value": "min"})
FLOATS, INTS, CATEGORIES = range(4), range(3), range(3)
SPACE = TunableGroups(
    {
        "all": {
            "params": {
                **{f"f{i}": {"type": "float", "range": [0, 1], "default": 0.5} for i in FLOATS},
                **{f"i{i}": {"type": "int", "range": [1, 1000], "log": True, "default": 10} for i in INTS},
                **{
                    f"c{i}": {"type": "categorical", "values": list("abcd"), "default": "a"}
                    for i in CATEGORIES
                },
            }
        }
    }
)


def value_of(config: Any) -> float:
    floats = sum((config[f"f{i}"] - 0.3) ** 2 for i in FLOATS)
    return float(floats + sum(abs(config[f"i{i}"] - 50) / 1000 for i in INTS) + (config["c0"] != "b"))


# Cost


def ours(trials: int, seed: int) -> float:
    optimizer = make_optimizer(
        "tpe", tunables=SPACE, objectives=OBJECTIVES, seed=seed, start_with_defaults=False
    )
    spent = 0.0
    for number in range(1, trials + 1):
        with Stopwatch() as asking:
            (config,) = optimizer.ask(1)
        told = result(number, config)
        with Stopwatch() as telling:
            optimizer.tell(told)
        spent += asking.seconds + telling.seconds
    return spent


def result(number: int, config: Any) -> History:
    return History([number], [dict(config)], [{"value": value_of(config)}], [Status.SUCCEEDED])


def bare(trials: int, seed: int) -> float:
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    spent = 0.0
    for _ in range(trials):
        with Stopwatch() as asking:
            trial = study.ask()
            for i in FLOATS:
                trial.suggest_float(f"f{i}", 0, 1)
            for i in INTS:
                trial.suggest_int(f"i{i}", 1, 1000, log=True)
            for i in CATEGORIES:
                trial.suggest_categorical(f"c{i}", list("abcd"))
        value = value_of(trial.params)
        with Stopwatch() as telling:
            study.tell(trial, value)
        spent += asking.seconds + telling.seconds
    return spent


def cost(runs: int, trials: int = 1000) -> dict[str, Figure]:
    pairs: list[tuple[float, float]] = []
    for run in range(runs):
        measures: list[Callable[[int, int], float]] = [ours, bare] if run % 2 == 0 else [bare, ours]
        spent = {measure.__name__: measure(trials, run) for measure in measures}
        pairs.append((spent["ours"], spent["bare"]))
    each_ms = 1000 / trials
    return {
        "ask_tell": Figure(unit="ms a trial", runs=[one * each_ms for one, _ in pairs]),
        "ask_tell_bare": Figure(unit="ms a trial", runs=[one * each_ms for _, one in pairs]),
        "ask_tell_against_bare": Figure(
            unit="times", runs=[one / two for one, two in pairs], bar=("at most", 1.15)
        ),
    }


# What is found with several at once


def bare_best(seed: int, at_once: int, trials: int = 50) -> float:
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    values: list[float] = []
    under_way: list[optuna.Trial] = []
    asked = 0
    while len(values) < trials:
        while len(under_way) < at_once and asked < trials:
            trial = study.ask()
            for i in range(6):
                trial.suggest_float(f"x{i}", 0, 1)
            under_way.append(trial)
            asked += 1
        trial = under_way.pop(0)
        values.append(HARTMANN6.value(trial.params))
        study.tell(trial, values[-1])
    return min(values)


def concurrency() -> dict[str, Figure]:
    best = {
        at_once: [best_of(HARTMANN6, "tpe", seed, at_once=at_once) for seed in SEEDS] for at_once in (1, 10)
    }
    peer = {at_once: [bare_best(seed, at_once) for seed in SEEDS] for at_once in (1, 10)}
    allowed = statistics.median(peer[10]) - statistics.median(peer[1])
    lost = statistics.median(best[10]) - statistics.median(best[1])
    return {
        "best_1_at_once": Figure(unit="", runs=best[1]),
        "best_10_at_once": Figure(unit="", runs=best[10]),
        "best_1_at_once_bare": Figure(unit="", runs=peer[1]),
        "best_10_at_once_bare": Figure(unit="", runs=peer[10]),
        "lost_by_10_at_once": Figure(unit="", runs=[lost], bar=("at most", allowed)),
    }


# Idle slots


async def idle_percent(folder: Path) -> float:
    """How much of the slots' time is not spent in trials, from the first start to the last."""
    spans: list[tuple[float, float]] = []

    async def bench(params: dict[str, Any]) -> dict[str, float]:
        began = time.monotonic()
        await asyncio.sleep(TRIAL_S)
        spans.append((began, time.monotonic()))
        return {"value": value_of(params)}

    summary = await windtunnel.tune(
        bench,
        SPACE,
        objectives={"value": "min"},
        trials=SLOTS * WAVES,
        concurrency=SLOTS,
        optimizer="tpe",
        seed=1,
        storage=f"sqlite:///{folder / 'idle.db'}",
        experiment_id="idle",
    )
    if summary.succeeded != SLOTS * WAVES:
        raise RuntimeError(f"expected {SLOTS * WAVES} trials that succeed, found {summary}")
    first, last = min(began for began, _ in spans), max(began for began, _ in spans)
    busy = sum(min(ended, last) - began for began, ended in spans)
    return 100 * (1 - busy / (SLOTS * (last - first)))


def idle(runs: int) -> dict[str, Figure]:
    found: list[float] = []
    for _ in range(runs):
        with scratch() as folder:
            found.append(asyncio.run(idle_percent(folder)))
    return {"slots_idle": Figure(unit="%", runs=found, bar=("at most", 5))}


# Going on


def resumed(runs: int, trials: int = 10_000) -> dict[str, Figure]:
    drawn = make_optimizer("random", tunables=SPACE, objectives=OBJECTIVES, seed=1).ask(trials)
    scores: list[dict[str, Any] | None] = [{"value": value_of(one)} for one in drawn]
    history = History(
        list(range(1, trials + 1)), [dict(one) for one in drawn], scores, [Status.SUCCEEDED] * trials
    )
    taught, asked = [], []
    for _ in range(runs):
        optimizer: Optimizer = make_optimizer(
            "tpe", tunables=SPACE, objectives=OBJECTIVES, seed=1, asked=trials
        )
        with Stopwatch() as telling:
            optimizer.tell(history)
        with Stopwatch() as asking:
            optimizer.ask(1)
        taught.append(telling.seconds)
        asked.append(asking.seconds)
    return {
        "told_10000": Figure(unit="s", runs=taught),
        "asked_after_10000": Figure(unit="s", runs=asked),
        "told_and_asked": Figure(
            unit="s", runs=[one + two for one, two in zip(taught, asked, strict=True)], bar=("at most", 1)
        ),
    }


# Quality


def quality(engines: list[str]) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for problem_name, problem in PROBLEMS.items():
        chance = median_best(problem, "random", range(99))
        figures[f"{problem_name}_random"] = Figure(unit="", runs=[chance])
        for name in engines:
            found = [best_of(problem, name, seed) for seed in SEEDS]
            figures[f"{problem_name}_{name}"] = Figure(unit="", runs=found, bar=("at most", chance))
    return figures


def main() -> int:
    options = parser(__doc__, runs=3, peers=False)
    options.add_argument(
        "--quality", action="store_true", help="what each engine finds, instead of the costs"
    )
    options.add_argument("--engines", default="", metavar="NAMES", help="of these only, separated by commas")
    options.add_argument("--only", default="", metavar="PART", help="cost, concurrency, idle or resumed")
    chosen = options.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if chosen.quality:
        usual = [
            name
            for name, offer in OPTIMIZERS.items()
            if not offer.missing and name not in ("capacity", "mixed") and optimizer_class(name).learns
        ]
        return report(__doc__, quality(chosen.engines.split(",") if chosen.engines else usual))
    parts: dict[str, Callable[[], dict[str, Figure]]] = {
        "cost": lambda: cost(chosen.runs),
        "concurrency": concurrency,
        "idle": lambda: idle(chosen.runs),
        "resumed": lambda: resumed(chosen.runs),
    }
    figures: dict[str, Figure] = {}
    for name, part in parts.items():
        if chosen.only in ("", name):
            figures |= part()
    return report(__doc__, figures)


if __name__ == "__main__":
    sys.exit(main())
