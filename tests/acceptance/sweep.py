"""Strikes the scenario at every fault point, once a case, and lets a fresh process resume it.

``python -m tests.acceptance.sweep FAULT`` prints one JSON line. Everything is imported once; each life of a
case is a fork of this process, which is what makes a thousand of them affordable.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from windtunnel.testing import faults

if __name__ == "__main__":
    faults.install("windtunnel.storage", "windtunnel.scheduling", "windtunnel.telemetry")

import anyio
from sqlalchemy.exc import OperationalError

from tests.acceptance.scenario import LEASE, live, problems
from windtunnel import StorageUnavailable, WindtunnelError
from windtunnel.testing.detectors import nothing_left

Fault = Literal["cancel", "error", "kill", "delay"]
SAMPLE = os.environ.get("WINDTUNNEL_SWEEP", "1")
"""Which cases: a number for a sample of them, ``all`` for each."""
_LIMIT_S = 20.0
_PAUSE_S = 0.004
_AT_ONCE = 5
_ASLEEP_AT_ONCE = 10
_OTHERS: tuple[Fault, ...] = ("cancel", "error", "delay")
_RAW = ("storage.sqlite:", "storage.server:")
"""Modules in which errors are still those of the driver."""
_TEARS_DOWN = "scheduling.runner:TrialRunner.run#"
"""Where a fault may stand in the place of the teardown itself."""


class Case(NamedTuple):
    """One fault: at the ``number``-th time that ``point`` is reached."""

    point: str
    moment: faults.Moment
    number: int
    fault: Fault


class Counting:
    """Counts how often each moment of each point is reached."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, faults.Moment]] = Counter()

    async def __call__(self, point: str, moment: faults.Moment) -> None:
        self.seen[point, moment] += 1


class Strike:
    """Does what a case says when its moment has come.

    :param cancel: cancels everything from outside.
    """

    def __init__(self, case: Case, folder: Path, cancel: Callable[[], object]) -> None:
        self._case = case
        self._folder = folder
        self._cancel = cancel
        self._left = case.number

    async def __call__(self, point: str, moment: faults.Moment) -> None:
        if (point, moment) != self._case[:2]:
            return
        self._left -= 1
        if self._left != 0:
            return
        (self._folder / "struck").touch()
        match self._case.fault:
            case "cancel":
                self._cancel()
            case "error":
                raise _error(point)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "delay":
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(2 * LEASE.total_seconds())


def _error(point: str) -> Exception:
    if point.startswith(_RAW):
        return OperationalError("SELECT", {}, sqlite3.OperationalError("disk I/O error"))
    return StorageUnavailable("the disk reports an error")


# One life: the body of a forked process


def first_life(case: Case, folder: Path) -> None:
    """Run into the fault. What it raises is the fault's own, and nothing of it is left behind."""

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        with anyio.CancelScope() as scope:
            cancel = scope.cancel if case.number == 1 else task.cancel
            with faults.listening(Strike(case, folder, cancel)):
                await live(folder, fresh=True)

    try:
        anyio.run(main)
    except asyncio.CancelledError:
        if case.fault != "cancel":
            raise
    except Exception as exc:
        if case.fault != "error" or not _is_ours(exc):
            raise


