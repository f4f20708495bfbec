"""How quickly is a large experiment read back: by an optimizer, and as a polars frame?

``load`` of 10 000 succeeded trials with 10 tunables and 5 metrics takes at most 0.5 s, and as many statements
as that of 10 trials. ``telemetry_frame`` of one million points on an SQLite file gives at least 1 000 000
points/s with at most 150 MB of memory more than before. The database is written by bare ``sqlite3``; every
measurement is of a new process that has read nothing, with the libraries imported.

For comparison, in the same process: bare ``sqlite3`` that fetches the same columns in blocks and throws them
away.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sqlite3
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from _report import Figure, Stopwatch, parser, report, scratch
from windtunnel import open_storage

TRIALS, FEW = 10_000, 10
POINTS, RUNS, METRICS = 1_000_000, 32, 3
RAW_BATCH = 16_000
START_US = 1_700_000_000_000_000
SPACE: dict[str, Any] = {
    "g": {"params": {f"p{i}": {"type": "float", "range": [0, 1], "default": 0.5} for i in range(10)}}
}


async def prepare(database: Path) -> None:
    """Three experiments: one with few trials, one with many, and one with telemetry."""
    async with open_storage(f"sqlite:///{database}") as storage:
        for name in ("few", "many", "telemetry"):
            targets: Any = {"m0": "min"}
            async with storage.experiment(experiment_id=name, tunables=SPACE, opt_targets=targets):
                pass
    with closing(sqlite3.connect(database)) as connection, connection:
        keys = dict(connection.execute("SELECT name, id FROM experiment"))
        rows = ((i, str(i), _numbers("p", 10, i)) for i in range(1, TRIALS + 1))
        connection.executemany("INSERT INTO config (id, digest, params) VALUES (?, ?, ?)", rows)
        for name, count in (("few", FEW), ("many", TRIALS), ("telemetry", RUNS)):
            connection.executemany(
                "INSERT INTO trial (experiment, trial_id, config_id, status, priority, attempt, token,"
                " not_before_us, created_us, metrics, score) VALUES (?, ?, ?, 4, 0, 1, 1, 0, ?, ?, 1.0)",
                ((keys[name], i, i, START_US, _numbers("m", 5, i)) for i in range(1, count + 1)),
            )
        connection.executemany(
            "INSERT INTO metric (id, name) VALUES (?, ?)", ((i, f"metric{i}") for i in range(METRICS))
        )
        connection.executemany(
            "INSERT INTO telemetry (experiment, trial_id, attempt, ts_us, metric_id, number)"
            " VALUES (?, ?, 1, ?, ?, ?)",
            (
                (keys["telemetry"], 1 + i % RUNS, START_US + i * 1000, i % METRICS, i * 0.37)
                for i in range(POINTS)
            ),
        )


def _numbers(prefix: str, count: int, seed: int) -> str:
    return json.dumps({f"{prefix}{k}": (k + 1) / (seed + 20) for k in range(count)}, separators=(",", ":"))


async def load(database: Path) -> dict[str, float]:
    """Seconds for many trials, and the statements for many and for few."""
    async with open_storage(f"sqlite:///{database}") as storage:
        few, many = await storage.open_experiment("few"), await storage.open_experiment("many")
        with _statements() as for_few:
            await few.load()
        with _statements() as for_many, Stopwatch() as watch:
            history = await many.load()
    if len(history.trial_ids) != TRIALS or len(history.configs[0]) != 10:
        raise RuntimeError(f"expected {TRIALS} trials, found {len(history.trial_ids)}")
    return {"seconds": watch.seconds, "for_few": len(for_few), "for_many": len(for_many)}


@contextmanager
def _statements() -> Iterator[list[str]]:
    seen: list[str] = []

    def count(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    event.listen(Engine, "before_cursor_execute", count)
    try:
        yield seen
    finally:
        event.remove(Engine, "before_cursor_execute", count)


async def frame(database: Path) -> dict[str, float]:
    """Points a second, and what they took in memory at their peak, in MB."""
    import polars  # noqa: F401 - what reading imports is no part of its memory
    import pyarrow.compute  # noqa: F401

    async with open_storage(f"sqlite:///{database}") as storage:
        experiment = await storage.open_experiment("telemetry")
        await experiment.telemetry_frame([1], library="polars")  # thread pools, caches
        before = _peak_mb()
        with Stopwatch() as watch:
            found = await experiment.telemetry_frame(library="polars")
        grown = _peak_mb() - before
    _check(found["value"].to_list())
    return {"rate": POINTS / watch.seconds, "grown_mb": grown, "raw": raw_sqlite(database)}


def _check(found: list[float]) -> None:
    if sorted(found) != [i * 0.37 for i in range(POINTS)]:
        raise RuntimeError(f"expected {POINTS} points as they were stored, found {len(found)} that differ")


def _peak_mb() -> float:
    """The most memory this process ever had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def raw_sqlite(database: Path) -> float:
    """Points a second that bare sqlite3 fetches."""
    with closing(sqlite3.connect(database)) as connection, Stopwatch() as watch:
        cursor = connection.execute(
            "SELECT trial_id, attempt, ts_us, metric_id, number FROM telemetry"
            " ORDER BY experiment, trial_id, attempt, ts_us, metric_id"
        )
        while cursor.fetchmany(RAW_BATCH):
            pass
    return POINTS / watch.seconds


MEASURED = {"load": load, "frame": frame}


def measured(what: str, database: Path) -> dict[str, float]:
    """The measurement in a process of its own."""
    ran = subprocess.run([sys.executable, __file__, what, str(database)], check=True, stdout=subprocess.PIPE)
    facts: dict[str, float] = json.loads(ran.stdout)
    return facts


def main() -> int:
    if len(sys.argv) == 3 and sys.argv[1] in MEASURED:
        print(json.dumps(asyncio.run(MEASURED[sys.argv[1]](Path(sys.argv[2])))))
        return 0
    options = parser(__doc__, runs=5, peers=False).parse_args()
    with scratch() as folder:
        database = folder / "reads.db"
        asyncio.run(prepare(database))
        loads = [measured("load", database) for _ in range(options.runs)]
        frames = [measured("frame", database) for _ in range(options.runs)]
    extra = [one["for_many"] - one["for_few"] for one in loads]
    figures = {
        "load": Figure(unit="s", runs=[one["seconds"] for one in loads], bar=("at most", 0.5)),
        "load_statements": Figure(unit="statements", runs=[one["for_many"] for one in loads]),
        "load_statements_more_than_for_few": Figure(unit="statements", runs=extra, bar=("at most", 0)),
        "frame": Figure(unit="points/s", runs=[one["rate"] for one in frames], bar=("at least", POINTS)),
        "frame_memory": Figure(unit="MB", runs=[one["grown_mb"] for one in frames], bar=("at most", 150)),
        "raw_sqlite": Figure(unit="points/s", runs=[one["raw"] for one in frames]),
    }
    ratio = statistics.median(one["rate"] / one["raw"] for one in frames)
    return report(__doc__, figures, ratios={"frame / raw_sqlite": ratio})


if __name__ == "__main__":
    sys.exit(main())
