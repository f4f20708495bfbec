"""How soon do the trials of a worker that was killed run again?

Two processes work on one experiment in an SQLite file, with a lease of 5 s. The first runs 50 trials that
wait; the second runs 50 more and has room for another 50. The first is killed (SIGKILL) just after a
heartbeat, when its leases have the longest to go. Measured from there until the database says that all 50
are RUNNING again, each at its second attempt, held by the second process.

* the dead process ran on another machine, so that only its lease tells: at most one lease and 1 s
* it ran on this machine, where others can see that it is gone: at most the same

That of the other machine is a process of this one that says it is called something else.
"""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from _report import TUNABLES, Figure, parser, report, scratch
from windtunnel import open_scheduler, processes

VICTIMS, LEASE_S = 50, 5.0
BAR_S = LEASE_S + 1
LIMIT_S, LOOK_S = 60.0, 0.01
ELSEWHERE = "elsewhere:00000000:0"
PLACES = {"other_machine": "there", "same_machine": "here"}

RUNNING = "SELECT count(*) FROM trial WHERE status = 3"
OWNER = "SELECT owner FROM trial WHERE status = 3"
AGAIN = f"{RUNNING} AND attempt = 2 AND owner <> ?"
LEASE_UNTIL = "SELECT max(lease_until_us) FROM trial WHERE status = 3 AND owner = ?"


# A worker


async def work(database: str, concurrency: int) -> None:
    async with open_scheduler(
        wait,
        TUNABLES,
        objectives={"score": "min"},
        trials=2 * VICTIMS,
        concurrency=concurrency,
        seed=1,
        lease=timedelta(seconds=LEASE_S),
        storage=f"sqlite:///{database}",
        experiment_id="recovery",
    ) as scheduler:
        await scheduler.run()


async def wait(params: dict[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(LIMIT_S * 2)
    return {"score": params["x"]}


@contextmanager
def worker(database: Path, concurrency: int, place: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, __file__, "--work", str(database), str(concurrency), place]
    with subprocess.Popen(command) as process:
        try:
            yield process
        finally:
            process.kill()


# What the database says


class Book:
    """Read while others write."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def one(self, sql: str, *values: object) -> Any:
        """The only value of the only row; None while the tables are being made."""
        try:
            row = self._connection.execute(sql, values).fetchone()
        except sqlite3.OperationalError:
            return None
        return None if row is None else row[0]

    def until(self, sql: str, wanted: Callable[[Any], bool], *values: object) -> None:
        """:raises TimeoutError: if that does not come."""
        deadline = time.monotonic() + LIMIT_S
        while not wanted(found := self.one(sql, *values)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited in vain; {sql!r} gave {found!r}")
            time.sleep(LOOK_S)


def recovered(database: Path, place: str) -> float:
    """Seconds from the death to the last of the trials that run again."""
    with ExitStack() as stack:
        first = stack.enter_context(worker(database, VICTIMS, place))
        book = Book(stack.enter_context(closing(sqlite3.connect(database, timeout=5))))
        book.until(RUNNING, lambda running: running == VICTIMS)
        owner = book.one(OWNER)
        stack.enter_context(worker(database, 2 * VICTIMS, "here"))
        book.until(RUNNING, lambda running: running == 2 * VICTIMS)
        before = book.one(LEASE_UNTIL, owner)
        book.until(LEASE_UNTIL, lambda until: until != before, owner)
        first.send_signal(signal.SIGKILL)
        first.wait()
        died = time.monotonic()
        book.until(AGAIN, lambda again: again == VICTIMS, owner)
        return time.monotonic() - died


def main() -> int:
    options = parser(__doc__, peers=False)
    options.add_argument(
        "--work", nargs=3, metavar=("DATABASE", "CONCURRENCY", "PLACE"), help="be a worker in this process"
    )
    chosen = options.parse_args()
    if chosen.work is not None:
        database, concurrency, place = chosen.work
        if place == "there":
            processes._boot = lambda: ELSEWHERE  # type: ignore[assignment]  # noqa: SLF001 - there is one machine
        asyncio.run(work(database, int(concurrency)))
        return 0
    runs: dict[str, list[float]] = {name: [] for name in PLACES}
    for _ in range(chosen.runs):
        for name, place in PLACES.items():
            with scratch() as folder:
                runs[name].append(recovered(folder / "recovery.db", place))
    figures = {name: Figure(unit="s", runs=found, bar=("at most", BAR_S)) for name, found in runs.items()}
    beyond = [seconds - LEASE_S for seconds in runs["other_machine"]]
    return report(__doc__, figures | {"other_machine_after_lease": Figure(unit="s", runs=beyond)})


if __name__ == "__main__":
    sys.exit(main())
