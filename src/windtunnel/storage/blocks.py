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

__all__ = ["ATTEMPTS", "EVERY_TRIAL", "METRICS", "Block", "Key", "Rows", "Span", "raw"]

Rows = Sequence[Sequence[Any]]

ATTEMPTS = 2**20
"""More than a trial ever has: trial and attempt travel as one number, trial_id * ATTEMPTS + attempt."""
METRICS = 2**20
"""Time and metric travel as one number too, where they fit in: metrics below this one, for 101 days."""
_CHUNK = 500
_FEW = 4
"""An attempt with less than this part of a block is read together with the next ones."""
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


class Block(NamedTuple):
    """Points in order of their key; a row is trial and attempt as one number, ts_us, metric_id, number, text.

    Without any text in the block the rows end with the number.

    :ivar start: if given, all points are numbers of its attempt, and a row is but (packed, number), where
        packed is (ts_us - start.ts_us) * METRICS + metric_id.
    """

    rows: Rows
    start: Key | None = None

    @property
    def last(self) -> Key:
        """The key of the last row."""
        row = self.rows[-1]
        if self.start is None:
            return Key(row[0] // ATTEMPTS, row[0] % ATTEMPTS, row[1], row[2])
        return self.start._replace(ts_us=self.start.ts_us + row[0] // METRICS, metric_id=row[0] % METRICS)


def points(connection: Connection, experiment_pk: int, span: Span, after: Key, limit: int) -> Block:
    """The next points, at most ``limit``.

    Where an attempt has many, they are of that attempt only and packed: most of the time goes into making
    Python's objects, so a row of two is read in two thirds of the time of one of four.
    """
    start = _next_key(connection, experiment_pk, span, after)
    if start is None:
        return Block([])
    rows = raw(connection, _packed(connection, experiment_pk, start).limit(limit))
    if None in map(_FIRST, rows):
        return points_with_text(connection, experiment_pk, span, after, limit)
    if len(rows) * _FEW >= limit:
        return Block(rows, start)
    number = case((telemetry.c.text.is_(None), telemetry.c.number), else_=null())
    rows = raw(connection, _of_any(connection, experiment_pk, span, after, number).limit(limit))
    if None in map(_FOURTH, rows):
        return points_with_text(connection, experiment_pk, span, after, limit)
    return Block(rows)


def points_with_text(connection: Connection, experiment_pk: int, span: Span, after: Key, limit: int) -> Block:
    """The next points of any attempts: ``limit``, unless there are no more. Every row has a text or None."""
    value = telemetry.c.number, telemetry.c.text
    return Block(raw(connection, _of_any(connection, experiment_pk, span, after, *value).limit(limit)))


_KEY = (telemetry.c.trial_id, telemetry.c.attempt, telemetry.c.ts_us, telemetry.c.metric_id)
_FIRST, _FOURTH = itemgetter(0), itemgetter(3)


def _next_key(connection: Connection, experiment_pk: int, span: Span, after: Key) -> Key | None:
    rows = raw(connection, _next(connection, experiment_pk, span, after, *_KEY).limit(1))
    return Key(*rows[0]) if rows else None


def _of_any(connection: Connection, experiment_pk: int, span: Span, after: Key, *value: Any) -> Select[Any]:
    """The next points with trial and attempt as one number."""
    attempt = telemetry.c.trial_id * ATTEMPTS + telemetry.c.attempt
    return _next(connection, experiment_pk, span, after, attempt, *_KEY[2:], *value)


def _next(connection: Connection, experiment_pk: int, span: Span, after: Key, *columns: Any) -> Select[Any]:
    beyond = _beyond(connection, _KEY, after)
    here = telemetry.c.experiment == experiment_pk, telemetry.c.trial_id <= span.last
    return select(*columns).where(*here, beyond).order_by(*_KEY)


def _packed(connection: Connection, experiment_pk: int, start: Key) -> Select[Any]:
    """The points of an attempt from ``start`` on as (packed, number); packed is null where that cannot be."""
    _, _, ts_us, metric_id = _KEY
    fits = and_(telemetry.c.text.is_(None), metric_id < METRICS, ts_us < start.ts_us + _MOST // METRICS)
    packed = case((fits, (ts_us - start.ts_us) * METRICS + metric_id), else_=null())
    of_attempt = telemetry.c.trial_id == start.trial_id, telemetry.c.attempt == start.attempt
    before = start.ts_us, start.metric_id - 1
    beyond = _beyond(connection, (ts_us, metric_id), before)
    here = telemetry.c.experiment == experiment_pk, *of_attempt, beyond
    return select(packed, telemetry.c.number).where(*here).order_by(ts_us, metric_id)


def _beyond(connection: Connection, columns: Sequence[Any], after: Sequence[int]) -> Any:
    """``columns > after`` such that the primary key is used: MySQL does not for a comparison of rows."""
    if connection.dialect.name != "mysql":
        return tuple_(*columns) > tuple(after)
    (column, value), *inner = reversed(list(zip(columns, after, strict=True)))
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
