"""The command that looks at a running experiment; what it does is in ``watching.py``."""

from __future__ import annotations

from typing import Annotated

import typer

from windtunnel.cli import DEFAULT_STORAGE
from windtunnel.cli.options import Experiment, Storage

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(watch)


def watch(
    experiment: Experiment,
    storage: Storage = DEFAULT_STORAGE,
    once: Annotated[bool, typer.Option("--once", help="Look once and end.")] = False,
    every: Annotated[float, typer.Option(min=0.2, metavar="SECONDS", help="How often to look.")] = 1.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object for each look, one a line.")
    ] = False,
) -> None:
    """Watch an experiment that runs elsewhere: in another terminal, or on other machines.

    Shows trials by state, the rate, the time that is left, hosts, the newest telemetry of running trials, and
    the best value so far over the trials. It only reads the database, and ends when the experiment does;
    Ctrl-C ends it at once and disturbs nothing.

    \b
    Examples:
      windtunnel watch my-experiment
      windtunnel watch my-experiment --storage postgresql://me@db/bench
      windtunnel watch my-experiment --once --json | jq .trials
    """
    from windtunnel.cli.watching import watch_experiment

    watch_experiment(experiment, storage, once=once, every_s=every, as_data=as_json)
