"""How many queued trials a second do processes share out, and how soon is a long queue's head read?

* 1000 queued trials, drained by 4 processes of 8 workers each, on one SQLite file and on PostgreSQL: at least
  500 trials/s, and no trial is claimed twice, lost or met with an error. A worker claims one trial, finishes
  it at once and claims the next, until there is none. All processes have the database open when the start is
  signalled; measured from the first claim to the last completion.
* ``pending_trials`` with 100 000 waiting, each with a configuration of its own, on an SQLite file: the first
  after at most 20 ms, in a new process that has read nothing; then memory grows by no more than 5 MB from the
  10 000th trial, when all caches are full, to the last.

PostgreSQL is started for this, as it is configured by default, on a Unix socket.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import psutil

from _report import Figure, Stopwatch, parser, report, scratch
from _servers import postgresql
from windtunnel import Experiment, NewTrial, RunResult, Status, StorageError, TunableGroups, open_storage

TRIALS, PROCESSES, WORKERS = 1000, 4, 8
PENDING, AT_ONCE, WARM, SAMPLED = 100_000, 10_000, 10_000, 1000
DRAIN_BAR, FIRST_BAR_MS, GROWTH_BAR_MB = 500, 20, 5
FAULTS = ("doubles", "lost", "errors")
SPACE = TunableGroups({"g": {"params": {"x": {"type": "float", "range": [0, 1], "default": 0.5}}}})


async def enqueue(url: str, count: int) -> None:
    async with (
        open_storage(url) as storage,
        storage.experiment(experiment_id="queue", tunables=SPACE, opt_targets={"score": "min"}) as experiment,
    ):
        for start in range(0, count, AT_ONCE):
            values = (i / count for i in range(start, min(start + AT_ONCE, count)))
            await experiment.add_trials([NewTrial(tunables=SPACE.assign({"x": x})) for x in values])


# Draining


async def drain(url: str) -> dict[str, Any]:
    """One process: its workers begin when a line comes in. All processes share the clock."""
    claimed: list[int] = []
    errors: list[str] = []
    async with open_storage(url) as storage:
        experiment = await storage.open_experiment("queue")
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        began = time.monotonic()
        async with anyio.create_task_group() as workers:
            for number in range(WORKERS):
                workers.start_soon(work, experiment, f"{os.getpid()}-{number}", claimed, errors)
        ended = time.monotonic()
    return {"began": began, "ended": ended, "claimed": claimed, "errors": errors}


async def work(experiment: Experiment, owner: str, claimed: list[int], errors: list[str]) -> None:
    try:
        while trials := await experiment.claim(owner, limit=1, lease=timedelta(minutes=1)):
            for trial in trials:
                claimed.append(trial.trial_id)
                await experiment.finish(
                    trial, RunResult(Status.SUCCEEDED, datetime.now(UTC), {"score": float(trial.trial_id)})
                )
    except StorageError as exc:
        errors.append(str(exc))


def drained(url: str) -> dict[str, float]:
    """Trials a second of all processes, and what went wrong."""
    asyncio.run(enqueue(url, TRIALS))
    with ExitStack() as stack:
        processes = [stack.enter_context(started("drain", url)) for _ in range(PROCESSES)]
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()  # ready
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        told = [json.loads(process.communicate()[0]) for process in processes]
    claimed = [trial_id for one in told for trial_id in one["claimed"]]
    seconds = max(one["ended"] for one in told) - min(one["began"] for one in told)
    return {
        "rate": TRIALS / seconds,
        "doubles": len(claimed) - len(set(claimed)),
        "lost": TRIALS - asyncio.run(succeeded(url)),
        "errors": sum(len(one["errors"]) for one in told),
    }


async def succeeded(url: str) -> int:
    """How many trials have the outcome that their worker gave them, at their first attempt."""
    async with open_storage(url) as storage:
        experiment = await storage.open_experiment("queue")
        return len(
            [
                one
                async for one in experiment.trials()
                if one.status is Status.SUCCEEDED
                and one.attempt == 1
                and one.metrics == {"score": float(one.trial_id)}
            ]
        )


# The head of a long queue


async def head(url: str) -> dict[str, float]:
    """Milliseconds to the first waiting trial, and by how many MB memory grows until and after ``WARM``."""
    async with open_storage(url) as storage:
        experiment = await storage.open_experiment("queue")
        now = datetime.now(UTC)
        with Stopwatch() as watch:
            await anext(experiment.pending_trials(now, running=False))
        memory = [resident_mb()]
        seen = 0
        async for _ in experiment.pending_trials(now, running=False):
            seen += 1
            if seen % SAMPLED == 0:
                memory.append(resident_mb())
    if seen != PENDING:
        raise RuntimeError(f"expected {PENDING} waiting trials, found {seen}")
    warm = memory[WARM // SAMPLED]
    growth = max(memory[WARM // SAMPLED :]) - warm
    return {"first_ms": watch.seconds * 1000, "growth_mb": growth, "caches_mb": warm - memory[0]}


def resident_mb() -> float:
    rss: int = psutil.Process().memory_info().rss
    return rss / 1024**2


def headed(url: str) -> dict[str, float]:
    with started("head", url) as process:
        facts: dict[str, float] = json.loads(process.communicate()[0])
    return facts


PARTS = {"drain": drain, "head": head}


def started(part: str, url: str) -> subprocess.Popen[str]:
    """A part of the measurement in a process of its own."""
    command = [sys.executable, __file__, part, url]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def main() -> int:
    if len(sys.argv) == 3 and sys.argv[1] in PARTS:
        print(json.dumps(asyncio.run(PARTS[sys.argv[1]](sys.argv[2]))))
        return 0
    options = parser(__doc__, peers=False).parse_args()
    drains: dict[str, list[dict[str, float]]] = {"sqlite": [], "postgresql": []}
    for _ in range(options.runs):  # one after the other in every run, so that a slow minute hits all
        with scratch() as folder:
            drains["sqlite"].append(drained(f"sqlite:///{folder / 'queue.db'}"))
        with postgresql() as url:
            drains["postgresql"].append(drained(url))
    with scratch() as folder:
        long = f"sqlite:///{folder / 'long.db'}"
        asyncio.run(enqueue(long, PENDING))
        heads = [headed(long) for _ in range(options.runs)]
    figures: dict[str, Figure] = {}
    for kind, runs in drains.items():
        rates = [run["rate"] for run in runs]
        figures[f"{kind}_drained"] = Figure(unit="trials/s", runs=rates, bar=("at least", DRAIN_BAR))
        for fault in FAULTS:
            total = [sum(run[fault] for run in runs)]
            figures[f"{kind}_{fault}"] = Figure(unit="trials", runs=total, bar=("at most", 0))
    for name, unit, bar in (
        ("first_ms", "ms", FIRST_BAR_MS),
        ("growth_mb", "MB", GROWTH_BAR_MB),
        ("caches_mb", "MB", None),
    ):
        measured = [run[name] for run in heads]
        figures[name] = Figure(unit=unit, runs=measured, bar=None if bar is None else ("at most", bar))
    return report(__doc__, figures)


if __name__ == "__main__":
    sys.exit(main())
