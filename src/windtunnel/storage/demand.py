"""How many trials wait, and how many more the workers of an experiment could run."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, func, select, update

from windtunnel.storage import clock
from windtunnel.storage.schema import IS_PENDING, experiment, session, trial

__all__ = ["Backlog", "backlog", "want"]


class Backlog(NamedTuple):
    """What there is to run.

    :ivar total: trials the experiment has, finished ones too.
    :ivar pending: trials that wait, also those that are due later.
    :ivar suggested: configurations that were taken from the optimizer; None if nobody counted.
    :ivar wanted: how many more trials other workers could run now.
    """

    total: int
    pending: int
    suggested: int | None
    wanted: int


def backlog(connection: Connection, experiment_pk: int, owner: str) -> Backlog:
    """What there is to run.

    :param owner: a worker whose own wants do not count.
    """
    pending = select(func.count()).select_from(trial).where(trial.c.experiment == experiment_pk, IS_PENDING)
    wanted = select(func.coalesce(func.sum(session.c.wanting), 0)).where(
        session.c.experiment == experiment_pk,
        session.c.owner != owner,
        session.c.wanting_until_us > clock.now_us(connection),
    )
    row = connection.execute(
        select(
            experiment.c.next_trial_id - 1,
            pending.scalar_subquery(),
            experiment.c.suggested,
            wanted.scalar_subquery(),
        ).where(experiment.c.id == experiment_pk)
    ).one_or_none()
    if row is None:
        return Backlog(0, 0, None, 0)
    total, waiting, suggested, wants = row
    return Backlog(total, waiting, suggested, int(wants))


def want(connection: Connection, experiment_pk: int, owner: str, number: int, lasting_us: int) -> None:
    """Note that ``owner`` could run so many more trials, to be believed for a while."""
    mine = (session.c.experiment == experiment_pk) & (session.c.owner == owner)
    until = clock.now_us(connection) + lasting_us
    connection.execute(update(session).where(mine).values(wanting=number, wanting_until_us=until))
