"""The reads, as plain functions of a connection: as many statements for few rows as for many."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import CTE, Connection, Select, and_, func, literal_column, or_, select, tuple_

from windtunnel.model import Direction, FailureKind, Status, TrialRecord
from windtunnel.objectives import Objective, parse_objectives
from windtunnel.storage import values
from windtunnel.storage.schema import (
    IS_COMPLETED,
    IS_PENDING,
    IS_RUNNING,
    config,
    experiment,
    metric,
    optimizer_lease,
    telemetry,
    trial,
)

__all__ = ["Counts", "Page"]

PAGE = 256
TELEMETRY_PAGE = 4000
"""Rows that are turned into Python values in one go: more would hold up the event loop."""


class Counts(NamedTuple):
    """How many trials of an experiment are in which state.

    :ivar aborted: of the canceled ones, those that a pruner stopped.
    """

    total: int = 0
    pending: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    canceled: int = 0
    timed_out: int = 0
    aborted: int = 0


class ExperimentRow(NamedTuple):
    id: int
    name: str
    description: str
    objectives: str
    tunables: str

    @property
    def goals(self) -> dict[str, Objective]:
        """``objectives``, which is JSON, as values."""
        return parse_objectives(json.loads(self.objectives))


class PendingRow(NamedTuple):
    trial_id: int
    config_id: int
    params: str
    parameters: str | None
    status: int
    attempt: int
    token: int
    owner: str | None
    priority: int


_EXPERIMENTS = select(
    experiment.c.id,
    experiment.c.name,
    experiment.c.description,
    experiment.c.objectives,
    experiment.c.tunables,
)


def experiments(connection: Connection) -> list[ExperimentRow]:
    return [ExperimentRow(*row) for row in connection.execute(_EXPERIMENTS.order_by(experiment.c.id))]


def experiment_named(connection: Connection, name: str) -> ExperimentRow | None:
    row = connection.execute(_EXPERIMENTS.where(experiment.c.name == name)).one_or_none()
    return ExperimentRow(*row) if row else None


class Point(NamedTuple):
    ts_us: int
    metric_id: int
    metric: str
    number: float | None
    text: str | None


def newest_attempt(connection: Connection, experiment_pk: int, trial_id: int) -> int | None:
    """The number of the trial's current attempt; None if there is no such trial."""
    found: int | None = connection.execute(
        select(trial.c.attempt).where(trial.c.experiment == experiment_pk, trial.c.trial_id == trial_id)
    ).scalar_one_or_none()
    return found


def telemetry_of(
    connection: Connection, experiment_pk: int, trial_id: int, attempt: int, after: tuple[int, int]
) -> list[Point]:
    """The next points of an attempt after (ts_us, metric_id), in that order."""
    rows = connection.execute(
        select(telemetry.c.ts_us, telemetry.c.metric_id, metric.c.name, telemetry.c.number, telemetry.c.text)
        .join(metric, metric.c.id == telemetry.c.metric_id)
        .where(
            telemetry.c.experiment == experiment_pk,
            telemetry.c.trial_id == trial_id,
            telemetry.c.attempt == attempt,
            tuple_(telemetry.c.ts_us, telemetry.c.metric_id) > after,
        )
        .order_by(telemetry.c.ts_us, telemetry.c.metric_id)
        .limit(TELEMETRY_PAGE)
    )
    return [Point(*row) for row in rows]


def params_of_config(connection: Connection, config_id: int) -> str | None:
    found: str | None = connection.execute(
        select(config.c.params).where(config.c.id == config_id)
    ).scalar_one_or_none()
    return found


def counts(connection: Connection, experiment_pk: int | None = None) -> dict[int, Counts]:
    """experiment → its counts, of one or of all. Reads three small indexes instead of the trials."""
    found: dict[int, dict[str, int]] = {}
    for where in (IS_PENDING, IS_RUNNING, IS_COMPLETED):
        some = select(trial.c.experiment, trial.c.status, func.count()).where(where)
        if experiment_pk is not None:
            some = some.where(trial.c.experiment == experiment_pk)
        for pk, status, number in connection.execute(some.group_by(trial.c.experiment, trial.c.status)):
            found.setdefault(pk, {})[Status(status).name.lower()] = number
    aborted = _aborted(connection, experiment_pk) if any("canceled" in by for by in found.values()) else {}
    return {pk: Counts(total=sum(by.values()), aborted=aborted.get(pk, 0), **by) for pk, by in found.items()}


