"""Leases on trials: taking those that are due, taking over those that expired, extending one's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, and_, bindparam, select, update
from sqlalchemy.sql import ColumnElement

from windtunnel.model import Status
from windtunnel.storage import clock
from windtunnel.storage.dialects import CHUNK, chunks, has_update_returning
from windtunnel.storage.ending import put_back
from windtunnel.storage.requests import Claim, Claimed, EndedAttempt, Extension
from windtunnel.storage.schema import IS_RUNNING, config, status_is, trial

__all__ = ["claim", "extend"]


def claim(connection: Connection, claims: Sequence[Claim]) -> list[list[Claimed]]:
    """Lease pending trials, the highest priority and then the oldest first."""
    now = clock.now_us(connection)
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
    .limit(CHUNK)
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
    now = clock.now_us(connection)
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
