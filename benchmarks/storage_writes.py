"""How many points of telemetry and how many new trials a second does the storage take?

* One million points of 32 trials, 10 000 in each call of ``Experiment.record_many``, one call after the
  other: at least 200 000 points/s on an SQLite file and on PostgreSQL; on SQLite also at least 0.45 of the
  bare driver.
* One call of ``Experiment.add_trials`` with 10 000 trials, each of another configuration of 10 tunables: at
  least 10 000 trials/s on both.

All is durable when a call returns. Afterwards the rows are counted. PostgreSQL is started for this, as it is
configured by default, on a Unix socket.

For comparison, in the same run: the same rows in the same order and in transactions of as many, into the
same table while it is empty, by bare ``sqlite3`` (``executemany``) and bare ``asyncpg`` (``unnest``).
"""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import statistics
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from _report import Figure, Stopwatch, parser, report, scratch
from _servers import address, postgresql
from windtunnel import Experiment, NewTrial, Sample, Trial, TunableGroups, open_storage

TRIALS, POINTS, AT_ONCE = 32, 1_000_000, 10_000
METRICS = ("qps", "latency", "load")
NEW_TRIALS = 10_000
BARS = {"recorded": 200_000, "added": 10_000}
RATIO_BAR = 0.45
START_US = 1_700_000_000_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SPACE = TunableGroups(
    {"g": {"params": {f"p{i}": {"type": "float", "range": [0, 1], "default": 0.5} for i in range(10)}}}
)
INSERT_SQLITE = "INSERT INTO telemetry VALUES (?, ?, ?, ?, ?, ?, ?)"
INSERT_POSTGRESQL = (
    "INSERT INTO telemetry SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::int[], $4::bigint[],"
    " $5::bigint[], $6::double precision[], $7::text[])"
)

T = TypeVar("T")
Row = tuple[int, int, int, int, int, float, None]


async def ours(url: str) -> dict[str, float]:
    """Points and trials a second through the storage; both are stored under the experiment ``writes``."""
    async with (
        open_storage(url) as storage,
        storage.experiment(experiment_id="writes", tunables=SPACE, opt_targets={"score": "min"}) as stored,
    ):
        await stored.add_trials([NewTrial(tunables=SPACE) for _ in range(TRIALS)])
        trials = await stored.claim("benchmark", limit=TRIALS, lease=timedelta(hours=1))
        return {"recorded": await record(stored, trials), "added": await add(stored)}


async def record(experiment: Experiment, trials: list[Trial]) -> float:
    calls = prepared(batches(trials))
    with Stopwatch() as watch:
        for call in calls:
            refusals = await experiment.record_many(call)
            if any(refusals):
                raise RuntimeError(f"expected no refusal, found {refusals}")
    return POINTS / watch.seconds


def batches(trials: list[Trial]) -> Iterator[list[tuple[Trial, list[Sample]]]]:
    """What each call of ``record_many`` takes."""
    for start in range(0, POINTS, AT_ONCE):
        batch: dict[int, list[Sample]] = {}
        for i in range(start, start + AT_ONCE):
            when = EPOCH + timedelta(microseconds=START_US + i)
            batch.setdefault(i % TRIALS, []).append(Sample(when, METRICS[i % len(METRICS)], i * 0.37))
        yield [(trials[place], samples) for place, samples in batch.items()]


async def add(experiment: Experiment) -> float:
    new = [
        NewTrial(tunables=SPACE.assign({f"p{k}": (k + 1) / (i + 20) for k in range(10)}))
        for i in range(NEW_TRIALS)
    ]
    with Stopwatch() as watch:
        added = await experiment.add_trials(new)
    if len(added) != NEW_TRIALS:
        raise RuntimeError(f"expected {NEW_TRIALS} trials, found {len(added)}")
    return NEW_TRIALS / watch.seconds


