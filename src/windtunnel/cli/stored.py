"""``windtunnel list`` and ``windtunnel show``: what is in a database."""

from __future__ import annotations

import shlex
import sys
from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
from rich.console import Group, RenderableType
from rich.text import Text
from sqlalchemy import exc, make_url

from windtunnel.cli import DEFAULT_STORAGE, tables
from windtunnel.cli.console import make_console
from windtunnel.cli.data import as_json, experiment_data, listing_data, pareto_data
from windtunnel.cli.logs import set_up_logging
from windtunnel.cli.program import program
from windtunnel.cli.ranking import ConfigurationStats, ranked
from windtunnel.cli.words import plain
from windtunnel.errors import NotFound
from windtunnel.model import TrialRecord
from windtunnel.objectives import Objective, weights
from windtunnel.storage import Experiment, ExperimentSummary, open_storage

__all__ = [
    "PATIENCE",
    "check_exists",
    "data_of",
    "is_gone",
    "list_experiments",
    "place_of",
    "show_command",
    "show_experiment",
]

_BEST = 10
_MANY = 100
PATIENCE = timedelta(seconds=3)
"""A person waits who only wants to look."""


def list_experiments(storage: str, *, as_data: bool) -> None:
    """Print every experiment of a database.

    :raises WindtunnelError: if the database does not exist or cannot be used.
    """
    set_up_logging(make_console(sys.stderr))
    check_exists(storage)
    experiments = anyio.run(_experiments, storage)
    if as_data:
        sys.stdout.write(as_json(listing_data(experiments)))
        return
    console = make_console(sys.stdout)
    if not experiments:
        console.print(f"{place_of(storage)} holds no experiment yet", soft_wrap=True)
        return
    if len(experiments) > _MANY:
        console.file.write(tables.long_listing(experiments, width=console.width))
    else:
        console.print(tables.listing(experiments))
    some = experiments[-1].experiment_id
    console.print(Text(f"more: {show_command(some, storage)}", style="dim"), soft_wrap=True)


async def _experiments(storage: str) -> list[ExperimentSummary]:
    async with open_storage(storage, patience=PATIENCE) as opened:
        return await opened.experiments()


def show_experiment(experiment_id: str, storage: str, *, as_data: bool, newest: int) -> None:
    """Print one experiment.

    :param newest: how many trials the table shows; the JSON holds all.
    :raises NotFound: if there is none with this id.
    """
    set_up_logging(make_console(sys.stderr))
    check_exists(storage)
    if as_data:
        sys.stdout.write(as_json(anyio.run(_data, experiment_id, storage)))
    else:
        make_console(sys.stdout).print(anyio.run(_described, experiment_id, storage, newest))


async def _data(experiment_id: str, storage: str) -> dict[str, Any]:
    async with open_storage(storage, patience=PATIENCE) as opened:
        return await data_of(await opened.open_experiment(experiment_id))


async def data_of(experiment: Experiment) -> dict[str, Any]:
    """The object that ``show --json`` and ``run --json`` print."""
    trials = [one async for one in experiment.trials()]
    best = await experiment.best()
    data = experiment_data(experiment.experiment_id, experiment.opt_targets, best, trials)
    if len(experiment.opt_targets) == 1:
        return data
    return data | pareto_data(await experiment.pareto(), await experiment.hypervolume())


async def _described(experiment_id: str, storage: str, newest: int) -> RenderableType:
    async with open_storage(storage, patience=PATIENCE) as opened:
        experiment = await opened.open_experiment(experiment_id)
        counts, best = await experiment.counts(), await experiment.best()
        failure = await experiment.last_failure()
        stats: dict[int, ConfigurationStats] = {}
        last: deque[TrialRecord] = deque(maxlen=newest)
        async for trial in experiment.trials():
            last.append(trial)
            if trial.status.is_succeeded:
                stats.setdefault(trial.config_id, ConfigurationStats(trial.config_id, trial.config)).add(
                    trial
                )
    objectives = experiment.opt_targets
    head = Text(plain(experiment_id), style="bold")
    wanted = ", ".join(f"{plain(name)} ({direction})" for name, direction in objectives.items())
    head.append(f"  {wanted}\n{tables.counted(counts)}", style="not bold default")
    parts: list[RenderableType] = [head]
    if best is not None:
        parts += [Text(), tables.best_block(best, stats.get(best.config_id), objectives)]
        first = ranked(stats.values(), experiment.objectives, most=_BEST)
        by = _by(experiment.objectives)
        parts += [Text(f"\nbest {len(first)} of {len(stats)} configurations{by}", style="bold")]
        parts += [tables.ranking(first, objectives)]
        if len(objectives) > 1:
            hint = f"trade-offs between objectives: {show_command(experiment_id, storage)} --pareto\n"
            parts += [Text(hint, style="dim")]
    if last:
        which = f"newest {len(last)} of {counts.total} trials" if counts.total > len(last) else "trials"
        parts += [Text(which, style="bold"), tables.trials_table(last, objectives)]
    if failure is not None:
        parts += [tables.failure_block(failure)]
    return Group(*parts)


def _by(objectives: Mapping[str, Objective]) -> str:
    """What configurations are ranked by, where that is a question."""
    if len(objectives) == 1:
        return ""
    first = plain(next(iter(objectives)))
    return f" by {first}" if weights(objectives) is None else " by the weighted sum of all objectives"


def show_command(experiment_id: str, storage: str) -> str:
    """The command that shows this experiment; never with a password."""
    where = "" if storage == DEFAULT_STORAGE else f" --storage {shlex.quote(place_of(storage))}"
    return f"{program()} show {shlex.quote(plain(experiment_id))}{where}"


def place_of(storage: str) -> str:
    """A storage URL without its password."""
    if is_gone(storage):
        return "memory"
    try:
        return make_url(storage).render_as_string(hide_password=True)
    except (exc.ArgumentError, ValueError):
        return "the database"


def is_gone(storage: str) -> bool:
    """Whether what was stored there ends with this process."""
    return storage in ("sqlite://", "sqlite:///", "sqlite:///:memory:")


def check_exists(storage: str) -> None:
    """:raises NotFound: if it is a file that does not exist; looking must not make one."""
    try:
        url = make_url(storage)
    except (exc.ArgumentError, ValueError):
        return  # opening it says what is wrong
    name = url.database or ""
    if url.get_backend_name() != "sqlite" or name in ("", ":memory:") or name.startswith("file:"):
        return
    if not Path(name).exists():
        hint = "name one with --storage sqlite:///PATH, or make one with 'windtunnel run FILE'"
        raise NotFound("database", name, hint=hint)
