"""The reads of what was run: what workers of one experiment have to know of each other's trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import Connection, and_, func, or_, select

from windtunnel.model import FailureKind, Status, TrialRecord
from windtunnel.storage import blocks, dialects, reads
from windtunnel.storage.schema import HAS_HOST, IS_COMPLETED, trial, trial_attempt

__all__ = ["Result", "ScoredRun", "failed_attempts", "hosts_of", "outcomes", "results", "scored_runs"]

_PAGE = 4000


class ScoredRun(NamedTuple):
    """A succeeded trial.

    :ivar host: where it ran, if that is known.
    :ivar score: the first objective.
    """

    trial_id: int
    config_id: int
    host: str | None
    score: float


class Result(NamedTuple):
    """A succeeded trial.

    :ivar metrics: JSON.
    """

    trial_id: int
    config_id: int
    host: str | None
    ended_us: int
    metrics: str


def results(connection: Connection, experiment_pk: int, after: int) -> list[Result]:
    """The next succeeded trials with metrics, in order of their ids."""
    rows = blocks.raw(
        connection,
        select(trial.c.trial_id, trial.c.config_id, trial.c.host, trial.c.ended_us, trial.c.metrics)
        .where(
            trial.c.experiment == experiment_pk,
            trial.c.trial_id > after,
            IS_COMPLETED,
            trial.c.status == Status.SUCCEEDED.value,
            trial.c.metrics.is_not(None),
        )
        .order_by(trial.c.trial_id)
        .limit(_PAGE),
    )
    return [Result(*row) for row in rows]


def scored_runs(connection: Connection, experiment_pk: int, after: int) -> list[ScoredRun]:
    """The next succeeded trials with a score, in order of their ids."""
    rows = blocks.raw(
        connection,
        select(trial.c.trial_id, trial.c.config_id, trial.c.host, trial.c.score)
        .where(
            trial.c.experiment == experiment_pk,
            trial.c.trial_id > after,
            trial.c.status == Status.SUCCEEDED.value,
            trial.c.score.is_not(None),
        )
        .order_by(trial.c.trial_id)
        .limit(_PAGE),
    )
    return [ScoredRun(*row) for row in rows]


def outcomes(
    connection: Connection, experiment_pk: int, trial_ids: Collection[int], interrupted: str
) -> list[TrialRecord]:
    """Those of the trials that are completed, in order of ids, without those canceled as ``interrupted``."""
    completed = reads.RECORD.where(
        trial.c.experiment == experiment_pk,
        IS_COMPLETED,
        or_(trial.c.failure.is_(None), trial.c.failure != interrupted),
    ).order_by(trial.c.trial_id)
    found: list[TrialRecord] = []
    for some in dialects.chunks(sorted(trial_ids)):
        rows = connection.execute(completed.where(trial.c.trial_id.in_(some)))
        found += map(reads.as_record, rows)
    return found


def hosts_of(
    connection: Connection, experiment_pk: int, config_ids: Collection[int]
) -> dict[int, frozenset[str]]:
    """configuration → hosts on which attempts of its trials have ended."""
    found: dict[int, set[str]] = {config_id: set() for config_id in config_ids}
    for configs in dialects.chunks(sorted(found)):
        some = trial.c.config_id.in_(configs)
        last = select(trial.c.config_id, trial.c.host).where(
            trial.c.experiment == experiment_pk, some, HAS_HOST
        )
        earlier = (
            select(trial.c.config_id, trial_attempt.c.host)
            .select_from(trial_attempt)
            .join(
                trial,
                and_(
                    trial.c.experiment == trial_attempt.c.experiment,
                    trial.c.trial_id == trial_attempt.c.trial_id,
                ),
            )
            .where(trial_attempt.c.experiment == experiment_pk, some, trial_attempt.c.host.is_not(None))
        )
        for config_id, host in connection.execute(last.union(earlier)):
            found[config_id].add(host)
    return {config_id: frozenset(hosts) for config_id, hosts in found.items()}


def failed_attempts(connection: Connection, experiment_pk: int, trial_id: int) -> Counter[FailureKind]:
    """kind → how many attempts failed that did not end the trial."""
    kind = trial_attempt.c.failure_kind
    rows = connection.execute(
        select(kind, func.count())
        .where(
            trial_attempt.c.experiment == experiment_pk,
            trial_attempt.c.trial_id == trial_id,
            kind.is_not(None),
        )
        .group_by(kind)
    )
    return Counter({FailureKind(name): number for name, number in rows})
