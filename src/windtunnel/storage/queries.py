"""The writes, as plain functions of a connection: each applies a batch of like operations in few statements.

They only touch the connection, so that a group can be rolled back and applied again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, and_, bindparam, insert, literal, select, update
from sqlalchemy.sql import ColumnElement

from windtunnel.errors import NotFound, NotLeading, StaleTrial, StorageError, TrialAlreadyFinished
from windtunnel.model import Status
from windtunnel.storage.dialects import clock_us, has_update_returning, insert_new
from windtunnel.storage.requests import (
    Addition,
    Claim,
    Claimed,
    Completion,
    EndedAttempt,
    Extension,
    NewRow,
    Release,
)
from windtunnel.storage.schema import (
    IS_RUNNING,
    config,
    experiment,
    optimizer_lease,
    status_is,
    trial,
    trial_attempt,
)

__all__ = [
    "CLEARED",
    "add_trials",
    "chunks",
    "claim",
    "extend",
    "finish",
    "keep_attempt",
    "now_us",
    "put_back",
    "release",
    "stale",
]

_CHUNK = 500
"""Values in one IN list: within every database's limit on parameters."""


def now_us(connection: Connection) -> int:
    """The time leases are counted in."""
    return clock_us(connection)


def chunks(values: Iterable[Any]) -> Iterable[list[Any]]:
    """``values`` in lists that fit into one IN."""
    rest = list(values)
    while rest:
        yield rest[:_CHUNK]
        rest = rest[_CHUNK:]


# Adding


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
    now = now_us(connection)
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


# Claiming


def claim(connection: Connection, claims: Sequence[Claim]) -> list[list[Claimed]]:
    """Lease pending trials, the highest priority and then the oldest first."""
    now = now_us(connection)
    for experiment_pk, owner in {(c.experiment, c.owner) for c in claims}:
        _reap(connection, experiment_pk, owner, now)
    claimed = [_claim_one(connection, one, now) for one in claims]
    params = _params_of(connection, {row.config_id for rows in claimed for row in rows})
    return [[Claimed._make((*row, params[row.config_id])) for row in rows] for rows in claimed]


_DUE = (
    select(trial.c.trial_id)
    .where(
        trial.c.experiment == bindparam("experiment_pk"),
        status_is(Status.PENDING),
        trial.c.not_before_us <= bindparam("now"),
    )
    .order_by(trial.c.priority.desc(), trial.c.trial_id)
    .limit(bindparam("count"))
    .with_for_update(skip_locked=True)
)
_TAKEN: dict[str, Any] = {
    "status": Status.RUNNING.value,
    "owner": bindparam("new_owner"),
    "token": trial.c.token + 1,
    "attempt": trial.c.attempt + 1,
    "started_us": bindparam("now"),
    "ended_us": None,
    "failure": None,
    "lease_until_us": bindparam("until"),
}
_CLAIMED = (
    trial.c.trial_id,
    trial.c.config_id,
    trial.c.parameters,
    trial.c.priority,
    trial.c.attempt,
    trial.c.token,
)
# Materialized: PostgreSQL may run a subquery once for each row, and so lock more rows than the limit says.
_DUE_ONCE = _DUE.cte("due").prefix_with("MATERIALIZED", dialect="postgresql")
_CLAIM = (
    update(trial)
    .where(
        trial.c.experiment == bindparam("experiment_pk"), trial.c.trial_id.in_(select(_DUE_ONCE.c.trial_id))
    )
    .values(_TAKEN)
    .returning(*_CLAIMED)
)


# Without UPDATE … RETURNING the rows are locked first: nobody else sees them until the transaction ends.
_CLAIM_THESE = (
    update(trial)
    .where(
        trial.c.experiment == bindparam("experiment_pk"),
        trial.c.trial_id.in_(bindparam("these", expanding=True)),
    )
    .values(_TAKEN)
)
_CLAIMED_THESE = select(*_CLAIMED).where(
    trial.c.experiment == bindparam("experiment_pk"), trial.c.trial_id.in_(bindparam("these", expanding=True))
)


