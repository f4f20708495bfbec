"""The command that writes data for other programs; what it does is in ``exporting.py``."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from windtunnel.cli import DEFAULT_STORAGE
from windtunnel.cli.options import Experiment, Storage

__all__ = ["register"]


class _Format(enum.StrEnum):
    """What ``export`` writes."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(export)


def export(
    experiment: Experiment,
    form: Annotated[
        _Format, typer.Option("--format", help="Parquet needs windtunnel[arrow] and --output.")
    ] = _Format.CSV,
    telemetry: Annotated[
        bool, typer.Option("--telemetry", help="One row a point of telemetry, not one a trial.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: stdout.")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Write an experiment's trials, or its telemetry, for other programs.

    One row a trial, with a column for each tunable (config.NAME) and each metric (result.NAME), which are
    objects in JSONL. Telemetry is of every attempt.

    \b
    Examples:
      windtunnel export my-experiment > trials.csv
      windtunnel export my-experiment --format jsonl | jq .result
      windtunnel export my-experiment --format parquet --telemetry --output telemetry.parquet

    Times are ISO 8601 in UTC. In JSONL, nan and infinity are null.
    """
    from windtunnel.cli.exporting import export_experiment

    export_experiment(experiment, storage, form=form.value, telemetry=telemetry, output=output)
