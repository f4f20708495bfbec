"""Changes that people make to stored experiments, also while these run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection, and_, delete, exc, select, tuple_, update

from windtunnel.errors import ConfigError, NotFound, StorageError, TrialAlreadyFinished, TunableError
from windtunnel.model import Status
from windtunnel.storage import clock, ending, leading, reads
from windtunnel.storage.requests import EndedAttempt
from windtunnel.storage.schema import IS_RUNNING, experiment, experiment_merge, telemetry, trial
from windtunnel.texts import check_text
from windtunnel.tunables import TunableGroups

if TYPE_CHECKING:
    from windtunnel.storage.experiment import Experiment

__all__ = [
    "cancel",
    "check_removable",
    "check_start",
    "chosen",
    "experiment_key",
    "remove",
    "rename",
    "thin_out",
]

_POINTS_AT_ONCE = 100_000
"""Telemetry removed in one transaction: bounds how long others wait for the lock."""
_LONGEST_NAME = 255
_PRIORITIES = range(-(2**31), 2**31)


# Enqueuing


async def chosen(
    experiment: Experiment,
    given: Mapping[str, object] | None,
    config_id: int | None,
    best_with: Mapping[str, object] | None,
) -> TunableGroups:
    """The configuration that ``Experiment.enqueue`` is asked for; its errors are described there."""
    ways = {"values": given, "config_id": config_id, "best_with": best_with}
    if sum(one is not None for one in ways.values()) != 1:
        named = [name for name, one in ways.items() if one is not None]
        raise ConfigError(f"expected one of values, config_id and best_with, found {named or 'none'}")
    base = experiment.tunables.defaults()
    if given is not None:
        return base.choose(given)
    if config_id is not None:
        return base.choose(_same_tunables(base, await experiment.load_tunable_config(config_id), config_id))
    best = await experiment.best()
    if best is None:
        raise NotFound("succeeded trial to start from in experiment", experiment.experiment_id)
    return base.assign(best.config).choose(best_with or {})


def _same_tunables(base: TunableGroups, stored: Mapping[str, object], config_id: int) -> Mapping[str, object]:
    if stored.keys() != base.keys():
        raise TunableError(
            f"configuration {config_id} is one of other tunables: it has {sorted(stored)}, "
            f"this experiment has {sorted(base)}; give values instead"
        )
    return stored


def check_start(priority: int) -> None:
    """:raises ConfigError: if a database cannot hold the priority."""
    if isinstance(priority, bool) or not isinstance(priority, int) or priority not in _PRIORITIES:
        raise ConfigError(
            f"expected a priority from {_PRIORITIES[0]} to {_PRIORITIES[-1]}, found {priority!r}"
        )


# Canceling


def cancel(connection: Connection, experiment_pk: int, trial_id: int, reason: str, interrupted: str) -> None:
    """Make a trial that waits or runs CANCELED for good, and refuse what its worker may still write.

    :param interrupted: the failure text of trials that would be queued again on resume; they wait, too.
    :raises NotFound: if there is no such trial.
    :raises TrialAlreadyFinished: if it has an outcome.
    """
    this = and_(trial.c.experiment == experiment_pk, trial.c.trial_id == trial_id)
    row = connection.execute(
        select(trial.c.status, trial.c.failure).where(this).with_for_update()
    ).one_or_none()
    if row is None:
        raise NotFound("trial", trial_id)
    status = Status(row.status)
    if status.is_completed and not (status.is_canceled and row.failure == interrupted):
        raise TrialAlreadyFinished(
            f"trial {trial_id} is {status.name} already; it cannot be canceled any more"
        )
    now, why = clock.now_us(connection), f"canceled: {check_text(reason, 'a reason')}"
    if status is Status.RUNNING:
        ending.keep_attempt(connection, this, now, EndedAttempt(why))
    connection.execute(
        update(trial)
        .where(this)
        .values(
            status=Status.CANCELED.value,
            token=trial.c.token + 1,
            ended_us=now,
            lease_until_us=None,
            failure=why,
        )
    )


# Experiments


def experiment_key(connection: Connection, name: str) -> int:
    """:raises NotFound: if there is no experiment of this name."""
    found = reads.experiment_named(connection, name)
    if found is None:
        raise NotFound("experiment", name, [one.name for one in reads.experiments(connection)])
    return found.id


def check_removable(connection: Connection, experiment_pk: int, dead_owners: Sequence[str]) -> None:
    """:raises StorageError: if a worker that may be alive holds trials, or another has merged it."""
    held = and_(
        trial.c.experiment == experiment_pk,
        IS_RUNNING,
        trial.c.lease_until_us >= clock.now_us(connection),
        trial.c.owner.not_in(list(dead_owners)),
    )
    owners = connection.execute(select(trial.c.trial_id, trial.c.owner).where(held)).all()
    if owners:
        raise StorageError(
            f"expected an experiment that nobody runs, found {len(owners)} of its trials running, the first "
            f"by {owners[0].owner!r}; stop that run, or force the deletion"
        )
    leader = leading.holder(connection, experiment_pk)
    if leader is not None and leader not in dead_owners:
        raise StorageError(
            f"expected an experiment that nobody runs, found it led by {leader!r}; stop that run, or force "
            "the deletion"
        )
    learners = connection.execute(
        select(experiment.c.name)
        .join(experiment_merge, experiment_merge.c.experiment == experiment.c.id)
        .where(experiment_merge.c.merged == experiment_pk)
        .order_by(experiment.c.name)
    ).scalars()
    if names := list(learners):
        raise StorageError(
            f"expected an experiment that no other has merged, found it in {', '.join(map(repr, names))}; "
            "delete those first, or force the deletion"
        )


def thin_out(connection: Connection, experiment_pk: int) -> bool:
    """Remove the next points of telemetry; whether there may be more."""
    key = (telemetry.c.trial_id, telemetry.c.attempt, telemetry.c.ts_us)
    mine = telemetry.c.experiment == experiment_pk
    last = connection.execute(
        select(*key).where(mine).order_by(*key).offset(_POINTS_AT_ONCE).limit(1)
    ).first()
    some = mine if last is None else and_(mine, tuple_(*key) <= tuple(last))
    connection.execute(delete(telemetry).where(some))
    return last is not None


def remove(connection: Connection, experiment_pk: int) -> None:
    """Remove the experiment with its trials. Configurations stay: others may share them."""
    connection.execute(delete(experiment).where(experiment.c.id == experiment_pk))


def rename(connection: Connection, old: str, new: str) -> None:
    """:raises NotFound: if there is no experiment ``old``.
    :raises ConfigError: if ``new`` cannot be a name.
    :raises StorageError: if ``new`` exists.
    """
    key = experiment_key(connection, old)
    if not (new.isprintable() and new == new.strip() and 1 <= len(new) <= _LONGEST_NAME):
        raise ConfigError(
            f"expected a name of 1 to {_LONGEST_NAME} printable characters without spaces around them, "
            f"found {new!r}"
        )
    if new == old:
        return
    taken = StorageError(f"experiment {new!r} exists already; choose another name, or delete it first")
    if reads.experiment_named(connection, new) is not None:
        raise taken
    try:
        connection.execute(update(experiment).where(experiment.c.id == key).values(name=new))
    except exc.IntegrityError:  # made by another program this very moment
        raise taken from None
