"""The tables of an mlos_bench database and the reads that an import needs. Nothing is written there."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import (
    Connection,
    Engine,
    and_,
    column,
    create_engine,
    func,
    inspect,
    not_,
    select,
    table,
    tuple_,
)
from sqlalchemy.pool import NullPool

from windtunnel.errors import NotFound, SchemaMismatch
from windtunnel.storage import values
from windtunnel.storage.database import open_database
from windtunnel.storage.errors import mapped_errors
from windtunnel.storage.urls import MEMORY, Target, parse_url

__all__ = ["Experiment", "Measured", "Reader", "Trial", "open_mlos"]

P = ParamSpec("P")
T = TypeVar("T")

_TRIALS_AT_ONCE = 200
_POINTS_AT_ONCE = 4000


def _table(name: str, *columns: str) -> Any:
    return table(name, *map(column, columns))


# Only what every version of it has.
_experiment = _table("experiment", "exp_id", "description", "root_env_config", "git_repo", "git_commit")
_objectives = _table("objectives", "exp_id", "optimization_target", "optimization_direction")
_config_param = _table("config_param", "config_id", "param_id", "param_value")
_trial = _table("trial", "exp_id", "trial_id", "config_id", "ts_start", "ts_end", "status")
_trial_param = _table("trial_param", "exp_id", "trial_id", "param_id", "param_value")
_trial_status = _table("trial_status", "exp_id", "trial_id", "ts")
_trial_result = _table("trial_result", "exp_id", "trial_id", "metric_id", "metric_value")
_telemetry = _table("trial_telemetry", "exp_id", "trial_id", "ts", "metric_id", "metric_value")
_ALL = (
    *(_experiment, _objectives, _config_param, _trial, _trial_param),
    *(_trial_status, _trial_result, _telemetry),
)


class Reader(Protocol):
    """Runs a function of a connection in a transaction that changes nothing."""

    async def __call__(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T: ...


@asynccontextmanager
async def open_mlos(url: str, *, patience: timedelta) -> AsyncIterator[Reader]:
    """Open an mlos_bench database to read it.

    :raises ConfigError: if the URL cannot be used.
    :raises SchemaMismatch: if it is no mlos_bench database.
    :raises StorageError: if it cannot be read.
    """
    target = parse_url(url)
    opened = _open_file(target) if target.backend == "sqlite" else _open_server(url, patience)
    async with opened as read:
        missing = await read(_missing_tables)
        if missing:
            raise SchemaMismatch(
                f"{target.place}: expected the tables of an mlos_bench database, "
                f"found none named {', '.join(missing)}; name another database"
            )
        yield read


@asynccontextmanager
async def _open_server(url: str, patience: timedelta) -> AsyncIterator[Reader]:
    async with open_database(url, patience=patience) as database:
        yield database.read


@asynccontextmanager
async def _open_file(target: Target) -> AsyncIterator[Reader]:
    engine = await anyio.to_thread.run_sync(_read_only, target)

    async def read(query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        def here() -> T:
            with mapped_errors(target.place), engine.connect() as connection:
                return query(connection, *args, **kwargs)

        return await anyio.to_thread.run_sync(here)

    yield read  # each read has a connection of its own: nothing is left to be closed


def _read_only(target: Target) -> Engine:
    path = Path(target.url.database or MEMORY).absolute()
    if not path.is_file():
        raise NotFound("database", target.place, hint="check the path to import from")
    return create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, check_same_thread=False),
        poolclass=NullPool,
    )


def _missing_tables(connection: Connection) -> list[str]:
    there = set(inspect(connection).get_table_names())
    return [one.name for one in _ALL if one.name not in there]


# Experiments


class Experiment(NamedTuple):
    """:ivar objectives: metric → what was stored as its direction, in the order stored."""

    exp_id: str
    description: str
    root_env_config: str
    git_repo: str
    git_commit: str
    objectives: dict[str, str | None]


def experiments(connection: Connection, wanted: Sequence[str] | None) -> list[Experiment]:
    """The experiments named, or all, in order of their names.

    :raises NotFound: if there is none of a name.
    """
    directions: dict[str, dict[str, str | None]] = {}
    for exp_id, metric, direction in connection.execute(select(_objectives)):
        directions.setdefault(exp_id, {})[metric] = direction
    found: dict[str, Experiment] = {}
    for exp_id, *rest in connection.execute(select(_experiment).order_by(_experiment.c.exp_id)):
        description, root_env_config, repo, commit = (str(one or "") for one in rest)
        objectives = directions.get(exp_id, {})
        found[exp_id] = Experiment(exp_id, description, root_env_config, repo, commit, objectives)
    for name in wanted or ():
        if name not in found:
            raise NotFound("experiment", name, list(found))
    return [found[name] for name in (found if wanted is None else dict.fromkeys(wanted))]


def values_seen(connection: Connection, exp_id: str) -> dict[str, list[str]]:
    """Tunable → all values its trials had, sorted; NULL is none."""
    seen: dict[str, list[str]] = {}
    rows = connection.execute(
        select(_config_param.c.param_id, _config_param.c.param_value)
        .join(_trial, _trial.c.config_id == _config_param.c.config_id)
        .where(_trial.c.exp_id == exp_id, _config_param.c.param_value.is_not(None))
        .distinct()
        .order_by(_config_param.c.param_id, _config_param.c.param_value)
    )
    for name, value in rows:
        seen.setdefault(name, []).append(str(value))
    return seen


def default_values(connection: Connection, exp_id: str) -> dict[str, str]:
    """The configuration that was marked as the default, else that of the first trial."""
    mine = _trial.c.exp_id == exp_id
    marked = (
        select(_trial.c.config_id)
        .join(
            _trial_param,
            and_(_trial_param.c.exp_id == _trial.c.exp_id, _trial_param.c.trial_id == _trial.c.trial_id),
        )
        .where(
            mine, _trial_param.c.param_id == "is_defaults", func.lower(_trial_param.c.param_value) == "true"
        )
        .order_by(_trial.c.trial_id)
        .limit(1)
    )
    config_id = connection.execute(marked).scalar()
    if config_id is None:
        first = select(_trial.c.config_id).where(mine).order_by(_trial.c.trial_id).limit(1)
        config_id = connection.execute(first).scalar()
    return _params(connection, [config_id]).get(config_id, {})


def _params(connection: Connection, config_ids: Sequence[Any]) -> dict[Any, dict[str, str]]:
    found: dict[Any, dict[str, str]] = {}
    rows = select(_config_param).where(_config_param.c.config_id.in_(config_ids))
    for config_id, name, value in connection.execute(rows):
        if value is not None:
            found.setdefault(config_id, {})[name] = str(value)
    return found


# Trials


class Trial(NamedTuple):
    """:ivar touched_us: when its status changed last, if that is known."""

    trial_id: int
    started_us: int | None
    ended_us: int | None
    touched_us: int | None
    status: str | None
    config: dict[str, str]
    parameters: dict[str, str | None]
    metrics: dict[str, str | None]


def trials_after(connection: Connection, exp_id: str, after: int) -> list[Trial]:
    """The next trials, in order of their ids."""
    mine = select(_trial).where(_trial.c.exp_id == exp_id, _trial.c.trial_id > after)
    rows = connection.execute(mine.order_by(_trial.c.trial_id).limit(_TRIALS_AT_ONCE)).all()
    if not rows:
        return []
    configs = _params(connection, list({row.config_id for row in rows}))
    span = (exp_id, rows[0].trial_id, rows[-1].trial_id)
    parameters = _named(connection, _trial_param, *span)
    metrics = _named(connection, _trial_result, *span)
    touched = _touched(connection, *span)
    return [
        Trial(
            row.trial_id,
            time_us(row.ts_start),
            time_us(row.ts_end),
            touched.get(row.trial_id),
            row.status,
            configs.get(row.config_id, {}),
            parameters.get(row.trial_id, {}),
            metrics.get(row.trial_id, {}),
        )
        for row in rows
    ]


def _of(source: Any, exp_id: str, first: int, last: int) -> Any:
    return and_(source.c.exp_id == exp_id, source.c.trial_id.between(first, last))


def _named(
    connection: Connection, source: Any, exp_id: str, first: int, last: int
) -> dict[int, dict[str, str | None]]:
    """trial_id → name → value."""
    found: dict[int, dict[str, str | None]] = {}
    for _, trial_id, name, value in connection.execute(
        select(source).where(_of(source, exp_id, first, last))
    ):
        found.setdefault(trial_id, {})[name] = None if value is None else str(value)
    return found


def _touched(connection: Connection, exp_id: str, first: int, last: int) -> dict[int, int]:
    newest = select(_trial_status.c.trial_id, func.max(_trial_status.c.ts))
    newest = newest.where(_of(_trial_status, exp_id, first, last)).group_by(_trial_status.c.trial_id)
    times = ((trial_id, time_us(ts)) for trial_id, ts in connection.execute(newest))
    return {trial_id: moment for trial_id, moment in times if moment is not None}


# Telemetry


class Measured(NamedTuple):
    trial_id: int
    ts: Any
    metric: str
    value: str | None


_POINT = (_telemetry.c.trial_id, _telemetry.c.ts, _telemetry.c.metric_id)
_USABLE = and_(_telemetry.c.ts.is_not(None), _telemetry.c.metric_value.is_not(None))


def point_counts(connection: Connection, exp_id: str, first: int, last: int) -> dict[int, int]:
    """How many different points each of the trials has; those without time or value do not count."""
    points = select(*_POINT).where(_of(_telemetry, exp_id, first, last), _USABLE).distinct().subquery()
    counted = select(points.c.trial_id, func.count()).group_by(points.c.trial_id)
    return dict(map(tuple, connection.execute(counted)))


def points_lost(connection: Connection, exp_id: str) -> int:
    """How many points have no time or no value."""
    lost = select(func.count()).where(_telemetry.c.exp_id == exp_id, not_(_USABLE))
    number: int = connection.execute(lost).scalar_one()
    return number


def points_after(
    connection: Connection, exp_id: str, first: int, last: int, after: Measured | None
) -> list[Measured]:
    """The next points, in order of trial, time and metric; of two at one time and metric, at least one."""
    wanted = select(*_POINT, _telemetry.c.metric_value)
    wanted = wanted.where(_of(_telemetry, exp_id, first, last), _USABLE)
    if after is not None:
        wanted = wanted.where(tuple_(*_POINT) > tuple(after[:3]))
    return [Measured(*row) for row in connection.execute(wanted.order_by(*_POINT).limit(_POINTS_AT_ONCE))]


def time_us(value: object) -> int | None:
    """A time as it was stored, in UTC if it has no zone; None if it is none."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    return values.to_us(value if value.tzinfo else value.replace(tzinfo=UTC))
