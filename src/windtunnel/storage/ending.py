"""How attempts at a trial end: with its outcome, or with the trial back in the queue.

Every write here names the token under which the trial is held, and must hit it: a worker that lost its lease
is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, and_, bindparam, insert, literal, select, update
from sqlalchemy.sql import ColumnElement

from windtunnel.errors import NotFound, StaleTrial, StorageError, TrialAlreadyFinished
from windtunnel.model import Status
from windtunnel.storage import clock
from windtunnel.storage.dialects import chunks
from windtunnel.storage.requests import Completion, EndedAttempt, Release
from windtunnel.storage.schema import status_is, trial, trial_attempt

__all__ = ["CLEARED", "finish", "keep_attempt", "put_back", "release", "stale"]


# Back into the queue


def release(connection: Connection, releases: Sequence[Release]) -> list[StorageError | None]:
    """Put running trials back into the queue; what this attempt was stays in ``trial_attempt``."""
    now = clock.now_us(connection)
    outcomes: list[StorageError | None] = []
    for one in releases:
        held = and_(
            trial.c.experiment == one.experiment,
            trial.c.trial_id == one.trial_id,
            trial.c.token == one.token,
            status_is(Status.RUNNING),
        )
        hit = put_back(connection, held, now, one.attempt, after_us=one.after_us)
        outcomes.append(None if hit else stale(one.trial_id))
    return outcomes


_ARCHIVED = ("experiment", "trial_id", "attempt", "owner", "started_us")
_ENDED = ("ended_us", "status", "reason", "host", "failure_kind")
_OF_HOLDING = ("owner", "host", "started_us", "ended_us", "lease_until_us")
CLEARED = (*_OF_HOLDING, "metrics", "score", "failure", "failure_kind")
"""What a trial that waits does not have."""


def keep_attempt(connection: Connection, which: ColumnElement[bool], now: int, attempt: EndedAttempt) -> None:
    """Note in ``trial_attempt`` how the attempts of the trials ``which`` ended."""
    row = select(
        *(trial.c[name] for name in _ARCHIVED),
        literal(now),
        literal(attempt.status),
        literal(attempt.reason),
        trial.c.host if attempt.host is None else literal(attempt.host),
        literal(attempt.failure_kind, trial.c.failure_kind.type),
    ).where(which)
    connection.execute(insert(trial_attempt).from_select([*_ARCHIVED, *_ENDED], row))


def put_back(
    connection: Connection, which: ColumnElement[bool], now: int, attempt: EndedAttempt, *, after_us: int = 0
) -> int:
    """Queue the trials ``which`` again and keep their attempts in ``trial_attempt``; how many they were.

    :param after_us: how much later than ``now`` they may be claimed.
    """
    keep_attempt(connection, which, now, attempt)
    queued: dict[str, object] = dict.fromkeys(CLEARED)
    queued["status"] = Status.PENDING.value
    if after_us > 0:
        queued["not_before_us"] = now + after_us
    return connection.execute(update(trial).where(which).values(queued)).rowcount


# With an outcome

_FINISH = (
    update(trial)
    .where(
        trial.c.experiment == bindparam("new_experiment"),
        trial.c.trial_id == bindparam("new_trial_id"),
        trial.c.token == bindparam("new_token"),
        status_is(Status.RUNNING),
    )
    .values(
        status=bindparam("new_status"),
        ended_us=bindparam("new_ended_us"),
        metrics=bindparam("new_metrics"),
        score=bindparam("new_score"),
        failure=bindparam("new_failure"),
        host=bindparam("new_host"),
        failure_kind=bindparam("new_failure_kind"),
        lease_until_us=None,
    )
)
_FINISH_NAMES = tuple(f"new_{field}" for field in Completion._fields)  # SQLAlchemy keeps columns' own names


def finish(connection: Connection, completions: Sequence[Completion]) -> list[StorageError | None]:
    """Store outcomes of trials that are held. The same outcome again changes nothing."""
    result = connection.execute(_FINISH, [dict(zip(_FINISH_NAMES, one, strict=True)) for one in completions])
    if result.rowcount == len(completions):
        return [None] * len(completions)
    # Some did not hit, or the driver does not count: see what the rows say now.
    now: dict[tuple[int, int], Any] = {}
    for experiment_pk in {one.experiment for one in completions}:
        for these in chunks(one.trial_id for one in completions if one.experiment == experiment_pk):
            rows = connection.execute(_OUTCOMES, {"experiment_pk": experiment_pk, "these": these})
            now.update({(experiment_pk, row.trial_id): row for row in rows})
    return [_finished(now.get((one.experiment, one.trial_id)), one) for one in completions]


_OUTCOMES = select(trial.c.trial_id, trial.c.status, trial.c.token, trial.c.metrics).where(
    trial.c.experiment == bindparam("experiment_pk"), trial.c.trial_id.in_(bindparam("these", expanding=True))
)


def _finished(row: Any, one: Completion) -> StorageError | None:
    """Whether ``one`` is what the trial's row now says."""
    if row is None:
        return NotFound("trial", one.trial_id)
    if row.token != one.token or row.status < Status.SUCCEEDED.value:
        return stale(one.trial_id)
    if row.status == one.status and _same(row.metrics, one.metrics):
        return None
    said = Status(row.status).name
    return TrialAlreadyFinished(
        f"trial {one.trial_id} is {said} already; the outcome {Status(one.status).name} is refused"
    )


def _same(metrics: str | None, others: str | None) -> bool:
    """Whether two texts hold the same metrics, in whatever order. What JSON lacks is marked: nan is nan."""
    return metrics == others or (
        metrics is not None and others is not None and json.loads(metrics) == json.loads(others)
    )


def stale(trial_id: int) -> StaleTrial:
    """The refusal of a write for a trial that is not held."""
    return StaleTrial(
        f"trial {trial_id} is not held under this token: its lease was lost or it has ended; "
        "this write is refused"
    )
