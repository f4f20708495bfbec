"""Telemetry into the database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import Connection, select

from windtunnel.errors import StorageError
from windtunnel.model import Status
from windtunnel.storage.dialects import chunks, insert_new, insert_rows
from windtunnel.storage.ending import stale
from windtunnel.storage.requests import Points
from windtunnel.storage.schema import metric, status_is, telemetry, trial

__all__ = ["record", "register_metrics"]


def register_metrics(connection: Connection, names: Sequence[Sequence[str]]) -> list[dict[str, int]]:
    """name → id of each metric, stored now if it was not."""
    wanted = {name for some in names for name in some}
    connection.execute(insert_new(metric, connection.dialect), [{"name": name} for name in sorted(wanted)])
    found: dict[str, int] = {}
    for some in chunks(wanted):
        rows = connection.execute(select(metric.c.name, metric.c.id).where(metric.c.name.in_(some)))
        found.update((name, metric_id) for name, metric_id in rows)
    return [{name: found[name] for name in some} for some in names]


def record(connection: Connection, requests: Sequence[Sequence[Points]]) -> list[list[StorageError | None]]:
    """Append points of trials that are held. A point that is there already is left as it is."""
    held = _held(connection, [batch for batches in requests for batch in batches])
    rows = [
        (batch.experiment, batch.trial_id, batch.attempt, *row)
        for batches in requests
        for batch in batches
        if (batch.experiment, batch.trial_id, batch.token) in held
        for row in batch.rows
    ]
    if rows:
        insert_rows(connection, telemetry, rows)
    return [
        [None if (b.experiment, b.trial_id, b.token) in held else stale(b.trial_id) for b in batches]
        for batches in requests
    ]


def _held(connection: Connection, batches: Sequence[Points]) -> set[tuple[int, int, int]]:
    """(experiment, trial_id, token) of the trials that still run under the token of their batch."""
    wanted: defaultdict[int, set[int]] = defaultdict(set)
    for batch in batches:
        wanted[batch.experiment].add(batch.trial_id)
    held: set[tuple[int, int, int]] = set()
    for experiment_pk, trial_ids in wanted.items():
        for some in chunks(trial_ids):
            rows = connection.execute(
                select(trial.c.trial_id, trial.c.token).where(
                    trial.c.experiment == experiment_pk, trial.c.trial_id.in_(some), status_is(Status.RUNNING)
                )
            )
            held.update((experiment_pk, trial_id, token) for trial_id, token in rows)
    return held
