"""The oracle of the fault sweeps: what must hold once their scenario has ended, whatever befell it."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tests.acceptance.scenario import FAILING, TRIALS, lines_of
from windtunnel import Status

__all__ = ["problems"]

_LOCKED_S = 12.0
_PLANNED = ("interrupted", "given back")
"""What becomes of a trial that runs while a session ends before its time; there are two of those."""
_ENDS = {Status.SUCCEEDED.value, Status.FAILED.value}


def problems(folder: Path, *, faults: int, failures: int, orderly: bool) -> list[str]:
    """What is wrong once the experiment has ended; nothing, if all is well.

    :param failures: how many trials may have failed, besides those that are written to fail: in a session
        that is ending nothing is tried again.
    :param orderly: every process could tidy up behind itself.
    """
    with closing(sqlite3.connect(folder / "test.db", timeout=_LOCKED_S)) as connection:
        found = [*_trials_wrong(connection, faults), *_leases_wrong(connection)]
        attempts = dict(connection.execute("SELECT trial_id, attempt FROM trial"))
        well = f"SELECT trial_id FROM trial WHERE status = {Status.SUCCEEDED.value} ORDER BY trial_id"
        succeeded = [i for (i,) in connection.execute(well)]
        found += [*_telemetry_wrong(connection, succeeded), *_owners_wrong(connection)]
    if len(succeeded) < TRIALS - failures:
        found.append(f"only these succeeded: {succeeded}")
    runs = Counter(int(line) for line in lines_of(folder / "runs"))
    found += [f"trial {i} ran {runs[i]} times in {n} attempts" for i, n in attempts.items() if runs[i] > n]
    found += [f"trial {i} never ran" for i in succeeded if not runs[i]]
    found += [f"process {pid} of a trial is alive" for pid in lines_of(folder / "processes") if _sleeps(pid)]
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
        if attempt > 1 + faults + min(planned, 2) + (trial_id in FAILING):
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


def _owners_wrong(connection: sqlite3.Connection) -> Iterator[str]:
    """The outcome is of the one that held the trial, and of none before it."""
    rows = connection.execute(
        "SELECT trial_id, owner, json_extract(metrics, '$.pid') AS pid FROM trial WHERE pid IS NOT NULL"
    ).fetchall()
    if not rows:
        yield "no trial tells where it ran"
    for trial_id, owner, pid in rows:
        if f"/{pid}/" not in owner:
            yield f"trial {trial_id} was held by {owner}, the outcome is of process {pid}"


def _sleeps(pid: str) -> bool:
    """Whether the process with this number is still one of a script of ours."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\0600")
    except OSError:
        return False
