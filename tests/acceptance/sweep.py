"""Strikes the scenario at its fault points, once a case, and lets a fresh process resume it.

``python -m tests.acceptance.sweep FAULT`` prints one JSON line; ``WINDTUNNEL_SWEEP`` says which cases, see
``planned``. Everything is imported once; each life of a case is a fork of this process, which is what makes a
thousand of them affordable.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import resource
import shutil
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from tests.acceptance.sweep_report import FAULTS, SAMPLE, Case, Failure, Fault, Report
from windtunnel.testing import faults

if __name__ == "__main__":
    faults.install("windtunnel.storage", "windtunnel.scheduling", "windtunnel.telemetry")

import anyio
from sqlalchemy.exc import OperationalError

from tests.acceptance.oracle import problems
from tests.acceptance.scenario import LEASE, Fenced, fenced, live
from windtunnel import StorageUnavailable, WindtunnelError
from windtunnel.testing.detectors import nothing_left

_LIMIT_S = 20.0
_PAUSE_S = 0.004
_AT_ONCE = 5
_FROZEN_AT_ONCE = 6
_FROZEN_S = 2 * LEASE.total_seconds()
"""Less than the scenario's patience: one that is frozen in a transaction lets nobody else write."""
_RAW = ("storage.sqlite:", "storage.server:")
"""Modules in which errors are still those of the driver."""
_TEARS_DOWN = "scheduling.runner:TrialRunner.run#"
"""Where a fault may stand in the place of the teardown itself."""


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
            case "freeze":  # all threads, heartbeats too; who conducts this wakes us again
                os.kill(os.getpid(), signal.SIGSTOP)


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


_NONE = Fenced(0, 0)
_HUNG = "did not end"
_TOOK = "took "
"""What is wrong when a loaded machine lets leases expire, too; then it is tried again alone."""
_AGAIN = 0.5
"""The share of cases of which that is believed."""


class Frozen(NamedTuple):
    """The first life, while it stands still."""

    pid: int
    thaws_at: float


@dataclass
class Run:
    """A case under way."""

    case: Case
    folder: Path
    problems: list[str] = field(default_factory=list)
    lives: dict[int, str] = field(default_factory=dict)
    deadline: float = 0.0
    resumed: bool = False
    frozen: Frozen | None = None

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
        if not self.resumed and (self.frozen or not self.lives):
            self.resumed = True
            self._fork("second", partial(second_life, self.folder))
        if self.frozen and time.monotonic() >= self.frozen.thaws_at:
            os.kill(self.frozen.pid, signal.SIGCONT)
            self.frozen = None
        return self.resumed and not self.lives

    def _reap(self) -> None:
        late = time.monotonic() > self.deadline
        for pid, name in tuple(self.lives.items()):
            if late:
                self.problems.append(f"the {name} life {_HUNG}")
                os.kill(pid, signal.SIGKILL)
            changed, status = os.waitpid(pid, 0 if late else os.WNOHANG | os.WUNTRACED)
            if changed and os.WIFSTOPPED(status):
                self.frozen = Frozen(pid, time.monotonic() + _FROZEN_S)
            elif changed:
                self._ended(pid, name, os.waitstatus_to_exitcode(status))

    def _ended(self, pid: int, name: str, code: int) -> None:
        del self.lives[pid]
        if self.frozen and self.frozen.pid == pid:
            self.frozen = None
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

    def failure(self) -> Failure:
        logs = [path.read_text(encoding="utf-8")[-3000:] for path in sorted(self.folder.glob("*.log"))]
        return Failure(self.case, self.problems, logs)


@dataclass
class Conducted:
    """What some cases came to.

    :ivar struck: in how many of them the fault happened.
    :ivar fenced: what all of them lost to others.
    """

    struck: int = 0
    fenced: Fenced = _NONE
    failed: list[Failure] = field(default_factory=list)

    def add(self, run: Run) -> None:
        lost, refused = fenced(run.folder)
        self.struck += run.struck
        self.fenced = Fenced(self.fenced.lost + lost, self.fenced.refused + refused)
        if run.problems:
            self.failed.append(run.failure())


def conduct(cases: Sequence[Case], folder: Path, at_once: int) -> Conducted:
    """Run the cases, some at once."""
    waiting = iter(enumerate(cases))
    under_way: list[Run] = []
    done = Conducted()
    while True:
        while len(under_way) < at_once and (entry := next(waiting, None)):
            under_way.append(Run(entry[1], folder / str(entry[0])))
            under_way[-1].begin()
        if not under_way:
            return done
        time.sleep(_PAUSE_S)
        for run in [one for one in under_way if one.step()]:
            under_way.remove(run)
            run.judge()
            done.add(run)
            shutil.rmtree(run.folder)


def _may_be_starved(failed: Failure) -> bool:
    if any(_HUNG in problem for problem in failed.problems):  # the rest is wrong because it was killed
        return True
    return all(_TOOK in problem for problem in failed.problems)


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


def planned(seen: Counter[tuple[str, faults.Moment]], fault: Fault, sample: str = SAMPLE) -> Iterator[Case]:
    """Before each point at its first time, and after it at a later one, if the rehearsal came there.

    That is ``all``. A sample has one case a point: whatever its number, each point is struck by one of the
    four faults, at one of the two moments. With the next number it is the next fault's turn: four in a row
    strike each point with each fault, and eight are ``all``. Each day has a number of its own.
    """
    for point in sorted({point for point, _ in seen}):
        turn = crc32(point.encode())
        cases = [Case(point, "before", 1, fault)]
        if often := seen[point, "after"]:
            cases.append(Case(point, "after", 1 + turn % max(1, often * 2 // 3), fault))
        if sample == "all":
            yield from cases
            continue
        rounds, place = divmod(turn + int(sample), len(FAULTS))
        if fault == FAULTS[place]:
            yield cases[rounds % len(cases)]


def sweep(fault: Fault, folder: Path) -> Report:
    """In a process of its own: see ``swept``."""
    began = time.monotonic()
    seen = rehearse(folder / "rehearsal")
    cases = list(planned(seen, fault))
    done = conduct(cases, folder, _FROZEN_AT_ONCE if fault == "freeze" else _AT_ONCE)
    starved = [one for one in done.failed if _may_be_starved(one)]
    failed = done.failed
    if 0 < len(starved) <= _AGAIN * len(cases):
        again = conduct([one.case for one in starved], folder / "again", at_once=1)
        failed = [one for one in failed if one not in starved] + again.failed
    reached = sorted({point for point, _ in seen})
    return Report(
        fault=fault,
        cases=len(cases),
        struck=done.struck,
        failed=failed,
        tried_again=len(starved),
        lost=done.fenced.lost,
        refused=done.fenced.refused,
        reached=reached,
        not_reached=sorted(set(faults.installed()) - set(reached)),
        seconds=time.monotonic() - began,
        cpu_s=sum(_cpu_s(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)),
    )


def _cpu_s(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def main(fault: Fault) -> None:
    with tempfile.TemporaryDirectory(prefix="wt-sweep-") as name:
        sys.stdout.write(json.dumps(sweep(fault, Path(name))))


if __name__ == "__main__":
    assert sys.argv[1] in FAULTS, f"expected one of {FAULTS}"
    main(sys.argv[1])