def rows(experiment: int, metrics: dict[str, int]) -> Iterator[list[Row]]:
    """The rows that ``record`` wrote, in its order and in its transactions."""
    ids = [metrics[name] for name in METRICS]
    for start in range(0, POINTS, AT_ONCE):
        yield [
            (experiment, 1 + i % TRIALS, 1, START_US + i, ids[i % len(ids)], i * 0.37, None)
            for place in range(TRIALS)
            for i in range(start + place, start + AT_ONCE, TRIALS)
        ]


def prepared(calls: Iterator[T]) -> list[T]:
    """All that will be written; the garbage collector shall not walk over it while that is measured."""
    made = list(calls)
    gc.freeze()
    return made


def raw_sqlite(database: Path, copy: Path) -> float:
    """Points a second of bare sqlite3, into a copy of ``database`` without its telemetry."""
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
        check(*source.execute("SELECT (SELECT count(*) FROM telemetry), count(*) FROM trial").fetchone())
        source.execute("DELETE FROM telemetry")
        source.commit()
        source.execute("VACUUM")
        source.backup(target)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            target.execute(f"PRAGMA {pragma}")
        (key,) = target.execute("SELECT id FROM experiment").fetchone()
        work = prepared(rows(key, dict(target.execute("SELECT name, id FROM metric"))))
        with Stopwatch() as watch:
            for batch in work:
                with target:
                    target.executemany(INSERT_SQLITE, batch)
    return POINTS / watch.seconds


async def raw_postgresql(url: str) -> float:
    """Points a second of bare asyncpg, into the emptied table. Arrays are made of rows, as ours are."""
    import asyncpg  # of an optional extra

    connection = await asyncpg.connect(**address(url))
    try:
        check(*await connection.fetchrow("SELECT (SELECT count(*) FROM telemetry), count(*) FROM trial"))
        await connection.execute("TRUNCATE telemetry")
        key = await connection.fetchval("SELECT id FROM experiment")
        work = prepared(rows(key, dict(await connection.fetch("SELECT name, id FROM metric"))))
        with Stopwatch() as watch:
            for batch in work:
                await connection.execute(INSERT_POSTGRESQL, *map(list, zip(*batch, strict=True)))
    finally:
        await connection.close()
    return POINTS / watch.seconds


def check(points: int, trials: int) -> None:
    if (points, trials) != (POINTS, TRIALS + NEW_TRIALS):
        raise RuntimeError(
            f"expected {POINTS} points and {TRIALS + NEW_TRIALS} trials, found {points, trials}"
        )


def on_sqlite() -> dict[str, float]:
    with scratch() as folder:
        database = folder / "writes.db"
        rates = asyncio.run(ours(f"sqlite:///{database}"))
        return rates | {"raw": raw_sqlite(database, folder / "raw.db")}


def on_postgresql() -> dict[str, float]:
    with postgresql() as url:
        rates = asyncio.run(ours(url))
        return rates | {"raw": asyncio.run(raw_postgresql(url))}


def main() -> int:
    options = parser(__doc__, peers=False).parse_args()
    figures: dict[str, Figure] = {}
    ratios: dict[str, float] = {}
    # One after the other in every run, so that a slow minute hits all.
    runs = [{"sqlite": on_sqlite(), "postgresql": on_postgresql()} for _ in range(options.runs)]
    for kind in ("sqlite", "postgresql"):
        for name, bar in BARS.items():
            unit = "points/s" if name == "recorded" else "trials/s"
            rates = [run[kind][name] for run in runs]
            figures[f"{kind}_{name}"] = Figure(unit=unit, runs=rates, bar=("at least", bar))
        figures[f"{kind}_raw"] = Figure(unit="points/s", runs=[run[kind]["raw"] for run in runs])
        shares = [run[kind]["recorded"] / run[kind]["raw"] for run in runs]
        ratios[f"{kind}_recorded / {kind}_raw"] = statistics.median(shares)
        if kind == "sqlite":
            figures["sqlite_share_of_raw"] = Figure(unit="1", runs=shares, bar=("at least", RATIO_BAR))
    return report(__doc__, figures, ratios=ratios)


if __name__ == "__main__":
    sys.exit(main())
