"""How many trials a second can be run when the trials themselves cost nothing?

Async trials that return at once, through ``windtunnel.tune`` with random search, every one durable in an
SQLite file when ``tune`` returns. Measured from the call of ``tune`` to its return, opening and closing the
database included.

* 5000 trials, 8 at once: at least 1500 trials/s
* 20 000 trials, 500 at once: at least 5000 trials/s

The peers run fewer trials, of the same objective over the same space with random search, into SQLite and
into a journal file; each with one worker and with 8 threads.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from _report import TUNABLES, Figure, Stopwatch, parser, report, scratch
from windtunnel import tune

CASES = ((5000, 8, 1500), (20_000, 500, 5000))
"""Trials, concurrency, and the trials a second they must reach."""
PEER_TRIALS = {"sqlite": 200, "journal": 1000}


async def objective(params: dict[str, Any]) -> dict[str, Any]:
    return {"score": params["x"]}


def ours(folder: Path, trials: int, concurrency: int) -> float:
    """Trials a second."""
    with Stopwatch() as watch:
        summary = asyncio.run(
            tune(
                objective,
                TUNABLES,
                objectives={"score": "min"},
                trials=trials,
                concurrency=concurrency,
                seed=1,
                storage=f"sqlite:///{folder / 'trials.db'}",
                experiment_id="noop",
            )
        )
    if summary.succeeded != trials:
        raise RuntimeError(f"expected {trials} trials that succeed, found {summary}")
    return trials / watch.seconds


def optuna_rate(folder: Path, kind: str, jobs: int) -> float:
    """Trials a second of the peer."""
    import optuna  # only with --peers
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trials = PEER_TRIALS[kind]
    with Stopwatch() as watch:
        storage: Any
        if kind == "sqlite":
            storage = f"sqlite:///{folder / 'optuna.db'}"
        else:
            backend = JournalFileBackend(str(folder / "optuna.log"))
            storage = optuna.storages.JournalStorage(backend)
        study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=1))
        study.optimize(_optuna_objective, n_trials=trials, n_jobs=jobs)
    return trials / watch.seconds


def _optuna_objective(trial: Any) -> float:
    trial.suggest_categorical("k", ["a", "b"])
    x: float = trial.suggest_float("x", 0, 1)
    return x


def main() -> int:
    options = parser(__doc__).parse_args()
    runs: dict[str, list[float]] = {}
    for _ in range(options.runs):  # one after the other in every run, so that a slow minute hits all
        for trials, concurrency, _bar in CASES:
            with scratch() as folder:
                runs.setdefault(_name(trials, concurrency), []).append(ours(folder, trials, concurrency))
        for kind in PEER_TRIALS if options.peers else ():
            for jobs in (1, 8):
                with scratch() as folder:
                    runs.setdefault(f"optuna_{kind}_at_{jobs}", []).append(optuna_rate(folder, kind, jobs))
    bars = {_name(trials, concurrency): bar for trials, concurrency, bar in CASES}
    return report(
        __doc__,
        {
            name: Figure(unit="trials/s", runs=rates, bar=("at least", bars[name]) if name in bars else None)
            for name, rates in runs.items()
        },
    )


def _name(trials: int, concurrency: int) -> str:
    return f"{trials}_at_{concurrency}"


if __name__ == "__main__":
    sys.exit(main())
