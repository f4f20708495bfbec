"""The command that lets an experiment learn from others; what it does is in ``merging.py``."""

from __future__ import annotations

from typing import Annotated

import typer

from windtunnel.cli import DEFAULT_STORAGE
from windtunnel.cli.options import JsonObject, Storage

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(merge)


def merge(
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="Id of the one that learns.")],
    others: Annotated[list[str], typer.Argument(metavar="OTHER", help="Ids of those it learns from.")],
    storage: Storage = DEFAULT_STORAGE,
    as_json: JsonObject = False,
) -> None:
    """Let an experiment learn from the trials of others, when it is run next.

    They need the same objectives and a tunable in common. Nothing is copied, so trials that are added there
    later count as well. Merging again changes nothing.

    \b
    Example:
      windtunnel merge my-experiment experiment-of-last-week
    """
    from windtunnel.cli.merging import merge_experiments

    merge_experiments(experiment, others, storage, as_data=as_json)
