"""A small shop on SQLite: the benchmark behind ``windtunnel demo``. Needs Python's standard library only.

    bench.py build    make the database
    bench.py run      trade for SECONDS, telling the rate as it goes, then the results

The settings come from environment variables, named below. Every order is a transaction of its own, which has
to reach the disk before its commit returns. So the data should lie on a disk, not in memory.
"""

import os
import random
import sqlite3
import sys
import time
from bisect import bisect
from collections.abc import Mapping
from itertools import accumulate

CUSTOMERS = 2000
TICK_S = 0.1


def connect(env: Mapping[str, str]) -> sqlite3.Connection:
    """Open the database with the settings under test."""
    db = sqlite3.connect(env["database"], isolation_level=None)
    db.execute(f"PRAGMA page_size = {env['page_size']}")  # counts until the first table is made
    db.execute(f"PRAGMA journal_mode = {env['journal_mode']}")
    db.execute(f"PRAGMA synchronous = {env['synchronous']}")
    db.execute(f"PRAGMA cache_size = -{env['cache_kib']}")  # negative: KiB, not pages
    db.execute(f"PRAGMA mmap_size = {int(env['mmap_mib']) * 1024 * 1024}")
    db.execute(f"PRAGMA temp_store = {env['temp_store']}")
    db.execute(f"PRAGMA wal_autocheckpoint = {env['wal_autocheckpoint']}")
    return db


def build(db: sqlite3.Connection, *, rows: int) -> None:
    """Make the tables and fill them, the same every time."""
    rng = random.Random(1)
    db.execute("BEGIN")
    db.execute("CREATE TABLE customer (id INTEGER PRIMARY KEY, balance REAL NOT NULL)")
    db.execute("CREATE TABLE purchase (id INTEGER PRIMARY KEY, customer INTEGER, amount REAL, note TEXT)")
    db.executemany("INSERT INTO customer VALUES (?, 0)", ((i,) for i in range(CUSTOMERS)))
    db.executemany(
        "INSERT INTO purchase (customer, amount, note) VALUES (?, ?, ?)", (order(rng) for _ in range(rows))
    )
    db.execute("CREATE INDEX purchase_customer ON purchase (customer)")
    db.execute("COMMIT")
    db.close()


def order(rng: random.Random) -> tuple[int, float, str]:
    """A customer, an amount and a note of 400 characters."""
    return rng.randrange(CUSTOMERS), rng.uniform(1, 500), f"{rng.getrandbits(1600):0400x}"


class Shop:
    """What goes on in the shop; each method is one operation."""

    def __init__(self, db: sqlite3.Connection, rows: int) -> None:
        self.db = db
        self.rows = rows
        self.rng = random.Random(2)

    def look_up(self) -> None:
        """Read one order."""
        self.db.execute("SELECT * FROM purchase WHERE id = ?", (self.rng.randint(1, self.rows),)).fetchone()

    def history(self) -> None:
        """Read all orders of a customer, which lie all over the file."""
        self.db.execute(
            "SELECT * FROM purchase WHERE customer = ?", (self.rng.randrange(CUSTOMERS),)
        ).fetchall()

    def page(self) -> None:
        """Read 100 orders in a row."""
        first = self.rng.randint(1, self.rows)
        self.db.execute("SELECT * FROM purchase WHERE id >= ? LIMIT 100", (first,)).fetchall()

    def top(self) -> None:
        """Group and sort 2000 orders, in temporary tables."""
        first = self.rng.randint(1, self.rows)
        self.db.execute(
            "SELECT customer, sum(amount), max(note) FROM purchase WHERE id BETWEEN ? AND ? + 2000 "
            "GROUP BY customer ORDER BY sum(amount) DESC LIMIT 10",
            (first, first),
        ).fetchall()

    def buy(self) -> None:
        """Store an order, in a transaction."""
        customer, amount, note = order(self.rng)
        self.db.execute("BEGIN IMMEDIATE")
        self.db.execute(
            "INSERT INTO purchase (customer, amount, note) VALUES (?, ?, ?)", (customer, amount, note)
        )
        self.db.execute("UPDATE customer SET balance = balance + ? WHERE id = ?", (amount, customer))
        self.db.execute("COMMIT")
        self.rows += 1

    def correct(self) -> None:
        """Change an order, in a transaction."""
        self.db.execute("BEGIN IMMEDIATE")
        self.db.execute(
            "UPDATE purchase SET amount = amount * 0.9 WHERE id = ?", (self.rng.randint(1, self.rows),)
        )
        self.db.execute("COMMIT")


MIX = {"look_up": 46, "history": 20, "page": 8, "top": 2, "buy": 15, "correct": 9}  # percent


def run(db: sqlite3.Connection, *, rows: int, seconds: float) -> None:
    """Trade for a time, not for a number of orders, so that a slow disk makes no longer run."""
    shop = Shop(db, rows)
    rng = random.Random(3)
    operations = [getattr(shop, name) for name in MIX]
    bounds = list(accumulate(MIX.values()))
    latencies: list[float] = []
    begin = last = tick = time.perf_counter()
    told = 0
    while last < begin + seconds:
        operations[bisect(bounds, rng.random() * bounds[-1])]()
        now = time.perf_counter()
        latencies.append(now - last)
        last = now
        if now >= tick + TICK_S:
            recent = latencies[told:]
            say("telemetry ops_per_s=%.1f", len(recent) / (now - tick))
            say("telemetry p99_ms=%.3f", p99_ms(recent))
            told, tick = len(latencies), now
    # What a write-ahead log put off is done within the time, or it would look like speed.
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    took = time.perf_counter() - begin
    db.close()
    say("ops_per_s: %.1f", len(latencies) / took)
    say("p99_ms: %.3f", p99_ms(latencies))
    say("slowest_ms: %.3f", max(latencies) * 1000)


def p99_ms(latencies: list[float]) -> float:
    """99 of 100 operations took no longer."""
    return sorted(latencies)[int(len(latencies) * 0.99)] * 1000


def say(form: str, value: float) -> None:
    """A line that windtunnel reads; see the patterns in experiment.yaml. It is sent at once."""
    print(form % value, flush=True)


def main(arguments: list[str], env: Mapping[str, str]) -> None:
    if arguments == ["build"]:
        build(connect(env), rows=int(env["rows"]))
    elif arguments == ["run"]:
        run(connect(env), rows=int(env["rows"]), seconds=float(env["seconds"]))
    else:
        sys.exit("usage: bench.py build|run")


if __name__ == "__main__":
    main(sys.argv[1:], os.environ)
