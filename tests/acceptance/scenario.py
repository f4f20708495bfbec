"""The experiment of the fault sweeps: twenty trials in two sessions, and what must hold once it has ended.

Every trial leaves a line in a file, those of one slot are scripts with processes of their own, and a trigger
in the database notes each outcome that was accepted, in the transaction that accepts it.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from tests.acceptance.ledger import ACCEPTED
from tests.integration.engines import OBJECTIVES, SPACE, Lab, Learning, scheduler
from windtunnel import (
    Environment,
    Experiment,
    Host,
    LocalEnv,
    RunResult,
    Sample,
    Status,
    Storage,
    StorageUnavailable,
    Timeouts,
    Trial,
    open_storage,
)
from windtunnel.model import FailureKind, StatusReport, utc_now
from windtunnel.protocols import LocalExec, Services
from windtunnel.pruners import make_pruner
from windtunnel.scheduling.policy import Retry
from windtunnel.services.local_exec import LocalExecService

__all__ = ["LEASE", "TRIALS", "live", "problems"]

TRIALS = 20
LEASE = timedelta(seconds=0.9)
_STOPPED_AFTER = 5
_LOST_CLAIM = 2
_STEP_S = 0.03
_LONG_STEP_S = 0.4
"""Longer than a heartbeat: the last trials."""
_POLL = timedelta(milliseconds=15)
_PATIENCE = timedelta(seconds=3)
_LIMIT_S = 12.0
_SCRIPTS = {
    "setup": ['sleep 600 & echo "$!" >> "$folder/processes"'],
    "run": ['echo "$trial_id" >> "$folder/runs"', 'echo "seen=$trial_id"', 'echo "score: $x"'],
    "shell_env_params": ["x", "folder"],
    "results_stdout_pattern": r"^(?P<metric>score): (?P<value>\S+)$",
    "telemetry_stdout_pattern": r"^(?P<metric>seen)=(?P<value>\d+)$",
    "tunable_params": ["g"],
}


_PLANNED = ("interrupted", "given back")
"""What becomes of a trial that runs while a session ends before its time; there are two of those."""
_ENDS = {Status.SUCCEEDED.value, Status.FAILED.value}


_RETRIES = dict.fromkeys(FailureKind, Retry(times=3, pause=timedelta(milliseconds=10)))
_HOSTS = [Host(name="a", slots=2), Host(name="b", slots=2)]
_AMPLE = timedelta(minutes=5)
_HARMLESS = {"rules": [{"metric": "seen", "above": 1000}]}
_FAILING = (3, 9, 15)
"""Trials that fail at first and are tried again."""


class Bench(Environment):
    """A trial without a process: it leaves a line, is polled, and emits its number. One fails at first."""

    def __init__(self, folder: Path, started: Callable[[], None]) -> None:
        self._runs = folder / "runs"
        self._started = started
        required = ["trial_id", "host", "trial_runner_id"]
        config = {"tunable_params": ["g"], "required_args": required}
        super().__init__(name="bench", config=config, tunables=SPACE)

    async def _setup(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def _run(self) -> RunResult:
        number = self.parameters["trial_id"]
        assert isinstance(number, int)
        with self._runs.open("a", encoding="utf-8") as file:
            file.write(f"{number}\n")
        self._started()
        if number in _FAILING and _lines(self._runs).count(str(number)) == 1:
            raise RuntimeError("as it is written")
        await self._emit([Sample(utc_now(), "seen", number)])
        await anyio.sleep(_STEP_S if number < TRIALS - 1 else _LONG_STEP_S)
        return RunResult(Status.SUCCEEDED, utc_now(), {"score": self.parameters["x"]})

    async def _status(self) -> StatusReport:
        return StatusReport(Status.RUNNING, utc_now(), [Sample(utc_now(), "polled", 1)])

    async def _teardown(self) -> None:
        await anyio.lowlevel.checkpoint()


async def live(folder: Path, *, fresh: bool) -> None:
    """One process's share: if ``fresh``, one session that is stopped, and one that fails; then two end it."""
    async with open_storage(f"sqlite:///{folder / 'test.db'}", patience=_PATIENCE) as storage:
        try:
            async with storage.experiment(
                experiment_id="e", tunables=SPACE, opt_targets=OBJECTIVES
            ) as experiment:
                _note_what_is_accepted(folder)
                if fresh:
                    await _session(experiment, folder, stopped_after=_STOPPED_AFTER)
                    await _failing_session(experiment, folder)
                async with anyio.create_task_group() as workers:
                    workers.start_soon(_session, experiment, folder)
                    workers.start_soon(_session, experiment, folder)
        finally:
            await _idle(storage)


async def _session(experiment: Experiment, folder: Path, stopped_after: int | None = None) -> None:
    begun = 0

    def started() -> None:
        nonlocal begun
        begun += 1
        if begun == stopped_after:
            engine.stop()

    def make(_host: Host, runner_id: int) -> Environment:
        if runner_id > 1:
            return Bench(folder, started)
        services = Services({LocalExec: LocalExecService()})
        const = {"folder": str(folder)}
        return LocalEnv(
            name="scripts", config={**_SCRIPTS, "const_args": const}, tunables=SPACE, service=services
        )

    engine = scheduler(
        experiment,
        Lab(),
        trials=TRIALS,
        optimizer=Learning(),
        make_environment=make,
        hosts=_HOSTS,
        repeats=2,
        retries=_RETRIES,
        pruner=make_pruner("threshold", objectives=OBJECTIVES, options=_HARMLESS),
        time_budget=_AMPLE,
        timeouts=Timeouts(experiment=_AMPLE, trial=_AMPLE, setup=_AMPLE, run=_AMPLE),
        lease=LEASE,
        poll_period=_POLL,
    )
    await engine.run()


