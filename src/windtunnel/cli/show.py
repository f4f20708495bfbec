"""The commands that show what is in a database; what they do is in ``stored.py``."""

from __future__ import annotations

from typing import Annotated

import typer

from windtunnel.cli import DEFAULT_STORAGE
from windtunnel.cli.options import Experiment, JsonList, JsonObject, Storage

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("list")(list_)
    app.command()(show)


def list_(
    storage: Storage = DEFAULT_STORAGE,
    as_json: JsonList = False,
) -> None:
    """List the experiments of a database.

    \b
    Examples:
      windtunnel list
      windtunnel list --storage sqlite:///runs.db --json

    In the JSON, "failed" counts the trials that timed out too, and nan and infinity are null.
    """
    from windtunnel.cli.stored import list_experiments

    list_experiments(storage, as_data=as_json)


def show(
    experiment: Experiment,
    storage: Storage = DEFAULT_STORAGE,
    newest: Annotated[
        int, typer.Option(min=0, metavar="N", help="How many trials the table shows; the JSON has all.")
    ] = 20,
    trial: Annotated[
        int | None, typer.Option(metavar="N", help="Show all that is kept about this trial instead.")
    ] = None,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="Show the trade-offs between its objectives instead.")
    ] = False,
    as_json: JsonObject = False,
) -> None:
    """Show one experiment: its best configurations, its trials and its last failure.

    \b
    Examples:
      windtunnel show my-experiment
      windtunnel show my-experiment --storage sqlite:///runs.db --json
      windtunnel show my-experiment --trial 7
      windtunnel show my-experiment --pareto

    In the JSON, times are ISO 8601 in UTC, and nan and infinity are null.
    """
    if trial is not None:
        from windtunnel.cli.story import show_trial

        show_trial(experiment, trial, storage, as_data=as_json)
        return
    if pareto:
        from windtunnel.cli.tradeoffs import show_pareto

        show_pareto(experiment, storage, as_data=as_json)
        return
    from windtunnel.cli.stored import show_experiment

    show_experiment(experiment, storage, as_data=as_json, newest=newest)