def _aborted(connection: Connection, experiment_pk: int | None) -> dict[int, int]:
    query = select(trial.c.experiment, func.count()).where(
        IS_COMPLETED,
        trial.c.status == literal_column(str(Status.CANCELED.value)),
        trial.c.failure_kind == FailureKind.ABORTED.value,
    )
    if experiment_pk is not None:
        query = query.where(trial.c.experiment == experiment_pk)
    rows = connection.execute(query.group_by(trial.c.experiment))
    return {int(pk): int(number) for pk, number in rows}


RECORD = select(
    trial.c.trial_id,
    trial.c.config_id,
    trial.c.status,
    trial.c.attempt,
    config.c.params,
    trial.c.metrics,
    trial.c.failure,
    trial.c.host,
    trial.c.started_us,
    trial.c.ended_us,
).join(config, config.c.id == trial.c.config_id)


def best(
    connection: Connection, direction: Direction, experiment_pk: int | None = None
) -> dict[int, TrialRecord]:
    """experiment → the best trial of its best configuration, that with the best mean; of one or of all.

    With repeats the best single trial is mostly the luckiest one, so configurations are compared first.
    """
    mean, score = func.avg(trial.c.score), trial.c.score
    succeeded = and_(IS_COMPLETED, trial.c.status == Status.SUCCEEDED.value, score.is_not(None))
    configuration = (
        select(trial.c.config_id)
        .where(trial.c.experiment == experiment.c.id, succeeded)
        .group_by(trial.c.config_id)
        .order_by(mean if direction == "min" else mean.desc(), trial.c.config_id)
        .limit(1)
        .scalar_subquery()
    )
    wanted = select(experiment.c.id.label("experiment"), configuration.label("config_id"))
    if experiment_pk is not None:
        wanted = wanted.where(experiment.c.id == experiment_pk)
    chosen = _once(wanted, "chosen")
    its_best = (
        select(trial.c.trial_id)
        .where(trial.c.experiment == chosen.c.experiment, trial.c.config_id == chosen.c.config_id, succeeded)
        .order_by(score if direction == "min" else score.desc(), trial.c.trial_id)
        .limit(1)
        .scalar_subquery()
    )
    found = _once(select(chosen.c.experiment, its_best.label("trial_id")), "found")
    rows = RECORD.add_columns(trial.c.experiment).join(
        found, and_(trial.c.experiment == found.c.experiment, trial.c.trial_id == found.c.trial_id)
    )
    return {row.experiment: as_record(row) for row in connection.execute(rows)}


def _once(query: Select[Any], name: str) -> CTE:
    """``query`` computed once: a database may do so again for each row that it is compared with."""
    cte = query.cte(name)
    for dialect in ("sqlite", "postgresql"):  # MySQL does so by itself
        cte = cte.prefix_with("MATERIALIZED", dialect=dialect)
    return cte


def records(
    connection: Connection, experiment_pk: int, after: int, config_id: int | None = None, limit: int = PAGE
) -> list[TrialRecord]:
    """The next trials after ``after``, in order of their ids; of one configuration if it is given."""
    page = RECORD.where(trial.c.experiment == experiment_pk, trial.c.trial_id > after)
    if config_id is not None:
        page = page.where(trial.c.config_id == config_id)
    return [as_record(row) for row in connection.execute(page.order_by(trial.c.trial_id).limit(limit))]


def last_failure(connection: Connection, experiment_pk: int) -> TrialRecord | None:
    """The trial that failed or timed out last."""
    failed = RECORD.where(
        trial.c.experiment == experiment_pk,
        IS_COMPLETED,
        trial.c.status.in_((Status.FAILED.value, Status.TIMED_OUT.value)),
    )
    newest = failed.order_by(trial.c.ended_us.desc(), trial.c.trial_id.desc()).limit(1)
    row = connection.execute(newest).one_or_none()
    return as_record(row) if row else None


