"""Options that several commands share."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from windtunnel.cli.completion import experiment_ids

__all__ = [
    "TEXT",
    "AsJson",
    "ConfigPath",
    "Experiment",
    "File",
    "Globals",
    "GlobalsFiles",
    "Hosts",
    "JsonObject",
    "LogFormat",
    "MetricsPort",
    "Storage",
    "Verbose",
]


class _LogFormat(enum.StrEnum):
    TEXT = "text"
    JSON = "json"


TEXT = _LogFormat.TEXT

Experiment = Annotated[
    str,
    typer.Argument(metavar="EXPERIMENT", help="Id of the experiment.", autocompletion=experiment_ids),
]
Storage = Annotated[str, typer.Option(metavar="URL", help="Database to use, such as sqlite:///runs.db.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, the progress to stderr.")]
JsonObject = Annotated[bool, typer.Option("--json", help="Print a JSON object.")]
Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, show_default=False, help="Log more; -vv logs everything."),
]
LogFormat = Annotated[
    _LogFormat, typer.Option("--log-format", help="How log lines are written to stderr.", show_default=True)
]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        min=1,
        max=65535,
        metavar="N",
        help="Serve metrics for Prometheus on this port of this machine.",
    ),
]
Globals = Annotated[
    list[str] | None,
    typer.Option("-g", "--global", metavar="NAME=VALUE", help="Value for $NAME; repeatable."),
]
GlobalsFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--globals",
        metavar="FILE",
        help="Names and values for $NAME; repeatable, the later one wins.",
    ),
]
Hosts = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Use these of the hosts only, such as 'db[1-8],web*'. Default: all. Workers of one experiment "
        "need hosts of their own.",
    ),
]
ConfigPath = Annotated[
    list[Path] | None,
    typer.Option("--config-path", metavar="DIR", help="Folder to look in for included files; repeatable."),
]
File = Annotated[
    Path, typer.Argument(metavar="FILE", help="YAML, JSON5 or TOML file that describes the experiment.")
]
