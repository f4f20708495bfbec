"""The command that shows what the program is good for; what it does is in ``demonstration.py``."""

from __future__ import annotations

from typing import Annotated

import typer

from windtunnel.cli.options import DATABASE, AsJson, FilesConcurrency, FilesSeed, FilesTrials, Verbose

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(demo)


def demo(
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help=f"{DATABASE} Default: sqlite:///windtunnel-demo.db."),
    ] = None,
    trials: FilesTrials = None,
    concurrency: FilesConcurrency = None,
    seed: FilesSeed = None,
    as_json: AsJson = False,
    verbose: Verbose = 0,
) -> None:
    """Tune SQLite on this machine, in under a minute.

    Measures on the disk of the current directory, and shows the best settings beside the defaults. Running it
    again runs a new one, or resumes the last if that was interrupted.

    \b
    Examples:
      windtunnel demo
      windtunnel demo --trials 12 --seed 7
    """
    from windtunnel.cli.demonstration import run_demo

    overrides = {"storage": storage, "trials": trials, "concurrency": concurrency, "seed": seed}
    raise typer.Exit(run_demo(overrides=overrides, as_data=as_json, verbosity=verbose))
