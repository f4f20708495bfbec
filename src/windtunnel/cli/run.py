"""The command that runs what a file describes; what it does is in ``running.py``."""

from __future__ import annotations

from typing import Annotated

import typer

from windtunnel.cli.options import (
    TEXT,
    AsJson,
    ConfigPath,
    File,
    FilesConcurrency,
    FilesSeed,
    FilesStorage,
    FilesTrials,
    Globals,
    GlobalsFiles,
    Hosts,
    LogFormat,
    MetricsPort,
    Verbose,
    output_of,
)

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(run)


def run(
    file: File,
    storage: FilesStorage = None,
    trials: FilesTrials = None,
    concurrency: FilesConcurrency = None,
    seed: FilesSeed = None,
    hosts: Hosts = None,
    names: Globals = None,
    globals_files: GlobalsFiles = None,
    config_path: ConfigPath = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the first trials and their commands; run nothing.")
    ] = False,
    log_format: LogFormat = TEXT,
    metrics_port: MetricsPort = None,
    as_json: AsJson = False,
    verbose: Verbose = 0,
) -> None:
    """Run the experiment that a file describes. Running it again resumes it.

    Ctrl-C stops it in order: the running trials are torn down and are run again on resume.

    \b
    Examples:
      windtunnel run experiment.yaml
      windtunnel run experiment.yaml --trials 100 --concurrency 8 -g rows=5000
      windtunnel run experiment.yaml --dry-run
      windtunnel run experiment.yaml --json > result.json

    $NAME is looked up in -g, in --globals, in the file's globals, in those of the files it includes, and in
    the environment, in this order.

    What the files say is kept in the database with the values given by -g, for 'windtunnel worker'. Put
    secrets into environment variables or files, $NAME or ${file:PATH}: of these only the names are kept.

    The JSON is that of 'windtunnel show --json', with "stopped_because" and "outlier_hosts". Exit codes: 1 if
    no trial succeeded, if more than a fifth of them failed, or if the failure budget or the experiment's time
    limit ended it; 3 if it was interrupted and stopped in order; 4 if its teardowns were cut short.
    """
    from windtunnel.cli.sources import Sources

    overrides = {"storage": storage, "trials": trials, "concurrency": concurrency, "seed": seed}
    sources = Sources.of(names, globals_files, config_path)
    if dry_run:
        from windtunnel.cli.dryrun import dry_run as print_first_trials

        print_first_trials(file, overrides=overrides, sources=sources, hosts=hosts, as_data=as_json)
        return
    from windtunnel.cli.running import run_file

    output = output_of(as_json, verbose, log_format, metrics_port)
    raise typer.Exit(run_file(file, overrides=overrides, sources=sources, hosts=hosts, output=output))