def _claim_one(connection: Connection, one: Claim, now: int) -> list[Any]:
    names = {
        "experiment_pk": one.experiment,
        "now": now,
        "count": one.limit,
        "new_owner": one.owner,
        "until": now + one.lease_us,
    }
    if has_update_returning(connection.dialect):
        rows = connection.execute(_CLAIM, names).all()
    else:
        names["these"] = connection.execute(_DUE, names).scalars().all()
        connection.execute(_CLAIM_THESE, names)
        rows = connection.execute(_CLAIMED_THESE, names).all()
    return sorted(rows, key=lambda row: (-row.priority, row.trial_id))


# Statements of the hot path are made once: making one costs more than running it.
_PARAMS = select(config.c.id, config.c.params).where(config.c.id.in_(bindparam("ids", expanding=True)))


def _params_of(connection: Connection, ids: Iterable[int]) -> dict[int, str]:
    params: dict[int, str] = {}
    for some in chunks(ids):
        rows = connection.execute(_PARAMS, {"ids": some})
        params.update((config_id, text) for config_id, text in rows)
    return params


def _expired(experiment_pk: Any, now: Any, me: Any) -> ColumnElement[bool]:
    return and_(
        trial.c.experiment == experiment_pk,
        status_is(Status.RUNNING),
        trial.c.lease_until_us < now,
        trial.c.owner != me,
    )


_LOCK_EXPIRED = (
    select(trial.c.trial_id)
    .where(_expired(bindparam("experiment_pk"), bindparam("now"), bindparam("me")))
    .limit(_CHUNK)
    .with_for_update(skip_locked=True)
)


def _reap(connection: Connection, experiment_pk: int, me: str, now: int) -> None:
    """Send the trials of workers that fell silent back to the queue.

    Not one's own: an expired lease of ours means that our heartbeat is late, and it is about to come.
    """
    names = {"experiment_pk": experiment_pk, "now": now, "me": me}
    if expired := connection.execute(_LOCK_EXPIRED, names).scalars().all():
        these = and_(trial.c.experiment == experiment_pk, trial.c.trial_id.in_(expired))
        put_back(connection, these, now, EndedAttempt("its worker fell silent"))


def extend(connection: Connection, extensions: Sequence[Extension]) -> list[dict[int, int]]:
    """Renew all leases of an owner; trial_id → token of those it holds.

    Waits for nobody: a trial that somebody changes at this moment, as a rule to end it, is left as it is.
    """
    now = now_us(connection)
    held: list[dict[int, int]] = []
    for one in extensions:
        mine = and_(trial.c.experiment == one.experiment, IS_RUNNING, trial.c.owner == one.owner)
        for free in _not_locked(connection, mine):
            these = and_(trial.c.experiment == one.experiment, free)
            connection.execute(update(trial).where(these).values(lease_until_us=now + one.lease_us))
        held.append(dict(map(tuple, connection.execute(select(trial.c.trial_id, trial.c.token).where(mine)))))
    return held


def _not_locked(connection: Connection, which: ColumnElement[bool]) -> Iterable[ColumnElement[bool]]:
    """What picks those of the trials ``which`` that no other transaction has locked, and locks them.

    To wait for one while holding others would be a deadlock with whoever locks them in another order.
    """
    if connection.dialect.name == "sqlite":
        return (which,)
    free = select(trial.c.trial_id).where(which).with_for_update(skip_locked=True)
    return (trial.c.trial_id.in_(some) for some in chunks(connection.execute(free).scalars().all()))


def release(connection: Connection, releases: Sequence[Release]) -> list[StorageError | None]:
    """Put running trials back into the queue; what this attempt was stays in ``trial_attempt``."""
    now = now_us(connection)
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


# Finishing

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
