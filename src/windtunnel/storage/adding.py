"""New trials into the database, as a plain function of a connection like all writes: see ``writer.py``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, and_, insert, select, update

from windtunnel.errors import NotLeading, StorageError
from windtunnel.model import Status
from windtunnel.storage import clock
from windtunnel.storage.dialects import chunks, insert_new
from windtunnel.storage.requests import Addition, NewRow
from windtunnel.storage.schema import config, experiment, optimizer_lease, trial

__all__ = ["add_trials", "config_ids"]


def config_ids(connection: Connection, new: Iterable[tuple[str, str]]) -> dict[str, int]:
    """digest → id for each (digest, params), stored now if it was not."""
    params = dict(new)
    connection.execute(
        insert_new(config, connection.dialect), [{"digest": d, "params": p} for d, p in params.items()]
    )
    found: dict[str, int] = {}
    for digests in chunks(params):
        rows = connection.execute(select(config.c.digest, config.c.id).where(config.c.digest.in_(digests)))
        found.update((digest, config_id) for digest, config_id in rows)
    return found


def add_trials(
    connection: Connection, additions: Sequence[Addition]
) -> list[list[tuple[int, int]] | StorageError]:
    """Store the trials as PENDING; (trial_id, config_id) of each that was stored, in order."""
    ids = config_ids(
        connection, ((row.digest, row.params) for addition in additions for row in addition.rows)
    )
    now = clock.now_us(connection)
    rows: list[dict[str, Any]] = []
    added: list[list[tuple[int, int]] | StorageError] = []
    for addition in additions:
        taken = _take_trial_ids(connection, addition)
        if taken is None:
            added.append(NotLeading("another worker runs the optimizer now; these suggestions are refused"))
            continue
        first, count = taken
        numbered = [(first + i, ids[row.digest]) for i, row in enumerate(addition.rows[:count])]
        added.append(numbered)
        rows += [
            _pending_row(addition.experiment, trial_id, config_id, row, now)
            for (trial_id, config_id), row in zip(numbered, addition.rows, strict=False)
        ]
    if rows:
        connection.execute(insert(trial), rows)
    return added


def _pending_row(experiment_pk: int, trial_id: int, config_id: int, row: NewRow, now: int) -> dict[str, Any]:
    return {
        "experiment": experiment_pk,
        "trial_id": trial_id,
        "config_id": config_id,
        "status": Status.PENDING.value,
        "priority": row.priority,
        "attempt": 0,
        "token": 0,
        # Not now: the database's clock may be set back.
        "not_before_us": 0 if row.not_before_us is None else row.not_before_us,
        "created_us": now,
        "parameters": row.parameters,
    }


def _take_trial_ids(connection: Connection, addition: Addition) -> tuple[int, int] | None:
    """Reserve numbers: the first, and how many fit. Updating before reading keeps writers apart.

    None if it comes from a worker that does not lead any more.
    """
    this = experiment.c.id == addition.experiment
    count = len(addition.rows)
    allowed = this
    if addition.leader is not None:
        of_experiment = optimizer_lease.c.experiment == addition.experiment
        leads = select(optimizer_lease.c.owner).where(
            of_experiment, optimizer_lease.c.owner == addition.leader
        )
        allowed = and_(this, leads.exists())
    hit = connection.execute(
        update(experiment)
        .where(allowed)
        .values(
            next_trial_id=experiment.c.next_trial_id + count,
            suggested=experiment.c.suggested + addition.suggested,  # null stays null
        )
    ).rowcount
    if addition.leader is not None and not hit:
        return None
    after: int = connection.execute(select(experiment.c.next_trial_id).where(this)).scalar_one()
    first = after - count
    if addition.at_most is not None and after - 1 > addition.at_most:
        count = max(0, addition.at_most - first + 1)
        connection.execute(update(experiment).where(this).values(next_trial_id=first + count))
    return first, count
