"""What copying and importing share: rows that come from another database and go into ours.

All of it may be done again: what is there already is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, bindparam, delete, func, insert, select, update

from windtunnel.errors import ExperimentMismatch
from windtunnel.model import Status
from windtunnel.storage import adding, clock, ending, recording
from windtunnel.storage.database import Database
from windtunnel.storage.dialects import insert_rows
from windtunnel.storage.schema import experiment, telemetry, trial, trial_attempt

__all__ = [
    "Point",
    "Progress",
    "Row",
    "TelemetryTarget",
    "Transferred",
    "TrialPage",
    "number_from",
    "point_counts",
    "store_trials",
]

Attempt = tuple[int, int]
"""trial_id, attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """What has come into one experiment.

    :ivar experiment_id: its name in the database it came to.
    :ivar trials: how many it had to look at so far.
    :ivar new: trials that were not there.
    :ivar updated: trials that were there and have got on since.
    :ivar points: of telemetry, that were not there.
    :ivar notes: what could not be taken over as it was, for people.
    """

    experiment_id: str
    trials: int = 0
    new: int = 0
    updated: int = 0
    points: int = 0
    notes: tuple[str, ...] = ()


_WAS_RUNNING = "was running elsewhere when it was taken over"

Progress = Callable[[Transferred], None]
"""Called after every page."""


Row = dict[str, Any]
"""Column → value."""


class TrialPage(NamedTuple):
    """Trials and attempts in terms of columns, in order of trial ids and not empty.

    :ivar trials: with ``digest`` and ``params`` of their configurations; the keys of theirs do not matter.
    """

    trials: Sequence[Row]
    attempts: Sequence[Row]


class Point(NamedTuple):
    """A point of telemetry, its metric by name."""

    trial_id: int
    attempt: int
    ts_us: int
    metric: str
    number: float | None
    text: str | None


def point_counts(connection: Connection, experiment_pk: int, first: int, last: int) -> dict[Attempt, int]:
    """How many points each attempt of the trials from ``first`` to ``last`` has."""
    key = (telemetry.c.trial_id, telemetry.c.attempt)
    rows = connection.execute(
        select(*key, func.count())
        .where(telemetry.c.experiment == experiment_pk, telemetry.c.trial_id.between(first, last))
        .group_by(*key)
    )
    return {(trial_id, attempt): number for trial_id, attempt, number in rows}


class TelemetryTarget:
    """Takes the telemetry of one experiment; trials must be there before their points."""

    def __init__(self, database: Database, experiment_pk: int) -> None:
        self._database = database
        self._key = experiment_pk
        self._metrics: dict[str, int] = {}

    async def counts(self, first: int, last: int) -> dict[Attempt, int]:
        """``point_counts`` of what is here."""
        return await self._database.read(point_counts, self._key, first, last)

    async def add(self, points: Sequence[Point]) -> None:
        """Store the points that are not here yet."""
        if points:
            known = {point.metric for point in points} & self._metrics.keys()
            self._metrics.update(
                await self._database.write(_store, self._key, points, {m: self._metrics[m] for m in known})
            )


def _store(
    connection: Connection, experiment_pk: int, points: Sequence[Point], known: dict[str, int]
) -> dict[str, int]:
    unknown = sorted({point.metric for point in points} - known.keys())
    new: dict[str, int] = recording.register_metrics(connection, [unknown])[0] if unknown else {}
    ids = {**known, **new}
    rows = [
        (experiment_pk, trial_id, attempt, ts_us, ids[metric], number, text)
        for trial_id, attempt, ts_us, metric, number, text in points
    ]
    insert_rows(connection, telemetry, rows)
    return new


# Trials


def number_from(connection: Connection, experiment_pk: int, number: int) -> None:
    """Give new trials numbers from ``number`` on, at least."""
    behind = and_(experiment.c.id == experiment_pk, experiment.c.next_trial_id < number)
    connection.execute(update(experiment).where(behind).values(next_trial_id=number))


