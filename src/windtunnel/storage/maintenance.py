"""Writes that happen once: making the schema, opening an experiment, picking up after an earlier session."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    Column,
    Connection,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    and_,
    insert,
    inspect,
    literal_column,
    select,
    update,
)

from windtunnel.errors import ExperimentMismatch, SchemaMismatch, TunableError
from windtunnel.model import Status
from windtunnel.objectives import directions, parse_objectives
from windtunnel.storage import clock, ending, leading, reads, values
from windtunnel.storage.dialects import lock_schema
from windtunnel.storage.requests import EndedAttempt
from windtunnel.storage.schema import (
    IS_COMPLETED,
    IS_RUNNING,
    REVISION,
    VERSION_TABLE,
    experiment,
    metadata,
    trial,
)
from windtunnel.tunables import TunableGroups

__all__ = ["NewExperiment", "create", "describe", "ensure_experiment", "requeue", "revision_of"]


# What Alembic notes: the migrations give exactly the schema of ``create`` (a test holds them to it).
_VERSION = Table(
    VERSION_TABLE,
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),
).c.version_num


def revision_of(connection: Connection) -> str | None:
    """The schema's revision; None if the database is empty.

    :raises SchemaMismatch: if it holds tables and they are not ours.
    """
    names = inspect(connection).get_table_names()
    if VERSION_TABLE in names:
        version: str | None = connection.execute(select(_VERSION)).scalar()
        if version is None:
            raise SchemaMismatch(
                f"its table {VERSION_TABLE} is empty; restore a copy or choose another database"
            )
        return version
    if names:
        raise SchemaMismatch(
            f"it holds another program's tables ({', '.join(sorted(names)[:5])}); choose another database"
        )
    return None


def create(connection: Connection) -> None:
    """Make the newest schema, unless another process has just done so."""
    lock_schema(connection)
    if revision_of(connection) is not None:
        return
    metadata.create_all(connection)
    _VERSION.table.create(connection)
    connection.execute(insert(_VERSION.table), {"version_num": REVISION})


class NewExperiment(NamedTuple):
    name: str
    description: str
    root_env_config: str
    objectives: dict[str, Any]
    tunables: dict[str, object]
    windtunnel: str


def ensure_experiment(connection: Connection, new: NewExperiment, tunables: TunableGroups) -> int:
    """The key of the experiment with this name, stored now if it was not.

    :raises ExperimentMismatch: if it is stored with other objectives or other tunables, or if trials wait
        whose values ``tunables`` does not allow.
    """
    stored = reads.experiment_named(connection, new.name)
    if stored is not None:
        _check_same(stored, new)
        if json.loads(stored.tunables) != new.tunables:
            _check_waiting(connection, stored, tunables)
        if json.loads(stored.objectives) != new.objectives:
            # Weights and bounds are no part of what was measured: those of today count.
            this = update(experiment).where(experiment.c.id == stored.id)
            connection.execute(this.values(objectives=json.dumps(new.objectives)))
        return stored.id
    row = {
        "name": new.name,
        "description": new.description,
        "root_env_config": new.root_env_config,
        "objectives": json.dumps(new.objectives),
        "tunables": json.dumps(new.tunables),
        "created_us": clock.now_us(connection),
        "windtunnel": new.windtunnel,
        "suggested": 0,
    }
    connection.execute(insert(experiment), row)
    key: int = connection.execute(select(experiment.c.id).where(experiment.c.name == new.name)).scalar_one()
    return key


def describe(connection: Connection, experiment_pk: int, text: str) -> None:
    """Store how the experiment is run, in place of what was stored before."""
    connection.execute(update(experiment).where(experiment.c.id == experiment_pk).values(document=text))


def _check_same(stored: reads.ExperimentRow, new: NewExperiment) -> None:
    before, now = directions(stored.goals), directions(parse_objectives(new.objectives))
    if list(before.items()) != list(now.items()):  # their order too: the first one is the score
        raise ExperimentMismatch(
            f"experiment {new.name!r} is stored with objectives {before}, not {now}; "
            "use another experiment id"
        )
    had, has = _names(json.loads(stored.tunables)), _names(new.tunables)
    if had != has:
        added = f" adds {sorted(has - had)}" if has - had else ""
        lost = f" lacks {sorted(had - has)}" if had - has else ""
        raise ExperimentMismatch(
            f"experiment {new.name!r} is stored with other tunables: this one{added}{lost}; "
            "use another experiment id"
        )


def _check_waiting(connection: Connection, stored: reads.ExperimentRow, tunables: TunableGroups) -> None:
    for trial_id, params in reads.unfinished(connection, stored.id):
        try:
            tunables.choose({k: v for k, v in values.load(params).items() if k in tunables})
        except TunableError as exc:
            raise ExperimentMismatch(
                f"trial {trial_id} of experiment {stored.name!r} is still to be run and has a value that the "
                f"tunables no longer allow: {exc}; finish it with the tunables it was made for, "
                "or use another experiment id"
            ) from None


def _names(definition: dict[str, object]) -> set[str]:
    names: set[str] = set()
    for group in definition.values():
        if isinstance(group, dict):
            names.update(group.get("params") or {})
    return names


def requeue(connection: Connection, experiment_pk: int, dead_owners: Sequence[str], interrupted: str) -> int:
    """Put back what earlier sessions left: trials of dead workers and trials canceled as ``interrupted``.

    The optimizer's lease of a dead worker is freed.

    :returns: how many trials were put back.
    """
    mine = trial.c.experiment == experiment_pk
    orphaned = and_(mine, IS_RUNNING, trial.c.owner.in_(list(dead_owners)))
    stopped = and_(
        mine,
        IS_COMPLETED,
        trial.c.status == literal_column(str(Status.CANCELED.value)),
        trial.c.failure == interrupted,
    )
    leading.free(connection, experiment_pk, dead_owners)
    now = clock.now_us(connection)
    died, cut_off = EndedAttempt("its worker died"), EndedAttempt(interrupted)
    return ending.put_back(connection, orphaned, now, died) + ending.put_back(
        connection, stopped, now, cut_off
    )