class AnswerLost(StorageUnavailable):
    """The database did what it was asked to, and nobody heard of it."""


async def _failing_session(experiment: Experiment, folder: Path) -> None:
    """One whose second claim is done and not answered: what it holds has to be found and given back."""
    claim, left = experiment.claim, _LOST_CLAIM

    async def lost(*args: Any, **options: Any) -> list[Trial]:
        nonlocal left
        claimed = await claim(*args, **options)
        left -= bool(claimed)
        if claimed and left == 0:
            raise AnswerLost("the answer was lost")
        return claimed

    experiment.claim = lost  # type: ignore[method-assign]  # once
    try:
        with suppress(AnswerLost):
            await _session(experiment, folder)
    finally:
        experiment.claim = claim  # type: ignore[method-assign]  # as it was


async def _idle(storage: Storage) -> None:
    """Fail if a connection goes on working for somebody."""
    with anyio.CancelScope(shield=True), anyio.fail_after(_LIMIT_S):
        while storage._database.in_use:
            await anyio.sleep(0.002)


def _note_what_is_accepted(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "test.db", timeout=_LIMIT_S)) as connection:
        connection.executescript(ACCEPTED)


# What must hold at the end


def problems(folder: Path, *, faults: int, failures: int, orderly: bool) -> list[str]:
    """What is wrong once the experiment has ended; nothing, if all is well.

    :param failures: how many trials may have failed, besides those that are written to fail: in a session
        that is ending nothing is tried again.
    :param orderly: every process could tidy up behind itself.
    """
    with closing(sqlite3.connect(folder / "test.db", timeout=_LIMIT_S)) as connection:
        found = [*_trials_wrong(connection, faults), *_leases_wrong(connection)]
        attempts = dict(connection.execute("SELECT trial_id, attempt FROM trial"))
        well = f"SELECT trial_id FROM trial WHERE status = {Status.SUCCEEDED.value} ORDER BY trial_id"
        succeeded = [i for (i,) in connection.execute(well)]
        found += _telemetry_wrong(connection, succeeded)
    if len(succeeded) < TRIALS - failures:
        found.append(f"only these succeeded: {succeeded}")
    runs = Counter(int(line) for line in _lines(folder / "runs"))
    found += [f"trial {i} ran {runs[i]} times in {n} attempts" for i, n in attempts.items() if runs[i] > n]
    found += [f"trial {i} never ran" for i in succeeded if not runs[i]]
    found += [f"process {pid} of a trial is alive" for pid in _lines(folder / "processes") if _sleeps(pid)]
    if orderly and (left := sorted(one.name for one in (folder / "tmp").iterdir())):
        found.append(f"directories of trials were left: {left}")
    return found


def _trials_wrong(connection: sqlite3.Connection, faults: int) -> Iterator[str]:
    rows = connection.execute("SELECT trial_id, status, attempt FROM trial ORDER BY trial_id").fetchall()
    if [row[0] for row in rows] != list(range(1, TRIALS + 1)):
        yield f"there are {len(rows)} trials: {[row[0] for row in rows]}"
    accepted: dict[int, list[tuple[int, int]]] = {}
    for trial_id, token, status in connection.execute("SELECT trial_id, token, status FROM accepted"):
        accepted.setdefault(trial_id, []).append((token, status))
    archived = connection.execute(
        "SELECT trial_id, attempt, reason FROM trial_attempt ORDER BY 1, 2"
    ).fetchall()
    for trial_id, status, attempt in rows:
        if status not in _ENDS:
            yield f"trial {trial_id} is {Status(status).name}"
        outcomes = accepted.get(trial_id, [])
        statuses = [Status(one) for _, one in outcomes]
        if [one.value in _ENDS for one in statuses].count(True) != 1 or statuses[-1].value != status:
            yield f"trial {trial_id} is {Status(status).name}, accepted were {[one.name for one in statuses]}"
        if len({token for token, _ in outcomes}) != len(outcomes):
            yield f"of trial {trial_id} two outcomes were accepted under one token: {outcomes}"
        before = {number: reason for i, number, reason in archived if i == trial_id}
        planned = sum(reason.startswith(_PLANNED) for reason in before.values())
        if attempt > 1 + faults + min(planned, 2) + (trial_id in _FAILING):
            yield f"trial {trial_id} took {attempt} attempts: {before}"
        if list(before) != list(range(1, attempt)):
            yield f"of trial {trial_id} in its attempt {attempt} the attempts {list(before)} are kept"


def _leases_wrong(connection: sqlite3.Connection) -> Iterator[str]:
    for trial_id, owner in connection.execute(
        "SELECT trial_id, owner FROM trial WHERE lease_until_us IS NOT NULL"
    ):
        yield f"trial {trial_id} is leased to {owner}"
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if "optimizer_lease" in tables and connection.execute("SELECT * FROM optimizer_lease").fetchall():
        yield "the optimizer is leased"


def _telemetry_wrong(connection: sqlite3.Connection, succeeded: list[int]) -> Iterator[str]:
    """What was recorded before an outcome was accepted is there with it."""
    points = connection.execute(
        "SELECT trial_id, number FROM trial JOIN telemetry USING (experiment, trial_id, attempt)"
        " JOIN metric ON metric.id = metric_id WHERE name = 'seen' ORDER BY trial_id"
    ).fetchall()
    if [one for one in points if one[0] in succeeded] != [(i, i) for i in succeeded]:
        yield f"the telemetry of what succeeded is {points}"


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").split() if file.exists() else []


def _sleeps(pid: str) -> bool:
    """Whether the process with this number is still one of a script of ours."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\0600")
    except OSError:
        return False
