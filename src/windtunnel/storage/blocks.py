"""The reads for analysis: functions of a connection that give the next block of rows as they are stored.

Each goes on after the key of the row before, so that nothing is held between blocks, neither a transaction
nor rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, and_, case, func, null, or_, select, tuple_

from windtunnel.model import Status
from windtunnel.storage.schema import IS_COMPLETED, config, metric, telemetry, trial

__all__ = ["ATTEMPTS", "EVERY_TRIAL", "Key", "Rows", "Span", "raw"]

Rows = Sequence[Sequence[Any]]

ATTEMPTS = 2**20
"""More than a trial ever has: trial and attempt travel as one number, trial_id * ATTEMPTS + attempt."""
_CHUNK = 500
_LEAST = -(2**63)
_MOST = 2**63 - 1


def raw(connection: Connection, statement: Select[Any]) -> Rows:
    """The rows as the driver's own tuples: a ``Row`` each would cost as much as the reading."""
    result = connection.execute(statement)
    cursor: Any = result.cursor
    rows: Rows = cursor.fetchall()
    result.close()
    return rows


def results(connection: Connection, experiment_pk: int, after: int, limit: int) -> Rows:
    """The next trials: the fields of ``analysis.ResultRow`` but the experiment, in terms of columns."""
    return raw(
        connection,
        select(
            trial.c.trial_id,
            trial.c.config_id,
            trial.c.status,
            trial.c.attempt,
            trial.c.owner,
            trial.c.host,
            trial.c.created_us,
            trial.c.started_us,
            trial.c.ended_us,
            trial.c.failure,
            config.c.params,
            trial.c.metrics,
        )
        .join(config, config.c.id == trial.c.config_id)
        .where(trial.c.experiment == experiment_pk, trial.c.trial_id > after)
        .order_by(trial.c.trial_id)
        .limit(limit),
    )


def configs(connection: Connection, experiment_pk: int, after: int, limit: int) -> Rows:
    """The next configurations: config_id, trials, succeeded trials, params."""
    succeeded = case((trial.c.status == Status.SUCCEEDED.value, 1), else_=0)
    counted = (
        select(
            trial.c.config_id,
            func.count().label("trials"),
            func.sum(succeeded).label("succeeded"),
        )
        .where(trial.c.experiment == experiment_pk, trial.c.config_id > after)
        .group_by(trial.c.config_id)
        .order_by(trial.c.config_id)
        .limit(limit)
        .subquery()
    )
    joined = select(counted.c.config_id, counted.c.trials, counted.c.succeeded, config.c.params)
    joined = joined.join(config, config.c.id == counted.c.config_id)
    return [
        (pk, trials, int(good), params)
        for pk, trials, good, params in raw(connection, joined.order_by(counted.c.config_id))
    ]


# Telemetry


class Key(NamedTuple):
    """Where a listing of points goes on."""

    trial_id: int
    attempt: int = -1
    ts_us: int = _LEAST
    metric_id: int = 0


class Span(NamedTuple):
    """Trials with neighbouring ids, both ends included."""

    first: int = _LEAST
    last: int = _MOST


EVERY_TRIAL = Span()


def spans(
    connection: Connection, experiment_pk: int, trial_ids: Sequence[int]
) -> tuple[list[Span], set[int]]:
    """The trials as runs of neighbouring ids, and the ids that no trial has."""
    wanted = sorted(set(trial_ids))
    found: set[int] = set()
    for start in range(0, len(wanted), _CHUNK):
        some = trial.c.trial_id.in_(wanted[start : start + _CHUNK])
        rows = connection.execute(select(trial.c.trial_id).where(trial.c.experiment == experiment_pk, some))
        found.update(rows.scalars())
    runs: list[Span] = []
    for one in wanted:
        if runs and runs[-1].last == one - 1:
            runs[-1] = Span(runs[-1].first, one)
        else:
            runs.append(Span(one, one))
    return runs, set(wanted) - found


def points(
    connection: Connection, experiment_pk: int, span: Span, after: Key, limit: int, with_text: bool
) -> Rows:
    """The next points in order of their key: trial and attempt as one number, ts_us, metric_id, number, text.

    Most telemetry is numbers only. So without ``with_text`` the text is not asked for; if a point of the
    block has one, the block is read again with it.
    """
    beyond = _beyond(connection, after)
    columns: list[Any] = [_trial_and_attempt(), telemetry.c.ts_us, telemetry.c.metric_id]
    if with_text:
        columns += [telemetry.c.number, telemetry.c.text]
    else:
        columns += [case((telemetry.c.text.is_(None), telemetry.c.number), else_=null())]
    rows = raw(
        connection,
        select(*columns)
        .where(telemetry.c.experiment == experiment_pk, telemetry.c.trial_id <= span.last, beyond)
        .order_by(telemetry.c.trial_id, telemetry.c.attempt, telemetry.c.ts_us, telemetry.c.metric_id)
        .limit(limit),
    )
    if not with_text and None in map(_VALUE, rows):
        return points(connection, experiment_pk, span, after, limit, with_text=True)
    return rows


_VALUE = itemgetter(3)


def _trial_and_attempt() -> Any:
    return telemetry.c.trial_id * ATTEMPTS + telemetry.c.attempt


def key_of(row: Sequence[Any]) -> Key:
    """The key of a row that ``points`` gave."""
    return Key(row[0] // ATTEMPTS, row[0] % ATTEMPTS, row[1], row[2])


_KEY = (telemetry.c.trial_id, telemetry.c.attempt, telemetry.c.ts_us, telemetry.c.metric_id)


def _beyond(connection: Connection, after: Key) -> Any:
    """``key > after``, so that the primary key's index is used: MySQL does not for a comparison of rows."""
    if connection.dialect.name != "mysql":
        return tuple_(*_KEY) > tuple(after)
    (column, value), *inner = reversed(list(zip(_KEY, after, strict=True)))
    beyond: Any = column > value
    for column, value in inner:
        beyond = or_(column > value, and_(column == value, beyond))
    return beyond


def metric_names(connection: Connection, ids: Sequence[int]) -> dict[int, str]:
    """id → name."""
    names: dict[int, str] = {}
    for start in range(0, len(ids), _CHUNK):
        some = metric.c.id.in_(ids[start : start + _CHUNK])
        rows = connection.execute(select(metric.c.id, metric.c.name).where(some))
        names.update((metric_id, name) for metric_id, name in rows)
    return names


# Comparing configurations


def scores(connection: Connection, experiment_pk: int, after: int, limit: int) -> Rows:
    """The next succeeded trials: trial_id, config_id, metrics."""
    succeeded = trial.c.status == Status.SUCCEEDED.value
    return raw(
        connection,
        select(trial.c.trial_id, trial.c.config_id, trial.c.metrics)
        .where(trial.c.experiment == experiment_pk, IS_COMPLETED, succeeded, trial.c.trial_id > after)
        .order_by(trial.c.trial_id)
        .limit(limit),
    )


def params(connection: Connection, ids: Sequence[int]) -> dict[int, str]:
    """config_id → its params."""
    found: dict[int, str] = {}
    for start in range(0, len(ids), _CHUNK):
        some = config.c.id.in_(ids[start : start + _CHUNK])
        rows = connection.execute(select(config.c.id, config.c.params).where(some))
        found.update((config_id, text) for config_id, text in rows)
    return found
