"""Is the command line quick enough to be liked?

Each command in fresh processes, after one that is not counted and fills the disk's cache; the time on the
clock, and the processor's beside it, which a busy machine disturbs less.

* ``windtunnel --help``: at most 0.35 s
* ``windtunnel list`` on an SQLite database with 1000 experiments of 50 trials: at most 0.6 s
* ``windtunnel show`` of one of them: for information
* checking a description of 500 lines, as ``windtunnel validate`` does: at most 0.3 s, once the program is
  loaded; the whole command for information
* ``windtunnel watch --once``, with ``--big`` on an experiment of a million trials: for information
"""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import anyio

from _report import TUNABLES, Bar, Figure, parser, report, scratch
from windtunnel.config.check import check
from windtunnel.config.load import read
from windtunnel.storage import open_storage

PROGRAM = str(Path(sys.executable).with_name("windtunnel"))
BAR_HELP_S, BAR_LIST_S, BAR_VALIDATE_S = 0.35, 0.6, 0.3
EXPERIMENTS, TRIALS, CONFIGURATIONS, LINES, BIG = 1000, 50, 20, 500, 1_000_000


def timed(command: Sequence[str], folder: Path) -> tuple[float, float]:
    """Seconds on the clock and of the processor, the interpreter's start included."""
    before, began = _cpu_of_children(), time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=120, check=False)
    spent = time.perf_counter() - began, _cpu_of_children() - before
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stderr.decode()}")
    return spent


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def fill(file: Path, experiments: int, trials: int) -> None:
    """Experiments made by the program; their trials are put past it: how they came there does not matter."""

    async def begin() -> None:
        async with open_storage(f"sqlite:///{file}") as storage:
            for number in range(experiments):
                async with storage.experiment(
                    experiment_id=f"experiment-{number}", tunables=TUNABLES, opt_targets={"score": "min"}
                ):
                    pass

    anyio.run(begin)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.executemany(
            "INSERT INTO config (id, digest, params) VALUES (?, ?, ?)",
            ((number, f"d{number}", '{"x": 0.5, "k": "a"}') for number in range(1, CONFIGURATIONS + 1)),
        )
        rows = (
            (experiment, number, number % CONFIGURATIONS + 1, '{"score": 1}', 1.0 / number)
            for experiment in range(1, experiments + 1)
            for number in range(1, trials + 1)
        )
        connection.executemany(
            "INSERT INTO trial (experiment, trial_id, config_id, status, priority, attempt, token, "
            "not_before_us, created_us, started_us, ended_us, host, metrics, score) "
            "VALUES (?, ?, ?, 4, 0, 1, 1, 0, 0, 0, 1, 'localhost', ?, ?)",
            rows,
        )


def description() -> str:
    """A file of 500 lines, most of them tunables and environments, as long files are."""
    head = ["experiment: long", "objectives: {score: min}", "trials: 10", "tunables:"]
    body: list[str] = []
    for group in range(20):
        body += [f"  g{group}:", "    params:"]
        body += [f"      t{group}_{one}: {{type: int, range: [1, 64], default: 4}}" for one in range(10)]
    body += ["environment:", "  class: CompositeEnv", "  config:", "    children:"]
    child = 0
    while len(head) + len(body) + 6 <= LINES:
        body += [
            "      - class: MockEnv",
            f"        name: mock-{child}",
            "        config:",
            f"          tunable_params: [g{child % 20}]",
            f"          const_args: {{rows{child}: {child}}}",
            "          mock_env_seed: 1",
        ]
        child += 1
    return "\n".join([*head, *body]) + "\n"


def validated(file: Path) -> tuple[float, float]:
    """Seconds on the clock and of the processor."""
    began, before = time.perf_counter(), time.process_time()
    checked = check(*read(file))
    spent = time.perf_counter() - began, time.process_time() - before
    if checked.mistakes:
        sys.exit(str(checked.mistakes[0]))
    return spent


def main() -> int:
    options = parser(__doc__, runs=7, peers=False)
    options.add_argument("--big", action="store_true", help="also watch an experiment of a million trials")
    chosen = options.parse_args()
    figures: dict[str, Figure] = {}
    os.environ.pop("PYTHONPATH", None)

    def measured(name: str, command: Sequence[str], folder: Path, bar_s: float | None = None) -> None:
        runs = [timed([PROGRAM, *command], folder) for _ in range(chosen.runs + 1)][1:]
        bar: Bar | None = None if bar_s is None else ("at most", bar_s)
        figures[name] = Figure(unit="s", runs=[wall for wall, _ in runs], bar=bar)
        figures[f"{name}_cpu"] = Figure(unit="s", runs=[cpu for _, cpu in runs])

    with scratch() as folder:
        measured("help", ["--help"], folder, BAR_HELP_S)
        fill(folder / "windtunnel.db", EXPERIMENTS, TRIALS)
        measured("list", ["list"], folder, BAR_LIST_S)
        measured("show", ["show", "experiment-7"], folder)
        file = folder / "long.yaml"
        file.write_text(description())
        validated(file)
        seconds = [validated(file) for _ in range(chosen.runs)]
        walls, cpus = [wall for wall, _ in seconds], [cpu for _, cpu in seconds]
        figures["validate"] = Figure(unit="s", runs=walls, bar=("at most", BAR_VALIDATE_S))
        figures["validate_cpu"] = Figure(unit="s", runs=cpus)
        measured("validate_command", ["validate", "long.yaml"], folder)
        if chosen.big:
            fill(folder / "big.db", 1, BIG)
            watch = ["watch", "experiment-0", "--once", "--storage", "sqlite:///big.db"]
            measured("watch_million", watch, folder)
    return report(__doc__, figures)


if __name__ == "__main__":
    sys.exit(main())
