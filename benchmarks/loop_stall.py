"""How long does the event loop keep others waiting while 500 trials stream telemetry?

500 async trials at once through ``windtunnel.open_scheduler`` into an SQLite file; each emits 10 samples a
second for 10 s, in step with those that began with it, which is the worst. A timer beside them is due every
5 ms; its lag is how long anybody else in the same loop would have waited. One stall makes late all that were
due within it, and each of these counts.

* from the first trial to the last outcome: at most 20 ms of lag for 99 % of the timers

The clock is the wall's, so what other programs take from the machine counts too; the same by the processor
time of all our threads together, as if one ran after the other, tells how much of it is ours. For comparison,
in the same run: a bare asyncio loop in which 500 tasks do nothing but wake 10 times a second and note the
time. One point that is missing in the database fails the benchmark.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import anyio

from _report import TUNABLES, Figure, parser, report, scratch

TRIALS, SAMPLES, PERIOD_S = 500, 100, 0.1
TICK_S = 0.005
BAR_MS = 20


class Emit(Protocol):
    async def __call__(self, metric: str, value: float) -> None: ...


class Lag(NamedTuple):
    """Milliseconds, over all timers.

    :ivar steady_p99: of those that were due while all trials ran; likewise ``steady_worst``.
    :ivar cpu_p99: by the processor's clock; likewise ``cpu_worst``.
    :ivar busy_percent: how much of the time the loop's own thread computes.
    """

    p99: float
    worst: float
    steady_p99: float
    steady_worst: float
    cpu_p99: float
    cpu_worst: float
    busy_percent: float


class Probe:
    """A timer of the running loop that is due every ``TICK_S``, whenever it was served last."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lags: list[tuple[float, float]] = []
        self._cpu_lags: list[float] = []

    def __enter__(self) -> Self:
        self._began_s, self._began_cpu_s = time.perf_counter(), time.thread_time()
        self._served_cpu_s = time.process_time()
        self._due = self._loop.time() + TICK_S
        self._handle = self._loop.call_at(self._due, self._tick)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.cancel()
        busy_s = time.thread_time() - self._began_cpu_s
        self._busy_percent = busy_s / (time.perf_counter() - self._began_s) * 100

    def _tick(self) -> None:
        now, cpu_s = self._loop.time(), time.process_time()
        lag = cpu_s - self._served_cpu_s
        while self._due <= now:  # all that have become due meanwhile
            self._lags.append((self._due, now - self._due))
            self._cpu_lags.append(max(0.0, lag))
            self._due += TICK_S
            lag -= TICK_S
        self._served_cpu_s = cpu_s
        self._handle = self._loop.call_at(self._due, self._tick)

    def lag(self, since: float, until: float) -> Lag:
        """The figures; the steady part is that between the two times of the loop."""
        every = [lag for _, lag in self._lags]
        steady = [lag for due, lag in self._lags if since <= due <= until]
        figures = [f(lags) * 1000 for lags in (every, steady, self._cpu_lags) for f in (_p99, max)]
        figures.append(self._busy_percent)
        return Lag(*figures)


def _p99(lags: Sequence[float]) -> float:
    return statistics.quantiles(lags, n=100)[98]


class Crowd:
    """What the trials have in common: when the last began and the first ended, in the time of the loop."""

    def __init__(self) -> None:
        self.last_began = 0.0
        self.first_ended = float("inf")

    async def stream(self, emit: Emit) -> None:
        loop = asyncio.get_running_loop()
        self.last_began = due = loop.time()
        for number in range(SAMPLES):
            await emit("qps", float(number))
            due += PERIOD_S
            await asyncio.sleep(due - loop.time())
        self.first_ended = min(self.first_ended, loop.time())


async def nothing(params: dict[str, Any]) -> dict[str, Any]:
    return {"score": params["x"]}


async def ours(folder: Path) -> Lag:
    from windtunnel import open_scheduler, tune  # not in the process that compares: it shall be bare

    crowd = Crowd()
    storage = f"sqlite:///{folder / 'stall.db'}"

    async def trial(params: dict[str, Any], emit: Emit) -> dict[str, Any]:
        await crowd.stream(emit)
        return {"score": params["x"]}

    # What is loaded on first use.
    await tune(
        nothing, TUNABLES, objectives={"score": "min"}, trials=1, storage=storage, experiment_id="warm"
    )
    async with open_scheduler(
        trial,
        TUNABLES,
        objectives={"score": "min"},
        trials=TRIALS,
        concurrency=TRIALS,
        seed=1,
        storage=storage,
        experiment_id="stall",
    ) as scheduler:
        with Probe() as probe:
            summary = await scheduler.run()
    if summary.succeeded != TRIALS:
        raise RuntimeError(f"expected {TRIALS} trials that succeed, found {summary}")
    with closing(sqlite3.connect(folder / "stall.db")) as connection:
        (found,) = connection.execute("SELECT count(*) FROM telemetry").fetchone()
    if found != TRIALS * SAMPLES:
        raise RuntimeError(f"expected {TRIALS * SAMPLES} points in the database, found {found}")
    return probe.lag(crowd.last_began, crowd.first_ended)


async def bare(_folder: Path) -> Lag:
    await anyio.sleep(0)  # what is loaded on first use
    crowd = Crowd()
    noted: list[tuple[float, str, float]] = []

    async def note(metric: str, value: float) -> None:
        noted.append((time.time(), metric, value))

    with Probe() as probe:
        async with anyio.create_task_group() as tasks:
            for _ in range(TRIALS):
                tasks.start_soon(crowd.stream, note)
    return probe.lag(crowd.last_began, crowd.first_ended)


CASES = {"ours": ours, "bare_loop": bare}


def in_fresh_process(case: str) -> Lag:
    command = [sys.executable, __file__, "--case", case]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=600)
    return Lag(*json.loads(done.stdout))


def main() -> int:
    options = parser(__doc__, peers=False)
    options.add_argument("--case", choices=CASES, help="measure one case in this process")
    chosen = options.parse_args()
    if chosen.case is not None:
        with scratch() as folder:
            print(json.dumps(asyncio.run(CASES[chosen.case](folder))))
        return 0
    runs = [{case: in_fresh_process(case) for case in CASES} for _ in range(chosen.runs)]
    figures: dict[str, Figure] = {}
    for case in CASES:
        for part in Lag._fields:
            figures[f"{case}_{part}"] = Figure(
                unit="%" if part == "busy_percent" else "ms",
                runs=[getattr(run[case], part) for run in runs],
                bar=("at most", BAR_MS) if (case, part) == ("ours", "p99") else None,
            )
    ratio = statistics.median(run["ours"].p99 / run["bare_loop"].p99 for run in runs)
    return report(__doc__, figures, ratios={"ours_p99 / bare_loop_p99": ratio})


if __name__ == "__main__":
    sys.exit(main())
