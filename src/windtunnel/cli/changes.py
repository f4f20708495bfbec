"""``windtunnel enqueue``, ``cancel``, ``delete`` and ``rename``: changes to what is stored."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import anyio

from windtunnel.cli.console import make_console
from windtunnel.cli.data import as_json
from windtunnel.cli.logs import set_up_logging
from windtunnel.cli.stored import check_exists, place_of
from windtunnel.cli.verdict import FAILED, OK
from windtunnel.cli.words import assignments as assigned
from windtunnel.cli.words import plain
from windtunnel.errors import ConfigError, NotFound, TrialAlreadyFinished
from windtunnel.model import Trial
from windtunnel.scheduling.leases import certainly_dead
from windtunnel.storage import Storage, open_storage
from windtunnel.texts import many

__all__ = ["cancel_trials", "delete_experiment", "enqueue_trial", "rename_experiment"]

T = TypeVar("T")

_PATIENCE = timedelta(seconds=10)


def _with(storage: str, work: Callable[[Storage], Awaitable[T]]) -> T:
    """What ``work`` gives for the database, which must exist."""

    async def run() -> T:
        async with open_storage(storage, patience=_PATIENCE) as opened:
            return await work(opened)

    set_up_logging(make_console(sys.stderr))
    check_exists(storage)
    return anyio.run(run)


def _say(text: str) -> None:
    make_console(sys.stdout).print(plain(text), soft_wrap=True)


def _tell(text: str, data: Mapping[str, object], *, as_data: bool) -> None:
    """What was done, for people or for programs."""
    if as_data:
        sys.stdout.write(as_json(data))
    else:
        _say(text)


# Trials


def enqueue_trial(
    experiment_id: str,
    storage: str,
    *,
    assignments: Sequence[str],
    config_id: int | None,
    from_best: bool,
    priority: int,
    not_before: str | None,
    as_data: bool,
) -> None:
    """Add a trial.

    :param assignments: ``NAME=VALUE`` each.
    :param not_before: a time in ISO 8601.
    :raises ConfigError: if the trial cannot be made of these.
    :raises StorageError: if there is no such experiment or configuration, or the database fails.
    """
    given = _parsed(assignments)
    start = None if not_before is None else _time(not_before)
    if config_id is None and not from_best and not given:
        raise ConfigError("expected NAME=VALUE, --config-id N or --from-best, found none of them")
    if config_id is not None and (from_best or given):
        raise ConfigError("--config-id names all values; give neither NAME=VALUE nor --from-best with it")

    async def add(opened: Storage) -> Trial:
        experiment = await opened.open_experiment(experiment_id)
        return await experiment.enqueue(
            None if from_best or config_id is not None else given,
            config_id=config_id,
            best_with=given if from_best else None,
            priority=priority,
            not_before=start,
        )

    trial = _with(storage, add)
    when = "" if start is None else f", not before {start.isoformat()}"
    _tell(
        f"trial {trial.trial_id} of {experiment_id} is queued: {assigned(trial.tunables)}{when}",
        {
            "experiment_id": experiment_id,
            "trial_id": trial.trial_id,
            "config_id": trial.config_id,
            "config": dict(trial.tunables),
            "not_before": None if start is None else start.isoformat(),
        },
        as_data=as_data,
    )


def _parsed(assignments: Sequence[str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for one in assignments:
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise ConfigError(f"expected NAME=VALUE, found {one!r}")
        if name in found:
            raise ConfigError(f"expected one value for {name!r}, found {found[name]!r} and {value!r}")
        found[name] = value
    return found


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"expected a time such as 2030-01-01T22:00 for --not-before, found {text!r}"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def cancel_trials(
    experiment_id: str, storage: str, *, trials: Sequence[int], reason: str, as_data: bool
) -> int:
    """Cancel each of the trials, and tell of those that cannot be.

    :returns: the exit code: 1 if one of them could not be canceled.
    :raises StorageError: if there is no such experiment, or the database fails.
    """
    refused: dict[int, str] = {}

    async def cancel(opened: Storage) -> None:
        experiment = await opened.open_experiment(experiment_id)
        for trial_id in dict.fromkeys(trials):
            try:
                await experiment.cancel(trial_id, reason=reason)
            except (NotFound, TrialAlreadyFinished) as exc:
                refused[trial_id] = str(exc)

    _with(storage, cancel)
    told = [
        refused.get(one) or f"trial {one} of {experiment_id} is canceled" for one in dict.fromkeys(trials)
    ]
    canceled = [one for one in dict.fromkeys(trials) if one not in refused]
    data = {"experiment_id": experiment_id, "canceled": canceled, "refused": refused}
    _tell("\n".join(told), data, as_data=as_data)
    return FAILED if refused else OK


# Experiments


def delete_experiment(
    experiment_id: str, storage: str, *, confirmed: bool, force: bool, as_data: bool
) -> None:
    """Delete an experiment; ask before, if that was not ``confirmed``.

    :raises ConfigError: if nobody can be asked.
    :raises StorageError: if it is in use or does not exist, or the database fails.
    """

    async def delete(opened: Storage) -> None:
        await opened.delete_experiment(experiment_id, force=force, is_dead=certainly_dead)

    agreed = confirmed or _agreed(experiment_id, storage)
    if agreed:
        _with(storage, delete)
    text = f"{experiment_id} is deleted" if agreed else "nothing is deleted"
    _tell(text, {"experiment_id": experiment_id, "deleted": agreed}, as_data=as_data)


def _agreed(experiment_id: str, storage: str) -> bool:
    async def count(opened: Storage) -> int:
        return (await (await opened.open_experiment(experiment_id)).counts()).total

    trials = _with(storage, count)
    if not sys.stdin.isatty():
        raise ConfigError("expected an answer from a terminal, found none; add --yes to delete without it")
    _say(f"{experiment_id} in {place_of(storage)} has {many(trials, 'trial')}. Delete them for good? [y/N]")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def rename_experiment(old: str, new: str, storage: str, *, as_data: bool) -> None:
    """Give an experiment another id.

    :raises WindtunnelError: if it does not exist, the new one does or cannot be an id, or the database fails.
    """

    _with(storage, lambda opened: opened.rename_experiment(old, new))
    _tell(f"{old} is now {new}", {"old": old, "new": new}, as_data=as_data)