def record(connection: Connection, experiment_pk: int, trial_id: int) -> TrialRecord | None:
    wanted = RECORD.where(trial.c.experiment == experiment_pk, trial.c.trial_id == trial_id)
    row = connection.execute(wanted).one_or_none()
    return as_record(row) if row else None


def as_record(row: Any) -> TrialRecord:
    return TrialRecord(
        trial_id=row.trial_id,
        config_id=row.config_id,
        status=Status(row.status),
        attempt=row.attempt,
        config=values.load(row.params),
        metrics=values.load(row.metrics) if row.metrics is not None else None,
        failure=row.failure,
        host=row.host,
        started=values.from_us(row.started_us) if row.started_us is not None else None,
        ended=values.from_us(row.ended_us) if row.ended_us is not None else None,
    )


def description(connection: Connection, experiment_pk: int) -> str | None:
    """How the experiment is run, if it was stored."""
    found: str | None = connection.execute(
        select(experiment.c.document).where(experiment.c.id == experiment_pk)
    ).scalar_one_or_none()
    return found


class Page(NamedTuple):
    """Where a listing of waiting trials goes on."""

    status: Status
    priority: int | None = None
    trial_id: int = 0


def pending(connection: Connection, experiment_pk: int, due_us: int, page: Page) -> list[PendingRow]:
    """The next trials in ``page.status``, in the order in which they would be claimed."""
    rows = connection.execute(_pending_query(experiment_pk, due_us, page).limit(PAGE))
    return [PendingRow(*row) for row in rows]


def _waiting_or_running(experiment_pk: int, status: Status) -> Select[Any]:
    return (
        select(
            trial.c.trial_id,
            trial.c.config_id,
            config.c.params,
            trial.c.parameters,
            trial.c.status,
            trial.c.attempt,
            trial.c.token,
            trial.c.owner,
            trial.c.priority,
        )
        .join(config, config.c.id == trial.c.config_id)
        .where(
            trial.c.experiment == experiment_pk,
            IS_RUNNING if status is Status.RUNNING else IS_PENDING,
        )
        .order_by(trial.c.priority.desc(), trial.c.trial_id)
    )


def _pending_query(experiment_pk: int, due_us: int, page: Page) -> Select[Any]:
    query = _waiting_or_running(experiment_pk, page.status).where(trial.c.not_before_us <= due_us)
    if page.priority is None:
        return query
    same = and_(trial.c.priority == page.priority, trial.c.trial_id > page.trial_id)
    return query.where(trial.c.priority <= page.priority, or_(trial.c.priority < page.priority, same))


def held_by(connection: Connection, experiment_pk: int, owner: str) -> list[PendingRow]:
    """The running trials of a worker."""
    rows = connection.execute(
        _waiting_or_running(experiment_pk, Status.RUNNING).where(trial.c.owner == owner)
    )
    return [PendingRow(*row) for row in rows]


def owners(connection: Connection, experiment_pk: int) -> Sequence[str]:
    """Who holds running trials or the optimizer's lease."""
    running = and_(trial.c.experiment == experiment_pk, IS_RUNNING, trial.c.owner.is_not(None))
    leader = select(optimizer_lease.c.owner).where(optimizer_lease.c.experiment == experiment_pk)
    return list(connection.execute(select(trial.c.owner).where(running).union(leader)).scalars())


def unfinished(connection: Connection, experiment_pk: int) -> list[tuple[int, str]]:
    """A trial and the configuration, for each configuration that waits or runs."""
    rows = connection.execute(
        select(func.min(trial.c.trial_id), config.c.params)
        .join(config, config.c.id == trial.c.config_id)
        .where(
            trial.c.experiment == experiment_pk,
            or_(IS_PENDING, IS_RUNNING),
        )
        .group_by(trial.c.config_id, config.c.params)
    )
    return [(trial_id, params) for trial_id, params in rows]
