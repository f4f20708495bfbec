"""The command line. Each command imports what it needs when it is called, so that ``--help`` is quick."""

from __future__ import annotations

import contextlib
import enum
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from windtunnel.cli import (
    DEFAULT_STORAGE,
    db,
    description,
    edit,
    hosts,
    load,
    mlos,
    new,
    optimizers,
    resume,
    watch,
    worker,
)
from windtunnel.cli.options import (
    TEXT,
    AsJson,
    ConfigPath,
    Experiment,
    File,
    Globals,
    GlobalsFiles,
    Hosts,
    JsonObject,
    LogFormat,
    MetricsPort,
    Verbose,
)
from windtunnel.cli.usage import Commands

__all__ = ["app", "main"]

_WORKER = "AnyIO worker thread"
_THREADS_LIMIT_S = 0.5
_STORAGE = "Database to use, such as sqlite:///runs.db."

app = typer.Typer(
    name="windtunnel",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"windtunnel {version('windtunnel')}")
        raise typer.Exit


@app.callback()
def _windtunnel(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Runs benchmark trials concurrently, tunes parameters, and keeps everything in a database.

    \b
    Start with:
      windtunnel demo                    a real experiment, in under a minute
      windtunnel run experiment.yaml     run, or resume, what a file describes
      windtunnel worker my-experiment    help to run it, from here or from another machine
      windtunnel load URL --rate 100     a load test, alone
      windtunnel list                    the experiments of a database
      windtunnel show my-experiment      what came of one

    'windtunnel new NAME' makes a project to start from, 'windtunnel --install-completion' lets the shell
    complete commands and ids.

    Exit codes: 0 fine, 1 the experiment failed, 2 the command or the configuration is wrong, 3 interrupted
    and stopped in order, 4 interrupted and the teardowns cut short.
    """


@app.command()
def run(
    file: File,
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help=_STORAGE + " Default: the file's.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(metavar="N", help="How many trials in all. Default: the file's.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(metavar="N", help="Trials at once. Default: the file's.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed of the optimizer. Default: the file's.")
    ] = None,
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
    from windtunnel.cli.run import run_file
    from windtunnel.cli.session import Output

    code = run_file(
        file,
        overrides=overrides,
        sources=sources,
        hosts=hosts,
        output=Output(
            as_data=as_json, verbosity=verbose, log_format=log_format.value, metrics_port=metrics_port
        ),
    )
    raise typer.Exit(code)


@app.command("list")
def list_(
    storage: Annotated[str, typer.Option(metavar="URL", help=_STORAGE)] = DEFAULT_STORAGE,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
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


@app.command()
def show(
    experiment: Experiment,
    storage: Annotated[str, typer.Option(metavar="URL", help=_STORAGE)] = DEFAULT_STORAGE,
    newest: Annotated[
        int, typer.Option(min=0, metavar="N", help="How many trials the table shows; the JSON has all.")
    ] = 20,
    trial: Annotated[
        int | None, typer.Option(metavar="N", help="Show all that is kept about this trial instead.")
    ] = None,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="Show the trade-offs between its objectives instead.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
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


@app.command()
def demo(
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help=_STORAGE + " Default: sqlite:///windtunnel-demo.db.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(metavar="N", help="How many trials in all. Default: the example's.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(metavar="N", help="Trials at once. Default: the example's.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Seed of the optimizer. Default: the example's.")
    ] = None,
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
    from windtunnel.cli.demo import run_demo

    overrides = {"storage": storage, "trials": trials, "concurrency": concurrency, "seed": seed}
    raise typer.Exit(run_demo(overrides=overrides, as_data=as_json, verbosity=verbose))


worker.register(app)
resume.register(app)
watch.register(app)
new.register(app)
hosts.register(app)
description.register(app)
optimizers.register(app)
edit.register(app)
db.register(app)
load.register(app)
mlos.register(app)


class Format(enum.StrEnum):
    """What ``export`` writes."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


@app.command()
def export(
    experiment: Experiment,
    form: Annotated[
        Format, typer.Option("--format", help="Parquet needs windtunnel[arrow] and --output.")
    ] = Format.CSV,
    telemetry: Annotated[
        bool, typer.Option("--telemetry", help="One row a point of telemetry, not one a trial.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: stdout.")
    ] = None,
    storage: Annotated[str, typer.Option(metavar="URL", help=_STORAGE)] = DEFAULT_STORAGE,
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
    from windtunnel.cli.export import export_experiment

    export_experiment(experiment, storage, form=form.value, telemetry=telemetry, output=output)


@app.command()
def merge(
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="Id of the one that learns.")],
    others: Annotated[list[str], typer.Argument(metavar="OTHER", help="Ids of those it learns from.")],
    storage: Annotated[str, typer.Option(metavar="URL", help=_STORAGE)] = DEFAULT_STORAGE,
    as_json: JsonObject = False,
) -> None:
    """Let an experiment learn from the trials of others, when it is run next.

    They need the same objectives and a tunable in common. Nothing is copied, so trials that are added there
    later count as well. Merging again changes nothing.

    \b
    Example:
      windtunnel merge my-experiment experiment-of-last-week
    """
    from windtunnel.cli.merge import merge_experiments

    merge_experiments(experiment, others, storage, as_data=as_json)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param arguments: default those of the process.
    :returns: the exit code; see ``verdict.py``.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal may lack a character
    try:
        code = _called(arguments)
    except (Exception, KeyboardInterrupt, BaseExceptionGroup) as error:  # noqa: BLE001 - it is told
        from windtunnel.cli.errors import report

        code = report(error)
    return _left(_flushed(code))


def _called(arguments: Sequence[str] | None) -> int:
    command = typer.main.get_command(app)
    try:
        command.main(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="windtunnel")
    except SystemExit as ended:
        if ended.code == 128 + 2:  # how typer tells of a KeyboardInterrupt
            raise KeyboardInterrupt from None
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _flushed(code: int) -> int:
    """Write out what is buffered; a reader that has gone (``| head``) is no failure of ours."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            # The interpreter flushes once more when it ends, and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


def _left(code: int) -> int:
    """Leave behind what cannot be stopped: a plain function in its thread, a view of a paused terminal.

    The interpreter would wait for them, though everything they were for is over and stored.
    """
    deadline = time.monotonic() + _THREADS_LIMIT_S
    workers = [thread for thread in threading.enumerate() if thread.name == _WORKER]
    for thread in workers:
        thread.join(max(0.0, deadline - time.monotonic()))
    if any(thread.is_alive() for thread in workers):
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
