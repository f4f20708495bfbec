"""How many points of telemetry a second can running trials record without losing one?

32 trials at once ``await emit(...)`` one million points as fast as they are let, through
``windtunnel.tune`` into an SQLite file. Measured from the call of ``tune`` to its return, when all are
durable. Then the points are counted in the database; one that is missing fails the benchmark. At least 100
000 points/s.

For comparison, in the same run: rows of the same table written by bare ``sqlite3`` in transactions of 10
000. The peer reports fewer points, one trial after the other, which is its fastest, through
``trial.report`` into SQLite.
"""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import statistics
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from _report import TUNABLES, Figure, Stopwatch, parser, report, scratch
from windtunnel import tune

TRIALS = 32
POINTS = 1_000_000
BAR = 100_000
RAW_POINTS = 200_000
RAW_BATCH = 10_000
PEER_TRIALS, PEER_POINTS = 4, 200


class Emit(Protocol):
    async def __call__(self, metric: str, value: float) -> None: ...


async def chatter(params: dict[str, Any], emit: Emit) -> dict[str, Any]:
    for i in range(POINTS // TRIALS):
        await emit("qps", float(i))
    return {"score": params["x"]}


def ours(database: Path) -> float:
    """Points a second, all of them stored."""
    with Stopwatch() as watch:
        asyncio.run(
            tune(
                chatter,
                TUNABLES,
                objectives={"score": "min"},
                trials=TRIALS,
                concurrency=TRIALS,
                seed=1,
                storage=f"sqlite:///{database}",
                experiment_id="telemetry",
            )
        )
    with closing(sqlite3.connect(database)) as connection:
        (found,) = connection.execute("SELECT count(*) FROM telemetry").fetchone()
    if found != POINTS:
        raise RuntimeError(f"expected {POINTS} points in the database, found {found}")
    return POINTS / watch.seconds


def raw_sqlite(database: Path, copy: Path) -> float:
    """Points a second of bare sqlite3, into an empty copy of the tables that are in ``database``."""
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
        rows = source.execute("SELECT * FROM telemetry LIMIT ?", (RAW_POINTS,)).fetchall()
        source.execute("DELETE FROM telemetry")
        source.commit()
        source.execute("VACUUM")
        source.backup(target)
        target.execute("PRAGMA journal_mode=WAL")
        target.execute("PRAGMA synchronous=FULL")
        target.execute("PRAGMA foreign_keys=ON")
        insert = f"INSERT INTO telemetry VALUES ({', '.join('?' * len(rows[0]))})"
        with Stopwatch() as watch:
            for start in range(0, len(rows), RAW_BATCH):
                with target:
                    target.executemany(insert, itertools.islice(rows, start, start + RAW_BATCH))
    return len(rows) / watch.seconds


def optuna_rate(folder: Path) -> float:
    """Points a second of the peer."""
    import optuna  # only with --peers

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def reporting(trial: Any) -> float:
        x: float = trial.suggest_float("x", 0, 1)
        for i in range(PEER_POINTS):
            trial.report(float(i), step=i)
        return x

    with Stopwatch() as watch:
        study = optuna.create_study(
            storage=f"sqlite:///{folder / 'optuna.db'}", sampler=optuna.samplers.RandomSampler(seed=1)
        )
        study.optimize(reporting, n_trials=PEER_TRIALS)
    return PEER_TRIALS * PEER_POINTS / watch.seconds


def main() -> int:
    options = parser(__doc__).parse_args()
    rates: list[float] = []
    raw: list[float] = []
    peer: list[float] = []
    for _ in range(options.runs):
        with scratch() as folder:
            rates.append(ours(folder / "telemetry.db"))
            raw.append(raw_sqlite(folder / "telemetry.db", folder / "raw.db"))
            if options.peers:
                peer.append(optuna_rate(folder))
    figures = {
        "recorded": Figure(unit="points/s", runs=rates, bar=("at least", BAR)),
        "raw_sqlite": Figure(unit="points/s", runs=raw),
    }
    if peer:
        figures["optuna_sqlite"] = Figure(unit="points/s", runs=peer)
    ratio = statistics.median(a / b for a, b in zip(rates, raw, strict=True))
    return report(__doc__, figures, ratios={"recorded / raw_sqlite": ratio})


if __name__ == "__main__":
    sys.exit(main())
