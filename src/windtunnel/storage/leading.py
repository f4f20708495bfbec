"""The optimizer's lease: of all workers of an experiment, the one that holds it asks the optimizer.

A row for each experiment that is led. Whoever changes it says in the same statement whose it must have been,
so that of many who try at once one succeeds.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, delete, or_, select, update
from sqlalchemy.sql import ColumnElement

from windtunnel.storage import clock
from windtunnel.storage.dialects import insert_new
from windtunnel.storage.schema import optimizer_lease

__all__ = ["free", "holder", "renew", "resign", "take"]


def holder(connection: Connection, experiment_pk: int) -> str | None:
    """Who holds the lease now; None if it is free or has expired."""
    held = and_(_of(experiment_pk), optimizer_lease.c.lease_until_us >= clock.now_us(connection))
    found: str | None = connection.execute(select(optimizer_lease.c.owner).where(held)).scalar_one_or_none()
    return found


def take(connection: Connection, experiment_pk: int, owner: str, lease_us: int, dead: Sequence[str]) -> bool:
    """Make the lease ``owner``'s if it is free, expired, theirs already or of one of the ``dead``."""
    now = clock.now_us(connection)
    is_free = or_(
        optimizer_lease.c.owner.in_([owner, *dead]),
        optimizer_lease.c.lease_until_us < now,
    )
    taken = {"owner": owner, "lease_until_us": now + lease_us}
    if _update(connection, and_(_of(experiment_pk), is_free), taken):
        return True
    connection.execute(
        insert_new(optimizer_lease, connection.dialect), {"experiment": experiment_pk, **taken}
    )
    found = select(optimizer_lease.c.owner).where(_of(experiment_pk))  # ours, or of one who was faster
    return bool(connection.execute(found).scalar_one_or_none() == owner)


def renew(connection: Connection, experiment_pk: int, owner: str, lease_us: int) -> bool:
    """Renew the lease if ``owner`` holds it; whether they do. One that expired and was not taken is held."""
    until = clock.now_us(connection) + lease_us
    return _update(
        connection, and_(_of(experiment_pk), optimizer_lease.c.owner == owner), {"lease_until_us": until}
    )


def resign(connection: Connection, experiment_pk: int, owner: str) -> None:
    """Free the lease if ``owner`` holds it."""
    free(connection, experiment_pk, [owner])


def free(connection: Connection, experiment_pk: int, owners: Sequence[str]) -> None:
    """Free the lease if one of ``owners`` holds it."""
    mine = and_(_of(experiment_pk), optimizer_lease.c.owner.in_(list(owners)))
    connection.execute(delete(optimizer_lease).where(mine))


def _of(experiment_pk: int) -> ColumnElement[bool]:
    return optimizer_lease.c.experiment == experiment_pk


def _update(connection: Connection, which: ColumnElement[bool], values: dict[str, object]) -> bool:
    """Whether a row was hit: every driver is asked to count those too that it did not have to change."""
    return connection.execute(update(optimizer_lease).where(which).values(values)).rowcount > 0
