"""The command that goes on with a stored experiment; what it does is in ``joining.py``."""

from __future__ import annotations

import typer

from windtunnel.cli import DEFAULT_STORAGE
from windtunnel.cli.options import (
    TEXT,
    AsJson,
    ConfigDir,
    Experiment,
    FilesConcurrency,
    FilesTrials,
    Globals,
    Hosts,
    LogFormat,
    MetricsPort,
    Storage,
    Verbose,
    output_of,
)

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(resume)


def resume(
    experiment: Experiment,
    storage: Storage = DEFAULT_STORAGE,
    trials: FilesTrials = None,
    concurrency: FilesConcurrency = None,
    config_dir: ConfigDir = None,
    hosts: Hosts = None,
    names: Globals = None,
    log_format: LogFormat = TEXT,
    metrics_port: MetricsPort = None,
    as_json: AsJson = False,
    verbose: Verbose = 0,
) -> None:
    """Go on with an experiment as it is stored, without its file.

    It is run to its end as by 'windtunnel run FILE': what was interrupted is run again, what is finished is
    not. What the file said when it was last run counts, with the values given by -g then and now; $NAME from
    the environment and ${file:PATH} are looked up anew.

    \b
    Examples:
      windtunnel resume my-experiment
      windtunnel resume my-experiment --trials 200 --concurrency 8
      windtunnel resume my-experiment --storage sqlite:///runs.db --json

    Exit codes are those of 'run'.
    """
    from windtunnel.cli.joining import join
    from windtunnel.config.load import parse_global

    code = join(
        experiment,
        overrides={"storage": storage, "trials": trials, "concurrency": concurrency},
        names=dict(parse_global(one) for one in names or ()),
        directory=config_dir,
        hosts=hosts,
        until_idle=True,
        as_worker=False,
        output=output_of(as_json, verbose, log_format, metrics_port),
    )
    raise typer.Exit(code)
