"""What somebody sees who looks at an experiment from outside: bounded reads, however big it has grown.

Rows are read of the running trials that are shown, of the newest trials, and of the newest points of each
shown trial, all in the order of an index and up to a limit. What is counted over all trials, their states and
the best value so far, is counted in indexes; whoever looks again and again should mind how long that takes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select

from windtunnel.model import Direction, Status, Value
from windtunnel.storage import values
from windtunnel.storage.schema import (
    IS_COMPLETED,
    IS_RUNNING,
    config,
    metric,
    session,
    status_is,
    telemetry,
    trial,
)

__all__ = ["HostResults", "Observation", "RunningNow", "Series", "WorkerNow", "best_so_far", "observe"]

SHOWN = 8
RECENT = 512
"""Newest trials that are looked at."""
POINTS = 240
"""Newest points of a shown trial that are looked at, over all its metrics."""
BUCKETS = 48
_MOST_WORKERS = 1000


class Series(NamedTuple):
    """The newest values of a metric of one trial, the oldest first."""

    metric: str
    values: Sequence[Value]


class RunningNow(NamedTuple):
    """A running trial.

    :ivar machine: of its worker; which of the worker's hosts it runs on is only stored at its end.
    """

    trial_id: int
    machine: str | None
    started: datetime | None
    config: dict[str, Value]
    telemetry: Sequence[Series]


class WorkerNow(NamedTuple):
    """The trials that workers on a machine run."""

    machine: str
    running: int


class HostResults(NamedTuple):
    """What came of the newest trials on a host."""

    host: str
    succeeded: int
    failed: int


class Observation(NamedTuple):
    """A look at an experiment.

    :ivar running: a few of the running trials, the longest-running first.
    :ivar workers: those that run something, by machine.
    :ivar hosts: by name.
    :ivar ended: when the newest trials ended that did, the earliest first.
    :ivar joined: when the newest worker joined.
    """

    running: Sequence[RunningNow]
    workers: Sequence[WorkerNow]
    hosts: Sequence[HostResults]
    ended: Sequence[datetime]
    joined: datetime | None


def observe(connection: Connection, experiment_pk: int) -> Observation:
    """What runs, where, and what came of the newest trials."""
    sessions = _sessions(connection, experiment_pk)
    machines = {row.owner: json.loads(row.facts).get("hostname") for row in sessions}
    recent = _recent(connection, experiment_pk)
    ended = sorted(row.ended_us for row in recent if row.ended_us is not None and row.status >= _COMPLETED)
    return Observation(
        running=_running(connection, experiment_pk, machines),
        workers=_workers(connection, experiment_pk, machines),
        hosts=_hosts(recent),
        ended=[values.from_us(moment) for moment in ended],
        joined=values.from_us(sessions[0].started_us) if sessions else None,
    )


def best_so_far(connection: Connection, experiment_pk: int, direction: Direction) -> list[tuple[int, float]]:
    """The best value of the first objective up to a trial, over at most 48 trials: (number, value)."""
    last = connection.execute(
        select(func.max(trial.c.trial_id)).where(trial.c.experiment == experiment_pk)
    ).scalar()
    if last is None:
        return []
    best, better = (func.min, min) if direction == "min" else (func.max, max)
    width = max(1, -(-int(last) // BUCKETS))
    bucket = ((trial.c.trial_id - 1) // width).label("bucket")
    rows = connection.execute(
        select(bucket, best(trial.c.score))
        .where(
            trial.c.experiment == experiment_pk,
            IS_COMPLETED,
            status_is(Status.SUCCEEDED),
            trial.c.score.is_not(None),
        )
        .group_by("bucket")
        .order_by("bucket")
    )
    found: list[tuple[int, float]] = []
    for number, score in rows:
        value = float(score) if not found else better(found[-1][1], float(score))
        found.append((min((int(number) + 1) * width, int(last)), value))
    return found


_COMPLETED = Status.SUCCEEDED.value


def _sessions(connection: Connection, experiment_pk: int) -> Sequence[Any]:
    """The workers that joined last, the newest first."""
    return connection.execute(
        select(session.c.owner, session.c.facts, session.c.started_us)
        .where(session.c.experiment == experiment_pk)
        .order_by(session.c.started_us.desc())
        .limit(_MOST_WORKERS)
    ).all()


def _recent(connection: Connection, experiment_pk: int) -> Sequence[Any]:
    return connection.execute(
        select(trial.c.status, trial.c.host, trial.c.ended_us)
        .where(trial.c.experiment == experiment_pk)
        .order_by(trial.c.trial_id.desc())
        .limit(RECENT)
    ).all()


def _workers(
    connection: Connection, experiment_pk: int, machines: Mapping[str, str | None]
) -> list[WorkerNow]:
    rows = connection.execute(
        select(trial.c.owner, func.count())
        .where(trial.c.experiment == experiment_pk, IS_RUNNING)
        .group_by(trial.c.owner)
        .limit(_MOST_WORKERS)
    )
    running: Counter[str] = Counter()
    for owner, count in rows:
        running[machines.get(owner) or "unknown"] += count
    return [WorkerNow(*one) for one in sorted(running.items())]


def _hosts(recent: Sequence[Any]) -> list[HostResults]:
    done: dict[str, list[int]] = {}
    for row in recent:
        if row.host is not None and row.status >= _COMPLETED and row.status != Status.CANCELED.value:
            done.setdefault(row.host, [0, 0])[row.status != Status.SUCCEEDED.value] += 1
    return [HostResults(host, succeeded, failed) for host, (succeeded, failed) in sorted(done.items())]


def _running(
    connection: Connection, experiment_pk: int, machines: Mapping[str, str | None]
) -> list[RunningNow]:
    rows = connection.execute(
        select(
            trial.c.trial_id,
            trial.c.attempt,
            trial.c.owner,
            trial.c.started_us,
            config.c.params,
        )
        .join(config, config.c.id == trial.c.config_id)
        .where(trial.c.experiment == experiment_pk, IS_RUNNING)
        .order_by(trial.c.started_us, trial.c.trial_id)
        .limit(SHOWN)
    ).all()
    return [
        RunningNow(
            trial_id=row.trial_id,
            machine=machines.get(row.owner),
            started=None if row.started_us is None else values.from_us(row.started_us),
            config=values.load(row.params),
            telemetry=_newest_points(connection, experiment_pk, row.trial_id, row.attempt),
        )
        for row in rows
    ]


def _newest_points(connection: Connection, experiment_pk: int, trial_id: int, attempt: int) -> list[Series]:
    rows = connection.execute(
        select(metric.c.name, telemetry.c.number, telemetry.c.text)
        .join(metric, metric.c.id == telemetry.c.metric_id)
        .where(
            telemetry.c.experiment == experiment_pk,
            telemetry.c.trial_id == trial_id,
            telemetry.c.attempt == attempt,
        )
        .order_by(telemetry.c.ts_us.desc(), telemetry.c.metric_id.desc())
        .limit(POINTS)
    ).all()
    series: dict[str, list[Value]] = {}
    for name, number, text in reversed(rows):
        series.setdefault(name, []).append(text if number is None else number)
    return [Series(name, found) for name, found in sorted(series.items())]
