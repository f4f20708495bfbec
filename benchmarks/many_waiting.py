"""What memory do 10 000 waiting trials take, and are their leases renewed in time?

10 000 async trials that wait 25 s, as a trial that drives a remote system mostly does, all at once in one
process, through ``windtunnel.open_scheduler`` into an SQLite file. Their lease is 10 s, so a heartbeat is due
every 3.3 s. Five times a second the age of the last one is looked at; at 6.7 s trials would be cancelled.

* the peak resident set of the whole process, interpreter and libraries included: at most 400 MB
* the age of the last heartbeat: at most 4.3 s, which is one second more than the period
* trials lost or begun twice: none

For comparison, in the same run: 10 000 bare asyncio tasks that wait as long. Each case runs in a process of
its own.
"""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from _report import TUNABLES, Bar, Figure, Stopwatch, parser, report, scratch

if TYPE_CHECKING:
    from windtunnel import Scheduler

# Nothing heavy is imported here: a child process inherits the peak resident set of its parent on Linux.

TRIALS, WAIT_S, LEASE_S = 10_000, 25.0, 10.0
LOOK_S = 0.2
BARS: dict[str, float] = {"peak_mb": 400, "beat_age_s": LEASE_S / 3 + 1, "lost": 0, "begun_twice": 0}
UNITS = {"mb": "MB", "s": "s", "kb": "KB"}


class Cost(NamedTuple):
    """What one case took.

    :ivar added_mb: the peak less what was resident before the first trial was made.
    :ivar all_wait_s: from the start until all trials waited at once.
    :ivar beat_age_s: the greatest age of the last heartbeat that was seen.
    """

    peak_mb: float
    added_mb: float
    wall_s: float
    cpu_s: float
    all_wait_s: float
    beat_age_s: float = 0
    lost: int = 0
    begun_twice: int = 0


class Watcher:
    """Looks at a scheduler's snapshot while it runs."""

    def __init__(self) -> None:
        self.beat_age_s = 0.0
        self.lost = 0

    async def run(self, scheduler: Scheduler) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            snapshot = scheduler.snapshot()
            self.beat_age_s = max(self.beat_age_s, snapshot.heartbeat_age_s or 0)
            self.lost = snapshot.lost


class Trials:
    """Wait, and note when the last of them began to."""

    def __init__(self) -> None:
        self.began = 0
        self._since = time.perf_counter()
        self.all_wait_s = float("inf")

    async def wait(self) -> None:
        self.began += 1
        if self.began == TRIALS:
            self.all_wait_s = time.perf_counter() - self._since
        await asyncio.sleep(WAIT_S)


async def ours(folder: Path) -> Cost:
    from datetime import timedelta

    from anyio import create_task_group

    from windtunnel import open_scheduler

    async def wait(params: dict[str, Any]) -> dict[str, Any]:
        await trials.wait()
        return {"score": params["x"]}

    watcher = Watcher()
    async with (
        open_scheduler(
            wait,
            TUNABLES,
            objectives={"score": "min"},
            trials=TRIALS,
            concurrency=TRIALS,
            seed=1,
            lease=timedelta(seconds=LEASE_S),
            storage=f"sqlite:///{folder / 'trials.db'}",
            experiment_id="many",
        ) as scheduler,
        create_task_group() as watchers,
    ):
        watchers.start_soon(watcher.run, scheduler, name="watcher")
        base_mb, trials = resident_mb(), Trials()
        with Stopwatch() as watch:
            summary = await scheduler.run()
        watchers.cancel_scope.cancel()
    lost = max(watcher.lost, scheduler.snapshot().lost)
    if summary.succeeded != TRIALS:
        raise RuntimeError(f"expected {TRIALS} trials that succeed, found {summary}; {lost} were lost")
    return _cost(base_mb, watch, trials)._replace(
        beat_age_s=watcher.beat_age_s, lost=lost, begun_twice=trials.began - TRIALS
    )


async def bare(_folder: Path) -> Cost:
    base_mb, trials = resident_mb(), Trials()
    with Stopwatch() as watch:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(TRIALS):
                tasks.create_task(trials.wait())
    return _cost(base_mb, watch, trials)


def _cost(base_mb: float, watch: Stopwatch, trials: Trials) -> Cost:
    peak = peak_mb()
    return Cost(peak, peak - base_mb, watch.seconds, time.process_time(), trials.all_wait_s)


def peak_mb() -> float:
    """The peak resident set of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def resident_mb() -> float:
    import psutil

    rss: int = psutil.Process().memory_info().rss
    return rss / 2**20


CASES = {"windtunnel": ours, "bare_tasks": bare}


def in_fresh_process(case: str) -> Cost:
    command = [sys.executable, __file__, "--case", case]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=600)
    return Cost(*json.loads(done.stdout))


def main() -> int:
    options = parser(__doc__, peers=False)
    options.add_argument("--case", choices=CASES, help="measure one case in this process")
    chosen = options.parse_args()
    if chosen.case is not None:
        with scratch() as folder:
            print(json.dumps(asyncio.run(CASES[chosen.case](folder))))
        return 0
    costs = {case: [in_fresh_process(case) for _ in range(chosen.runs)] for case in CASES}
    figures = {
        f"{case}_{part}": _figure(case, part, [getattr(cost, part) for cost in costs[case]])
        for case in CASES
        for part in Cost._fields
        if case == "windtunnel" or part in Cost._fields[:5]
    }
    ours_mb, bare_mb = (statistics.median(cost.added_mb for cost in costs[case]) for case in CASES)
    return report(__doc__, figures, ratios={"added_mb: windtunnel / bare_tasks": ours_mb / bare_mb})


def _figure(case: str, part: str, runs: list[float]) -> Figure:
    bar: Bar | None = ("at most", BARS[part]) if case == "windtunnel" and part in BARS else None
    unit = UNITS.get(part.rpartition("_")[2], "trials")
    return Figure(unit=unit, runs=runs, bar=bar)


if __name__ == "__main__":
    sys.exit(main())
