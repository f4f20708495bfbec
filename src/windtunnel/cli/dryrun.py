"""``windtunnel run --dry-run``: the first trials and the commands they would run, touching nothing."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from windtunnel.cli.console import make_console
from windtunnel.cli.data import as_json
from windtunnel.cli.logs import set_up_logging
from windtunnel.cli.session import make_importable
from windtunnel.cli.sources import Sources
from windtunnel.cli.words import assignments
from windtunnel.config.build import Parts, make_parts
from windtunnel.config.load import LoadedConfig
from windtunnel.environments.commands import Commands
from windtunnel.texts import many
from windtunnel.tunables import TunableGroups

__all__ = ["dry_run"]

_SHOWN = 3


def dry_run(
    file: Path, *, overrides: Mapping[str, object], sources: Sources, hosts: str | None, as_data: bool
) -> None:
    """Print the first configurations of a new experiment, and what they would run.

    :param hosts: patterns of the names of those to use; default all.
    :raises ConfigError: if it could not be run.
    """
    set_up_logging(make_console(sys.stderr))
    loaded = sources.load(file, overrides)
    make_importable(loaded.origin.directory)
    parts = make_parts(loaded, only=hosts)
    config = loaded.config
    wanted = min(_SHOWN, math.ceil(config.trials / config.repeats))
    first = [
        (index * config.repeats + 1, tunables, _commands(loaded, parts, tunables, index * config.repeats + 1))
        for index, tunables in enumerate(parts.optimizer.ask(wanted))
    ]
    if as_data:
        facts = {"experiment_id": config.experiment, "trials": config.trials, "repeats": config.repeats}
        shown = [_data(trial_id, tunables, commands) for trial_id, tunables, commands in first]
        sys.stdout.write(as_json({**facts, "first": shown}))
        return
    repeats = f", each configuration {config.repeats} times" if config.repeats > 1 else ""
    seed = "" if config.optimizer.seed is not None else "; without a seed, a run proposes others"
    parts_shown: list[RenderableType] = [
        Text(
            f"{config.experiment}: {many(config.trials, 'trial')}{repeats}; nothing is run or stored{seed}",
            style="bold",
        )
    ]
    for trial_id, tunables, commands in first:
        parts_shown += [Text(f"\ntrial {trial_id}  {assignments(dict(tunables))}", style="bold")]
        parts_shown += [Text(line) for line in _lines(commands)] or [
            Text(f"  no commands: {type(parts.example).__name__} runs in this process")
        ]
    make_console(sys.stdout).print(Group(*parts_shown), soft_wrap=True)


def _commands(loaded: LoadedConfig, parts: Parts, tunables: TunableGroups, trial_id: int) -> list[Commands]:
    """What a trial would run, without secrets."""
    names = {
        "experiment_id": loaded.config.experiment,
        "trial_id": trial_id,
        "trial_runner_id": 1,
        "host": parts.fleet.hosts[0].name,
    }
    hide = loaded.secrets.hide
    return [
        one._replace(
            lines=[hide(line) for line in one.lines],
            variables={name: hide(value) for name, value in one.variables.items()},
        )
        for one in parts.example.commands(tunables, names)
    ]


def _lines(commands: list[Commands]) -> Iterator[str]:
    told: Mapping[str, str] = {}
    for one in commands:
        where = f" on {one.host}" if one.host else ""
        yield f"  {one.environment}{where}: {one.step}"
        if one.variables != told:
            told = one.variables
            yield f"    # {' '.join(f'{name}={shlex.quote(value)}' for name, value in told.items())}"
        yield from (f"    {line}" for line in one.lines)


def _data(trial_id: int, tunables: TunableGroups, commands: list[Commands]) -> dict[str, Any]:
    return {
        "trial_id": trial_id,
        "config": dict(tunables),
        "commands": [
            {**one._asdict(), "lines": list(one.lines), "host": one.host or None} for one in commands
        ],
    }
