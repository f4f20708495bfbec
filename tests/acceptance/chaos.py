"""Workers that share an experiment while somebody kills and freezes them at random; see ``soak``."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.acceptance.outcome_log import ACCEPTED

__all__ = ["Soaked", "soak"]

_WINDTUNNEL = (sys.executable, "-m", "windtunnel")
_POLL_S = 0.02
_END_S = 40.0
_HELD_UP_S = 0.4  # longer than a trial, so that what ran has come to an end and waits
_DONE = "SELECT count(*) FROM accepted WHERE status = 4"


@dataclass(frozen=True, kw_only=True)
class Soaked:
    """What came of it.

    :ivar accepted: outcomes that the database took, final ones, each time it did so.
    :ivar distinct: trials among them.
    :ivar leased: trials that somebody holds when all is over, and the optimizer if somebody leads.
    :ivar attempts: the most of one trial.
    :ivar actions: what the workers logged, by kind; ``stale_refused`` for instance.
    :ivar codes: exit statuses of those that were not killed.
    """

    accepted: int
    distinct: int
    leased: int
    attempts: int
    kills: int
    freezes: int
    actions: dict[str, int]
    codes: list[int]
    seconds: float


class Worker:
    """A process that works on the experiment, and its log."""

    def __init__(self, log: Path, *command: str) -> None:
        self.log = log
        self.thaws_at: float | None = None
        self.killed = False
        with log.open("wb") as output:
            self.process = subprocess.Popen([*_WINDTUNNEL, *command], stdout=output, stderr=output)

    @property
    def is_at_work(self) -> bool:
        return self.thaws_at is None and self.process.poll() is None

    def kill(self) -> None:
        self.killed = True
        self.process.kill()
        self.process.wait()

    def freeze(self, seconds: float) -> None:
        self.process.send_signal(signal.SIGSTOP)
        self.thaws_at = time.monotonic() + seconds

    def thaw(self) -> None:
        self.thaws_at = None
        self.process.send_signal(signal.SIGCONT)


class Crowd(AbstractContextManager["Crowd"]):
    """Some workers, one of which began the experiment. None is left when the block ends."""

    def __init__(self, folder: Path, description: dict[str, Any], number: int, most_strikes: int) -> None:
        self.workers: list[Worker] = []
        self.most_strikes = most_strikes
        self.kills = self.freezes = 0
        self._folder = folder
        self._url = f"sqlite:///{folder / 'soak.db'}"
        file = folder / "soak.json"
        file.write_text(json.dumps(description), encoding="utf-8")
        self._options = ("--storage", self._url, "--log-format", "json")
        self._first = ("run", str(file), *self._options)
        self._number = number

    def __enter__(self) -> Self:
        self._start(*self._first)
        self._note_what_is_accepted()
        for _ in range(self._number - 1):
            self.join()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            worker.process.kill()
            worker.process.wait()

    def join(self) -> None:
        self._start("worker", "soak", "--until-idle", *self._options)

    def _start(self, *command: str) -> None:
        self.workers.append(Worker(self._folder / f"{len(self.workers)}.log", *command))

    def _note_what_is_accepted(self) -> None:
        """As soon as there are tables."""
        deadline = time.monotonic() + _END_S
        while True:
            assert time.monotonic() < deadline, "it did not begin: " + self.said()
            try:
                with closing(self._connect()) as connection:
                    connection.executescript(ACCEPTED)
                    connection.execute("SELECT 1 FROM experiment").fetchone()
            except sqlite3.OperationalError:
                time.sleep(_POLL_S)
            else:
                return

    def _connect(self, timeout: float = _END_S) -> sqlite3.Connection:
        return sqlite3.connect(self._folder / "soak.db", timeout=timeout)

    def ask(self, sql: str) -> Any:
        with closing(self._connect()) as connection:
            return connection.execute(sql).fetchone()[0]

    def strike(self, chance: random.Random, lease_s: float) -> None:
        """Kill one that runs trials, which is replaced, or freeze it for longer than its lease."""
        at_work = [worker for worker in self.workers if worker.is_at_work]
        if len(at_work) < 2 or self.kills + self.freezes >= self.most_strikes:
            return
        owners = self.ask("SELECT group_concat(owner) FROM trial WHERE status = 3") or ""
        with_trials = [worker for worker in at_work if f"/{worker.process.pid}/" in owners]
        if not with_trials:
            return
        worker = chance.choice(with_trials)
        if (self.kills + self.freezes) % 3 == 2:
            worker.kill()
            self.kills += 1
            self.join()
        else:
            self._freeze(worker, lease_s * chance.uniform(1.2, 1.8), amid_writes=chance.random() < 0.6)

    def _freeze(self, worker: Worker, seconds: float, *, amid_writes: bool) -> None:
        """:param amid_writes: while it waits for a lock to store outcomes; awake again, it comes too late."""
        with closing(self._connect(timeout=_HELD_UP_S)) as connection:
            if amid_writes:
                with suppress(sqlite3.OperationalError):  # one that is frozen holds the lock
                    connection.execute("BEGIN IMMEDIATE")
                    time.sleep(_HELD_UP_S)
            worker.freeze(seconds)
            connection.rollback()
        self.freezes += 1

    def thaw(self, *, everybody: bool = False) -> None:
        now = time.monotonic()
        for worker in self.workers:
            if worker.thaws_at is not None and (everybody or worker.thaws_at <= now):
                worker.thaw()

    def ended(self) -> list[int]:
        """Wait until all have ended by themselves; their exit statuses."""
        return [one.process.wait(timeout=_END_S) for one in self.workers if not one.killed]

    def actions(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for worker in self.workers:
            for line in worker.log.read_text(encoding="utf-8").splitlines():
                if line.startswith("{") and "action" in (record := json.loads(line)):
                    found[record["action"]] += 1
        return found

    def said(self) -> str:
        return "\n".join(worker.log.read_text(encoding="utf-8")[-2000:] for worker in self.workers)


def soak(
    folder: Path,
    *,
    trials: int,
    seed: int,
    workers: int = 4,
    concurrency: int = 5,
    trial_s: float = 0.3,
    lease_s: float = 1.5,
    pause_s: tuple[float, float] = (0.4, 1.0),
    most_strikes: int = 20,
    limit_s: float = 60,
) -> Soaked:
    """Run an experiment with some workers, and strike one of them again and again until it is done."""
    chance, began = random.Random(seed), time.monotonic()
    description = {
        "experiment": "soak",
        "objectives": {"score": "min"},
        "trials": trials,
        "concurrency": concurrency,
        "lease": f"{lease_s} s",
        "optimizer": {"name": "random", "seed": seed},
        "tunables": {"g": {"params": {"x": {"type": "float", "range": [0, 1], "default": 0.5}}}},
        "environment": {"class": "MockEnv", "config": {"duration": f"{trial_s} s", "telemetry": 2}},
    }
    with Crowd(folder, description, workers, most_strikes) as crowd:
        strikes_at = 0.0
        while crowd.ask(_DONE) < trials:
            assert time.monotonic() - began < limit_s, f"{crowd.ask(_DONE)} of {trials}: {crowd.said()}"
            if crowd.ask(_DONE) > 0 and time.monotonic() > strikes_at:
                crowd.strike(chance, lease_s)
                strikes_at = time.monotonic() + chance.uniform(*pause_s)
            crowd.thaw()
            time.sleep(_POLL_S)
        crowd.thaw(everybody=True)
        codes = crowd.ended()
        leased = "SELECT (SELECT count(*) FROM trial WHERE status = 3 OR lease_until_us IS NOT NULL)"
        return Soaked(
            accepted=crowd.ask("SELECT count(*) FROM accepted"),
            distinct=crowd.ask("SELECT count(DISTINCT trial_id) FROM accepted WHERE status = 4"),
            leased=crowd.ask(f"{leased} + (SELECT count(*) FROM optimizer_lease)"),
            attempts=crowd.ask("SELECT max(attempt) FROM trial"),
            kills=crowd.kills,
            freezes=crowd.freezes,
            actions=dict(crowd.actions()),
            codes=codes,
            seconds=time.monotonic() - began,
        )
