"""All that is kept about one trial: where, when, with what and how often it was run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, insert, select

from windtunnel.model import FailureKind, Status, TrialRecord
from windtunnel.storage import clock, reads, values
from windtunnel.storage.dialects import insert_new
from windtunnel.storage.schema import host_facts, session, telemetry, trial, trial_attempt

__all__ = ["Attempt", "HostNote", "Story", "begin_session", "note_hosts", "story"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One time a trial was run.

    :ivar status: how it ended; CANCELED if it was cut off or put back; RUNNING if it has not ended.
    :ivar reason: why it did not succeed, with the end of what its steps printed.
    :ivar kind: which part of it failed, if one did.
    :ivar points: how many points of telemetry it has.
    :ivar facts: of its worker: the machine, the versions, the configuration's commit. Empty if not known.
    :ivar host_facts: of the host as it was then: its system, processors, boot id. Empty if not known.
    """

    attempt: int
    status: Status
    owner: str | None
    host: str | None
    started: datetime | None
    ended: datetime | None
    reason: str | None
    kind: FailureKind | None
    points: int
    facts: Mapping[str, Any]
    host_facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A trial with all its attempts, the first one first."""

    trial: TrialRecord
    created: datetime
    priority: int
    parameters: Mapping[str, Any]
    attempts: tuple[Attempt, ...]


def begin_session(connection: Connection, experiment_pk: int, owner: str, facts: str) -> None:
    """Note where and with what the worker ``owner`` runs its trials."""
    row = {
        "experiment": experiment_pk,
        "owner": owner,
        "facts": facts,
        "started_us": clock.now_us(connection),
    }
    connection.execute(insert(session), row)


class HostNote(NamedTuple):
    """What a host is, in terms of columns."""

    experiment: int
    owner: str
    host: str
    since_us: int
    facts: str


def note_hosts(connection: Connection, notes: Sequence[HostNote]) -> list[None]:
    """Store what hosts are; the same note again changes nothing."""
    connection.execute(insert_new(host_facts, connection.dialect), [one._asdict() for one in notes])
    return [None] * len(notes)


def story(connection: Connection, experiment_pk: int, trial_id: int) -> Story | None:
    """What is kept about a trial; None if there is no such trial."""
    record = reads.record(connection, experiment_pk, trial_id)
    if record is None:
        return None
    this = (trial.c.experiment == experiment_pk, trial.c.trial_id == trial_id)
    row = connection.execute(
        select(
            trial.c.created_us,
            trial.c.priority,
            trial.c.parameters,
            trial.c.owner,
            trial.c.ended_us,
            trial.c.failure_kind,
        ).where(*this)
    ).one()
    points = _points(connection, experiment_pk, trial_id)
    attempts = _earlier(connection, experiment_pk, trial_id, points)
    is_kept = any(one.attempt == record.attempt for one in attempts)  # by a cancellation from outside
    if record.attempt and record.status is not Status.PENDING and not is_kept:
        attempts.append(
            Attempt(
                attempt=record.attempt,
                status=record.status,
                owner=row.owner,
                host=record.host,
                started=record.started,
                ended=record.ended,
                reason=record.failure,
                kind=_kind(row.failure_kind),
                points=points.get(record.attempt, 0),
                facts=_facts(connection, experiment_pk, row.owner),
                host_facts=_host_facts(connection, experiment_pk, row.owner, record.host, row.ended_us),
            )
        )
    return Story(
        trial=record,
        created=values.from_us(row.created_us),
        priority=row.priority,
        parameters=values.load(row.parameters),
        attempts=tuple(attempts),
    )


def _earlier(
    connection: Connection, experiment_pk: int, trial_id: int, points: Mapping[int, int]
) -> list[Attempt]:
    rows = connection.execute(
        select(trial_attempt)
        .where(trial_attempt.c.experiment == experiment_pk, trial_attempt.c.trial_id == trial_id)
        .order_by(trial_attempt.c.attempt)
    ).all()
    return [
        Attempt(
            attempt=row.attempt,
            status=Status(row.status),
            owner=row.owner,
            host=row.host,
            started=_time(row.started_us),
            ended=_time(row.ended_us),
            reason=row.reason,
            kind=_kind(row.failure_kind),
            points=points.get(row.attempt, 0),
            facts=_facts(connection, experiment_pk, row.owner),
            host_facts=_host_facts(connection, experiment_pk, row.owner, row.host, row.ended_us),
        )
        for row in rows
    ]


def _points(connection: Connection, experiment_pk: int, trial_id: int) -> dict[int, int]:
    """attempt → its points of telemetry."""
    rows = connection.execute(
        select(telemetry.c.attempt, func.count().label("points"))
        .where(telemetry.c.experiment == experiment_pk, telemetry.c.trial_id == trial_id)
        .group_by(telemetry.c.attempt)
    )
    return {row.attempt: row.points for row in rows}


def _facts(connection: Connection, experiment_pk: int, owner: str | None) -> dict[str, Any]:
    text = connection.execute(
        select(session.c.facts).where(session.c.experiment == experiment_pk, session.c.owner == owner)
    ).scalar_one_or_none()
    facts: dict[str, Any] = json.loads(text) if text else {}
    return facts


def _host_facts(
    connection: Connection, experiment_pk: int, owner: str | None, host: str | None, ended_us: int | None
) -> dict[str, Any]:
    """What a worker knew of a host when an attempt there ended."""
    before = () if ended_us is None else (host_facts.c.since_us <= ended_us,)
    text = connection.execute(
        select(host_facts.c.facts)
        .where(
            host_facts.c.experiment == experiment_pk,
            host_facts.c.owner == owner,
            host_facts.c.host == host,
            *before,
        )
        .order_by(host_facts.c.since_us.desc())
        .limit(1)
    ).scalar_one_or_none()
    facts: dict[str, Any] = json.loads(text) if text else {}
    return facts


def _kind(name: str | None) -> FailureKind | None:
    return None if name is None else FailureKind(name)


def _time(us: int | None) -> datetime | None:
    return None if us is None else values.from_us(us)