def _is_ours(error: BaseException) -> bool:
    """Whether it is the fault, or what was made of it, and nothing besides."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_ours(one) for one in error.exceptions)
    return isinstance(error, WindtunnelError | OperationalError)


def second_life(folder: Path) -> None:
    """Resume it, without faults."""
    anyio.run(partial(live, folder, fresh=False))


def _body(life: Callable[[], None], folder: Path, name: str) -> None:
    """Never returns; leaves a report of what was wrong."""
    log = os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    tempfile.tempdir = str(folder / "tmp")
    status = 0
    try:
        with nothing_left():
            life()
    except BaseException:
        logging.getLogger("sweep").exception("it ended badly")
        status = 1
    finally:
        logging.shutdown()
        os._exit(status)


# Conducting


_STARVED = ("took ", "did not end", "ended with -9")
"""What is wrong when a loaded machine lets leases expire, too; then it is tried again alone."""
_AGAIN = 8


@dataclass
class Run:
    """A case under way."""

    case: Case
    folder: Path
    problems: list[str] = field(default_factory=list)
    lives: dict[int, str] = field(default_factory=dict)
    deadline: float = 0.0
    resumed: bool = False

    @property
    def struck(self) -> bool:
        return (self.folder / "struck").exists()

    def begin(self) -> None:
        (self.folder / "tmp").mkdir(parents=True)
        self._fork("first", partial(first_life, self.case, self.folder))

    def _fork(self, name: str, life: Callable[[], None]) -> None:
        self.deadline = time.monotonic() + _LIMIT_S
        pid = os.fork()
        if pid == 0:
            _body(life, self.folder, name)
        self.lives[pid] = name

    def step(self) -> bool:
        """Look what has ended and begin what is due; whether the case is through."""
        self._reap()
        waits_for_none = not self.lives or (self.case.fault == "delay" and self.struck)
        if not self.resumed and waits_for_none:
            self.resumed = True
            self._fork("second", partial(second_life, self.folder))
        return self.resumed and not self.lives

    def _reap(self) -> None:
        for pid, name in tuple(self.lives.items()):
            if time.monotonic() > self.deadline:
                self.problems.append(f"the {name} life did not end")
                os.kill(pid, signal.SIGKILL)
            ended, status = os.waitpid(pid, 0 if time.monotonic() > self.deadline else os.WNOHANG)
            if ended:
                del self.lives[pid]
                code = os.waitstatus_to_exitcode(status)
                if code != (-signal.SIGKILL if self.killed_by_itself(name) else 0):
                    self.problems.append(f"the {name} life ended with {code}")

    def killed_by_itself(self, name: str) -> bool:
        return name == "first" and self.case.fault == "kill" and self.struck

    def judge(self) -> None:
        """Add what the database and the files say."""
        try:
            self.problems += problems(
                self.folder,
                faults=int(self.struck),
                failures=int(self.case.fault == "error"),
                orderly=self.case.fault != "kill" and not self.case.point.startswith(_TEARS_DOWN),
            )
        except (sqlite3.Error, OSError) as exc:
            self.problems.append(f"it cannot be judged: {exc!r}")

    def report(self) -> dict[str, Any]:
        logs = [path.read_text(encoding="utf-8")[-3000:] for path in sorted(self.folder.glob("*.log"))]
        return {"case": list(self.case), "problems": self.problems, "logs": logs}


def conduct(cases: Sequence[Case], folder: Path, at_once: int) -> tuple[int, list[dict[str, Any]]]:
    """Run the cases, some at once; how many faults really struck, and what was wrong."""
    waiting = iter(enumerate(cases))
    under_way: list[Run] = []
    struck = 0
    failed: list[dict[str, Any]] = []
    while True:
        while len(under_way) < at_once and (entry := next(waiting, None)):
            under_way.append(Run(entry[1], folder / str(entry[0])))
            under_way[-1].begin()
        if not under_way:
            return struck, failed
        time.sleep(_PAUSE_S)
        for run in [one for one in under_way if one.step()]:
            under_way.remove(run)
            run.judge()
            struck += run.struck
            if run.problems:
                failed.append(run.report())
            shutil.rmtree(run.folder)


def _may_be_starved(failed: dict[str, Any]) -> bool:
    return all(any(said in problem for said in _STARVED) for problem in failed["problems"])


def rehearse(folder: Path) -> Counter[tuple[str, faults.Moment]]:
    """Run the scenario once without faults, here: what is imported late is imported now."""
    hook = Counting()
    (folder / "tmp").mkdir(parents=True)
    with faults.listening(hook):
        anyio.run(partial(live, folder, fresh=True))
    wrong = problems(folder, faults=0, failures=0, orderly=False)
    assert not wrong, wrong
    deadline = time.monotonic() + _LIMIT_S
    while threading.active_count() > 1:  # a fork copies no threads; these are ending
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(_PAUSE_S)
    gc.collect()
    gc.freeze()  # or every fork's collections would copy all of this process's memory
    return hook.seen


def planned(seen: Counter[tuple[str, faults.Moment]], fault: Fault) -> Iterator[Case]:
    """Before each point at its first time, and after it at a later one.

    A sample kills at half of the points and does one of the other three at each, at one of the two moments.
    """
    chance = random.Random(SAMPLE)
    for point in sorted({point for point, _ in seen}):
        later = chance.randint(1, max(1, seen[point, "after"] * 2 // 3))
        cases = [Case(point, "before", 1, fault)]
        if seen[point, "after"]:
            cases.append(Case(point, "after", later, fault))
        one, chosen = chance.choice(cases), {chance.choice(_OTHERS), chance.choice(("kill", None))}
        if SAMPLE == "all":
            yield from cases
        elif fault in chosen:
            yield one


class Report(NamedTuple):
    """What a sweep found.

    :ivar cases: how many there were.
    :ivar struck: in how many of them the fault happened: no two runs are the same.
    :ivar failed: case, problems, logs.
    :ivar tried_again: how many seemed to fail for want of a processor only.
    """

    cases: int
    struck: int
    failed: list[dict[str, Any]]
    tried_again: int
    reached: list[str]
    not_reached: list[str]
    seconds: float


def sweep(fault: Fault, folder: Path) -> Report:
    """In a process of its own: see ``swept``."""
    began = time.monotonic()
    seen = rehearse(folder / "rehearsal")
    cases = list(planned(seen, fault))
    at_once = _ASLEEP_AT_ONCE if fault == "delay" else _AT_ONCE
    struck, failed = conduct(cases, folder, at_once)
    starved = [one for one in failed if _may_be_starved(one)]
    if 0 < len(starved) <= max(_AGAIN, len(cases) // 20):
        _, still = conduct([Case(*one["case"]) for one in starved], folder / "again", at_once=1)
        failed = [one for one in failed if one not in starved] + still
    reached = sorted({point for point, _ in seen})
    missed = sorted(set(faults.installed()) - set(reached))
    return Report(len(cases), struck, failed, len(starved), reached, missed, time.monotonic() - began)


def swept(fault: Fault) -> Report:
    """Strike with ``fault``; needs a process whose modules are rewritten, so one is started."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.acceptance.sweep", fault],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Report(*json.loads(done.stdout))


def main(fault: Fault) -> None:
    with tempfile.TemporaryDirectory(prefix="wt-sweep-") as name:
        sys.stdout.write(json.dumps(sweep(fault, Path(name))))


if __name__ == "__main__":
    assert sys.argv[1] in get_args(Fault), f"expected one of {get_args(Fault)}"
    main(sys.argv[1])  # type: ignore[arg-type]  # checked
