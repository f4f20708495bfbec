"""What do leases, events and sampling add to a trial that costs nothing?

The no-op trials of ``noop_trials`` through a scheduler into an SQLite file, bare and watched at the same
time, each in a process and on a core of its own: what slows the machine down slows down both. Bare: a lease
so long that no heartbeat comes, nobody listens, and the environment has no status to poll. Watched: a lease
so short that heartbeats come three times a second, a subscriber that reads every event, and an environment
that is polled every second and at the end of each run.

* 5000 trials 8 at once, and 20 000 trials 500 at once: watched takes at most 10 % longer than bare

The one that is through first goes on, unmeasured, until the other is, too. A run is twice that, with the
cores exchanged, since no two are alike, and what it adds the mean of both; the figure is the median of the
runs. Processor time, of the whole process, says how much of it is work. With ``--parts`` leases, events and
sampling are also measured one by one. Needs Linux and two cores.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import anyio

from _report import TUNABLES, Bar, Figure, Stopwatch, parser, report, scratch
from windtunnel import Environment, Host, RunResult, Scheduler, Status, StatusReport
from windtunnel.config.build import assemble
from windtunnel.config.load import LoadedConfig, from_mapping
from windtunnel.events import TrialFinished
from windtunnel.model import utc_now

CASES = ((5000, 8), (20_000, 500))
"""Trials and concurrency."""
BAR_PERCENT = 10
PARTS = ("leases", "events", "sampling")
KINDS = {"bare": frozenset[str](), "watched": frozenset(PARTS)} | {part: frozenset({part}) for part in PARTS}
LONG_LEASE, SHORT_LEASE_S = "1h", 1
LEAST_BEATS = 3
"""A run that is over before so many are due has not shown anything."""


class Cost(NamedTuple):
    wall_s: float
    cpu_s: float


class Pair(NamedTuple):
    """Of what ran at the same time."""

    bare: Cost
    watched: Cost


class Quiet(Environment):
    """Costs nothing and has no status of its own."""

    async def _run(self) -> RunResult:
        return RunResult(Status.SUCCEEDED, utc_now(), {"score": self._params["x"]})


class Polled(Quiet):
    """The same with a status, which therefore is asked for."""

    async def _status(self) -> StatusReport:
        return await super()._status()


# One case


async def measured(folder: Path, parts: frozenset[str], trials: int, concurrency: int) -> Cost:
    loaded = description(folder, parts, trials, concurrency)
    kind = Polled if "sampling" in parts else Quiet

    def make(_host: Host, _runner_id: int) -> Environment:
        return kind(name="no-op", config={}, tunables=loaded.config.tunables)

    began_s = time.process_time()
    with Stopwatch() as watch:
        async with assemble(loaded, make_environment=make) as (scheduler, _):
            await (heard(scheduler, trials) if "events" in parts else unheard(scheduler, trials))
    if "leases" in parts and watch.seconds < (LEAST_BEATS + 1) * SHORT_LEASE_S / 3:
        raise RuntimeError(f"the run of {watch.seconds:.2f} s was too short for {LEAST_BEATS} heartbeats")
    return Cost(watch.seconds, time.process_time() - began_s)


def description(folder: Path, parts: frozenset[str], trials: int, concurrency: int) -> LoadedConfig:
    return from_mapping(
        {
            "experiment": "overhead",
            "objectives": {"score": "min"},
            "trials": trials,
            "concurrency": concurrency,
            "optimizer": {"name": "random", "seed": 1},
            "lease": f"{SHORT_LEASE_S}s" if "leases" in parts else LONG_LEASE,
            "storage": f"sqlite:///{folder / 'trials.db'}",
            "tunables": TUNABLES,
            "environment": {"class": "made here"},
        }
    )


async def unheard(scheduler: Scheduler, trials: int) -> None:
    summary = await scheduler.run()
    if summary.succeeded != trials:
        raise RuntimeError(f"expected {trials} trials that succeed, found {summary}")


async def heard(scheduler: Scheduler, trials: int) -> None:
    events = scheduler.events()
    finished = 0

    async def read() -> None:
        nonlocal finished
        async for event in events:
            finished += isinstance(event, TrialFinished)

    async with anyio.create_task_group() as readers:
        readers.start_soon(read, name="reader")
        await unheard(scheduler, trials)
    if finished != trials or events.dropped:
        raise RuntimeError(f"expected {trials} ends, found {finished}, and {events.dropped} events dropped")


# All cases


def in_process(kind: str, trials: int, concurrency: int, core: int) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--case", kind, str(trials), str(concurrency)]
    return subprocess.Popen(
        ["taskset", "--cpu-list", str(core), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def side_by_side(kind: str, trials: int, concurrency: int, cores: tuple[int, int]) -> Pair:
    """Bare and ``kind`` at the same time."""
    with (
        in_process("bare", trials, concurrency, cores[0]) as bare,
        in_process(kind, trials, concurrency, cores[1]) as watched,
    ):
        costs = [Cost(*json.loads(one.stdout.readline())) for one in (bare, watched) if one.stdout]
        for one in (bare, watched):  # neither alone until both are through
            one.kill()
    return Pair(*costs)


def endlessly(kind: str, trials: int, concurrency: int) -> None:
    """Print what it costs, again and again: nobody reads more than the first."""
    while True:
        with scratch() as folder:
            cost = asyncio.run(measured(folder, KINDS[kind], trials, concurrency))
            print(json.dumps(cost), flush=True)


def main() -> int:
    options = parser(__doc__, runs=3, peers=False)
    options.add_argument("--parts", action="store_true", help="also measure each part on its own")
    options.add_argument(
        "--case", nargs=3, metavar=("KIND", "TRIALS", "CONCURRENCY"), help="measure one case in this process"
    )
    chosen = options.parse_args()
    if chosen.case is not None:
        kind, trials, concurrency = chosen.case
        endlessly(kind, int(trials), int(concurrency))
    kinds = ("watched", *PARTS) if chosen.parts else ("watched",)
    one, another, *_ = sorted(os.sched_getaffinity(0))
    figures: dict[str, Figure] = {}
    for trials, concurrency in CASES:
        for kind in kinds:
            runs = [
                [side_by_side(kind, trials, concurrency, cores) for cores in ((one, another), (another, one))]
                for _ in range(chosen.runs)
            ]
            figures |= _figures(f"{trials}_at_{concurrency}", trials, kind, runs)
    return report(__doc__, figures)


def _figures(name: str, trials: int, kind: str, runs: list[list[Pair]]) -> dict[str, Figure]:
    def mean(of: Callable[[Pair], float]) -> list[float]:
        return [statistics.geometric_mean(of(pair) for pair in pairs) for pairs in runs]

    wall = mean(lambda pair: pair.watched.wall_s / pair.bare.wall_s)
    cpu = mean(lambda pair: pair.watched.cpu_s / pair.bare.cpu_s)
    bar: Bar | None = ("at most", BAR_PERCENT) if kind == "watched" else None
    return {
        f"{name}_beside_{kind}_bare": Figure(unit="trials/s", runs=mean(lambda p: trials / p.bare.wall_s)),
        f"{name}_{kind}": Figure(unit="trials/s", runs=mean(lambda p: trials / p.watched.wall_s)),
        f"{name}_{kind}_adds": Figure(unit="%", runs=[(one - 1) * 100 for one in wall], bar=bar),
        f"{name}_{kind}_adds_cpu": Figure(unit="%", runs=[(one - 1) * 100 for one in cpu]),
    }


if __name__ == "__main__":
    sys.exit(main())
