"""The command that joins an experiment; what it does is in ``joining.py``."""

from __future__ import annotations

from typing import Annotated

import typer

from windtunnel.cli import DEFAULT_STORAGE
from windtunnel.cli.options import (
    TEXT,
    AsJson,
    ConfigDir,
    Experiment,
    FilesConcurrency,
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
    app.command()(worker)


def worker(
    experiment: Experiment,
    storage: Storage = DEFAULT_STORAGE,
    concurrency: FilesConcurrency = None,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="End when nothing is left to run; default: wait for more.")
    ] = False,
    config_dir: ConfigDir = None,
    hosts: Hosts = None,
    names: Globals = None,
    log_format: LogFormat = TEXT,
    metrics_port: MetricsPort = None,
    as_json: AsJson = False,
    verbose: Verbose = 0,
) -> None:
    """Help to run an experiment that 'windtunnel run FILE' has begun, on this or another machine.

    Any number of workers may join and leave at any moment. One of them leads: it asks the optimizer for
    configurations. When it ends or dies, another one takes over.

    What the file said when it was last run is kept in the database, with the values given by -g; $NAME from
    the environment is looked up on this machine.

    If the file lists hosts, each worker uses every slot of those it is given: divide them with --hosts, also
    for 'run'.

    \b
    Examples:
      windtunnel worker my-experiment --storage postgresql://me@db/bench
      windtunnel worker my-experiment --concurrency 8 --until-idle
      windtunnel worker my-experiment --config-dir /opt/bench
      windtunnel worker my-experiment --hosts 'node[33-64]'

    Ctrl-C stops it in order: its trials are torn down and others run them. Exit codes are those of 'run'.
    """
    from windtunnel.cli.joining import join
    from windtunnel.config.load import parse_global

    code = join(
        experiment,
        overrides={"storage": storage, "concurrency": concurrency},
        names=dict(parse_global(one) for one in names or ()),
        directory=config_dir,
        hosts=hosts,
        until_idle=until_idle,
        output=output_of(as_json, verbose, log_format, metrics_port),
    )
    raise typer.Exit(code)
