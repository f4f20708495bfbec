"""Writes that happen once: making the schema, opening an experiment, picking up after an earlier session."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, and_, insert, inspect, literal_column, or_, select, update

from windtunnel.errors import ExperimentMismatch, SchemaMismatch
from windtunnel.model import Status
from windtunnel.storage import reads
from windtunnel.storage.queries import archive_attempts
from windtunnel.storage.schema import (
    IS_COMPLETED,
    REVISION,
    VERSION_TABLE,
    experiment,
    metadata,
    status_is,
    trial,
)

__all__ = ["NewExperiment", "create", "ensure_experiment", "requeue", "revision_of"]


def revision_of(connection: Connection) -> str | None:
    """The schema's revision; None if the database is empty.

    :raises SchemaMismatch: if it holds tables and they are not ours.
    """
    names = inspect(connection).get_table_names()
    if VERSION_TABLE in names:
        version: str | None = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar()
        return version
    if names:
        raise SchemaMismatch(
            f"it holds another program's tables ({', '.join(sorted(names)[:5])}); choose another database"
        )
    return None


def create(connection: Connection) -> None:
    """Make the newest schema, unless another process has just done so."""
    if revision_of(connection) is not None:
        return
    metadata.create_all(connection)
    # What Alembic would note: the migrations give exactly this schema (a test holds them to it).
    connection.exec_driver_sql(f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    connection.exec_driver_sql(f"INSERT INTO {VERSION_TABLE} (version_num) VALUES ('{REVISION}')")


class NewExperiment(NamedTuple):
    name: str
    description: str
    root_env_config: str
    objectives: dict[str, str]
    tunables: dict[str, object]
    windtunnel: str


def ensure_experiment(connection: Connection, new: NewExperiment) -> int:
    """The key of the experiment with this name, stored now if it was not.

    :raises ExperimentMismatch: if it is stored with other objectives or other tunables.
    """
    stored = reads.experiment_named(connection, new.name)
    if stored is not None:
        _check_same(stored, new)
        return stored.id
    row = {
        "name": new.name,
        "description": new.description,
        "root_env_config": new.root_env_config,
        "objectives": json.dumps(new.objectives),
        "tunables": json.dumps(new.tunables),
        "created_us": time.time_ns() // 1000,
        "windtunnel": new.windtunnel,
    }
    connection.execute(insert(experiment), row)
    key: int = connection.execute(select(experiment.c.id).where(experiment.c.name == new.name)).scalar_one()
    return key


def _check_same(stored: reads.ExperimentRow, new: NewExperiment) -> None:
    objectives = json.loads(stored.objectives)
    if objectives != new.objectives:
        raise ExperimentMismatch(
            f"experiment {new.name!r} is stored with objectives {objectives}, not {new.objectives}; "
            "use another experiment id"
        )
    before, now = _names(json.loads(stored.tunables)), _names(new.tunables)
    if before != now:
        added = f" adds {sorted(now - before)}" if now - before else ""
        lost = f" lacks {sorted(before - now)}" if before - now else ""
        raise ExperimentMismatch(
            f"experiment {new.name!r} is stored with other tunables: this one{added}{lost}; use another experiment id"
        )


def _names(definition: dict[str, object]) -> set[str]:
    names: set[str] = set()
    for group in definition.values():
        if isinstance(group, dict):
            names.update(group.get("params") or {})
    return names


def requeue(connection: Connection, experiment_pk: int, dead_owners: Sequence[str], interrupted: str) -> int:
    """Put back what earlier sessions left: trials of dead workers and trials canceled as ``interrupted``."""
    mine = trial.c.experiment == experiment_pk
    orphaned = and_(mine, status_is(Status.RUNNING), trial.c.owner.in_(list(dead_owners)))
    stopped = and_(
        mine,
        IS_COMPLETED,
        trial.c.status == literal_column(str(Status.CANCELED.value)),
        trial.c.failure == interrupted,
    )
    now = time.time_ns() // 1000
    archive_attempts(connection, orphaned, now, "its worker died")
    archive_attempts(connection, stopped, now, interrupted)
    back = update(trial).where(or_(orphaned, stopped))
    values = {
        "status": Status.PENDING.value,
        "owner": None,
        "lease_until_us": None,
        "failure": None,
        "ended_us": None,
    }
    return connection.execute(back.values(values)).rowcount
