"""Options that several commands share."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from windtunnel.cli.completion import experiment_ids

if TYPE_CHECKING:
    from windtunnel.cli.session import Output

__all__ = [
    "DATABASE",
    "TEXT",
    "AsJson",
    "ConfigDir",
    "ConfigPath",
    "Experiment",
    "File",
    "FilesConcurrency",
    "FilesSeed",
    "FilesStorage",
    "FilesTrials",
    "Globals",
    "GlobalsFiles",
    "Hosts",
    "JsonList",
    "JsonObject",
    "LogFormat",
    "MetricsPort",
    "Storage",
    "Verbose",
    "output_of",
]


class _LogFormat(enum.StrEnum):
    TEXT = "text"
    JSON = "json"


TEXT = _LogFormat.TEXT

Experiment = Annotated[
    str,
    typer.Argument(metavar="EXPERIMENT", help="Id of the experiment.", autocompletion=experiment_ids),
]
DATABASE = "Database to use, such as sqlite:///runs.db."
Storage = Annotated[str, typer.Option(metavar="URL", help=DATABASE)]
FilesStorage = Annotated[str | None, typer.Option(metavar="URL", help=f"{DATABASE} Default: the file's.")]
FilesTrials = Annotated[
    int | None, typer.Option(metavar="N", help="How many trials in all. Default: the file's.")
]
FilesConcurrency = Annotated[
    int | None, typer.Option(metavar="N", help="Trials at once. Default: the file's.")
]
FilesSeed = Annotated[
    int | None, typer.Option(metavar="N", help="Seed of the optimizer. Default: the file's.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, the progress to stderr.")]
JsonList = Annotated[bool, typer.Option("--json", help="Print a JSON list.")]
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
ConfigDir = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder for $config_dir, if the file's own is not on this machine."),
]
ConfigPath = Annotated[
    list[Path] | None,
    typer.Option("--config-path", metavar="DIR", help="Folder to look in for included files; repeatable."),
]
File = Annotated[
    Path, typer.Argument(metavar="FILE", help="YAML, JSON5 or TOML file that describes the experiment.")
]


def output_of(as_json: bool, verbose: int, log_format: _LogFormat, metrics_port: int | None) -> Output:
    """What a session tells, as the options say it."""
    from windtunnel.cli.session import Output

    form: Literal["text", "json"] = log_format.value
    return Output(as_data=as_json, verbosity=verbose, log_format=form, metrics_port=metrics_port)