def store_trials(connection: Connection, experiment_pk: int, page: TrialPage) -> tuple[int, int]:
    """Store the trials that are new or have got on; how many were which. Those that run become PENDING.

    :raises ExperimentMismatch: if one is there that is another trial.
    """
    number_from(connection, experiment_pk, page.trials[-1]["trial_id"] + 1)
    here = _trials_here(connection, experiment_pk, page)
    ids = adding.config_ids(connection, ((row["digest"], row["params"]) for row in page.trials))
    new: list[Row] = []
    updated: list[Row] = []
    attempts = list(page.attempts)
    for theirs in page.trials:
        row = {column.name: theirs[column.name] for column in trial.columns}
        row |= {"experiment": experiment_pk, "config_id": ids[theirs["digest"]]}
        if row["status"] == Status.RUNNING.value:
            attempts.append(_stopped(row, clock.now_us(connection)))
            row |= {**dict.fromkeys(ending.CLEARED), "status": Status.PENDING.value}
        ours = here.get(row["trial_id"])
        if ours is None:
            new.append(row)
        elif _has_got_on(row, ours):
            updated.append(row)
    if new:
        connection.execute(insert(trial), new)
    if updated:
        connection.execute(
            _UPDATE, [{f"new_{name}": value for name, value in row.items()} for row in updated]
        )
    _store_attempts(connection, experiment_pk, attempts, new=new, updated=updated)
    return len(new), len(updated)


def _trials_here(connection: Connection, experiment_pk: int, page: TrialPage) -> dict[int, Any]:
    """The trials of the page that the target has.

    :raises ExperimentMismatch: if one of them is another trial.
    """
    first, last = page.trials[0]["trial_id"], page.trials[-1]["trial_id"]
    mine = and_(trial.c.experiment == experiment_pk, trial.c.trial_id.between(first, last))
    columns = (trial.c.trial_id, trial.c.status, trial.c.attempt, trial.c.token, trial.c.created_us)
    here = {row.trial_id: row for row in connection.execute(select(*columns).where(mine).with_for_update())}
    for row in page.trials:
        ours = here.get(row["trial_id"])
        if ours is not None and ours.created_us != row["created_us"]:
            raise ExperimentMismatch(
                f"trial {ours.trial_id} is in the target already and is another one: the two experiments "
                "only share their name; rename one of them first"
            )
    return here


def _has_got_on(theirs: Row, ours: Any) -> bool:
    """Whether the source knows more of a trial than the target, in which nobody has run it since."""
    if (theirs["status"], theirs["attempt"], theirs["token"]) == (ours.status, ours.attempt, ours.token):
        return False
    if ours.status == Status.PENDING.value:
        return bool(theirs["token"] >= ours.token)
    # Canceled as its scheduler stopped, and taken up again.
    return bool(ours.status == Status.CANCELED.value and theirs["token"] > ours.token)


def _stopped(row: Row, now: int) -> Row:
    """The attempt that goes on in the source and does not in the target."""
    kept = {name: row[name] for name in ("experiment", "trial_id", "attempt", "owner", "host", "started_us")}
    return {
        **kept,
        "ended_us": now,
        "status": Status.CANCELED.value,
        "reason": _WAS_RUNNING,
        "failure_kind": None,
    }


_KEY = ("experiment", "trial_id")
_UPDATE = (
    update(trial)
    .where(and_(*(trial.c[name] == bindparam(f"new_{name}") for name in _KEY)))
    .values({c.name: bindparam(f"new_{c.name}") for c in trial.columns if c.name not in _KEY})
)


def _store_attempts(
    connection: Connection, experiment_pk: int, attempts: Iterable[Row], *, new: list[Row], updated: list[Row]
) -> None:
    stale = [row["trial_id"] for row in updated]
    if stale:
        mine = and_(trial_attempt.c.experiment == experiment_pk, trial_attempt.c.trial_id.in_(stale))
        connection.execute(delete(trial_attempt).where(mine))
    wanted = {row["trial_id"] for row in new}.union(stale)
    rows = [{**row, "experiment": experiment_pk} for row in attempts if row["trial_id"] in wanted]
    if rows:
        connection.execute(insert(trial_attempt), rows)
