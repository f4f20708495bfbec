"""What do leases, events and sampling add to a trial that costs nothing?

The no-op trials of ``noop_trials`` through a scheduler into an SQLite file, bare and watched, in turn, each
in a process of its own. Bare: a lease so long that no heartbeat comes, nobody listens, and the environment
has no status to poll. Watched: a lease so short that heartbeats come three times a second, a subscriber that
reads every event, and an environment that is polled every second and at the end of each run.

* 5000 trials 8 at once, and 20 000 trials 500 at once: watched takes at most 10 % longer than bare

Each run compares two neighbours, and every other run measures the watched one first; the figure is the median
of these. Processor time, of the whole process, says how much of it is work. With ``--parts`` leases, events
and sampling are also measured one by one.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import anyio

from _report import TUNABLES, Figure, Stopwatch, parser, report, scratch
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


def in_fresh_process(kind: str, trials: int, concurrency: int) -> Cost:
    command = [sys.executable, __file__, "--case", kind, str(trials), str(concurrency)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=600)
    return Cost(*json.loads(done.stdout))


def side_by_side(kinds: tuple[str, ...], trials: int, concurrency: int) -> dict[str, Cost]:
    """One after the other: a slow minute hits all."""
    return {kind: in_fresh_process(kind, trials, concurrency) for kind in kinds}


def main() -> int:
    options = parser(__doc__, runs=5, peers=False)
    options.add_argument("--parts", action="store_true", help="also measure each part on its own")
    options.add_argument(
        "--case", nargs=3, metavar=("KIND", "TRIALS", "CONCURRENCY"), help="measure one case in this process"
    )
    chosen = options.parse_args()
    if chosen.case is not None:
        kind, trials, concurrency = chosen.case
        with scratch() as folder:
            print(json.dumps(asyncio.run(measured(folder, KINDS[kind], int(trials), int(concurrency)))))
        return 0
    kinds = tuple(KINDS) if chosen.parts else ("bare", "watched")
    figures: dict[str, Figure] = {}
    for trials, concurrency in CASES:
        runs = [
            side_by_side(kinds if number % 2 == 0 else kinds[::-1], trials, concurrency)
            for number in range(chosen.runs)
        ]
        figures |= _figures(f"{trials}_at_{concurrency}", trials, kinds, runs)
    return report(__doc__, figures)


def _figures(
    name: str, trials: int, kinds: tuple[str, ...], runs: list[dict[str, Cost]]
) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for kind in kinds:
        rates = [trials / run[kind].wall_s for run in runs]
        figures[f"{name}_{kind}"] = Figure(unit="trials/s", runs=rates)
        if kind == "bare":
            continue
        wall = [(run[kind].wall_s / run["bare"].wall_s - 1) * 100 for run in runs]
        cpu = [(run[kind].cpu_s / run["bare"].cpu_s - 1) * 100 for run in runs]
        bar = BAR_PERCENT if kind == "watched" else None
        figures[f"{name}_{kind}_adds"] = Figure(
            unit="%", runs=wall, bar=None if bar is None else ("at most", bar)
        )
        figures[f"{name}_{kind}_adds_cpu"] = Figure(unit="%", runs=cpu)
    return figures


if __name__ == "__main__":
    sys.exit(main())
