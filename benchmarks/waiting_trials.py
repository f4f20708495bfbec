"""How many trials can wait at once, and what memory do they take?

Async trials that wait one second, as a trial that drives a remote system mostly does, all at once, through
``windtunnel.tune`` into an SQLite file. One second is the least it can take. Each case runs in a process of
its own; the memory is the peak resident set of that whole process, interpreter and libraries included.

* 500 trials at once: at most 1.5 s and 120 MB
* 5000 trials at once: at most 3 s and 200 MB

The peer runs 500 trials in as many threads, into a journal file and into SQLite.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from _report import TUNABLES, Bar, Figure, Stopwatch, parser, report, scratch

# Nothing heavy is imported here: a child process inherits the peak resident set of its parent on Linux.

BARS = {500: (1.5, 120), 5000: (3.0, 200)}
"""Trials → seconds and megabytes they may take."""
PEERS = ("journal", "sqlite")
PEER_TRIALS = 500
WAIT_S = 1.0


class Cost(NamedTuple):
    seconds: float
    peak_mb: float


def ours(folder: Path, trials: int) -> Cost:
    from windtunnel import tune

    async def wait(params: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(WAIT_S)
        return {"score": params["x"]}

    with Stopwatch() as watch:
        summary = asyncio.run(
            tune(
                wait,
                TUNABLES,
                objectives={"score": "min"},
                trials=trials,
                concurrency=trials,
                seed=1,
                storage=f"sqlite:///{folder / 'trials.db'}",
                experiment_id="waiting",
            )
        )
    if summary.succeeded != trials:
        raise RuntimeError(f"expected {trials} trials that succeed, found {summary}")
    return Cost(watch.seconds, peak_mb())


def optuna_cost(folder: Path, trials: int, kind: str) -> Cost:
    import time

    import optuna  # only with --peers
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def wait(trial: Any) -> float:
        trial.suggest_categorical("k", ["a", "b"])
        x: float = trial.suggest_float("x", 0, 1)
        time.sleep(WAIT_S)
        return x

    with Stopwatch() as watch:
        storage: Any = f"sqlite:///{folder / 'optuna.db'}"
        if kind == "journal":
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "optuna.log")))
        study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=1))
        study.optimize(wait, n_trials=trials, n_jobs=trials)
    completed = len(study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE]))
    if completed != trials:
        raise RuntimeError(f"expected {trials} trials that complete, found {completed}")
    return Cost(watch.seconds, peak_mb())


def peak_mb() -> float:
    """The peak resident set of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def in_fresh_process(who: str, trials: int) -> Cost:
    done = subprocess.run(
        [sys.executable, __file__, "--case", who, str(trials)],
        stdout=subprocess.PIPE,
        check=True,
        timeout=600,
    )
    return Cost(*json.loads(done.stdout))


def main() -> int:
    options = parser(__doc__)
    options.add_argument(
        "--case", nargs=2, metavar=("WHO", "TRIALS"), help="measure one case in this process"
    )
    chosen = options.parse_args()
    if chosen.case is not None:
        who, trials = chosen.case[0], int(chosen.case[1])
        with scratch() as folder:
            print(json.dumps(ours(folder, trials) if who == "ours" else optuna_cost(folder, trials, who)))
        return 0
    figures: dict[str, Figure] = {}
    for trials, (seconds, megabytes) in BARS.items():
        costs = [in_fresh_process("ours", trials) for _ in range(chosen.runs)]
        figures |= _figures(f"{trials}_at_once", costs, (("at most", seconds), ("at most", megabytes)))
    for kind in PEERS if chosen.peers else ():
        costs = [in_fresh_process(kind, PEER_TRIALS) for _ in range(chosen.runs)]
        figures |= _figures(f"optuna_{kind}_{PEER_TRIALS}_threads", costs)
    return report(__doc__, figures)


def _figures(
    name: str, costs: list[Cost], bars: tuple[Bar | None, Bar | None] = (None, None)
) -> dict[str, Figure]:
    return {
        f"{name}_wall": Figure(unit="s", runs=[cost.seconds for cost in costs], bar=bars[0]),
        f"{name}_peak": Figure(unit="MB", runs=[cost.peak_mb for cost in costs], bar=bars[1]),
    }


if __name__ == "__main__":
    sys.exit(main())
