"""The commands for those who come from mlos_bench; what they do is in ``trees.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from windtunnel.cli.options import TEXT, AsJson, LogFormat, MetricsPort, Verbose, output_of

__all__ = ["register"]

_PASSED_ON: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command(context_settings=_PASSED_ON)(mlos)
    app.command(context_settings=_PASSED_ON)(convert)


def mlos(
    context: typer.Context,
    log_format: LogFormat = TEXT,
    metrics_port: MetricsPort = None,
    as_json: AsJson = False,
    verbose: Verbose = 0,
) -> None:
    """Run a configuration tree of mlos_bench with the command line that mlos_bench took.

    \b
    Examples:
      windtunnel mlos --config cli/my-bench.jsonc --globals globals/lab.jsonc --num_trial_runners 4
      windtunnel mlos --environment env.jsonc --storage storage/sqlite.jsonc --experiment_id my-bench --json

    \b
    Flags, with dashes or underscores:
      --config FILE                 main file; its keys are named like these flags, which win over it
      --config_path DIR...          where files and scripts are found, after the current folder
      --environment FILE            what is run; FILE may be inline JSON, here and below
      --services FILE...            services for it
      --optimizer FILE              default: one trial, of the defaults
      --scheduler FILE              limits, repeats and whether to tear down
      --storage FILE                default: in memory, gone afterwards
      --globals FILE...             global parameters; later files win
      --tunable_values FILE...      values of the first configuration
      --random_init, --random_seed N              draw them first
      --experiment_id ID            the same id again resumes
      --trial_config_repeat_count N runs of each configuration
      --num_trial_runners N         trials at once
      --no_teardown                 leave what was set up
      --log_level LEVEL, --log_file FILE
      --create-update-storage-schema-only         nothing is run
      --NAME VALUE                  any other global, such as --max_suggestions 20

    What cannot be honoured is told before anything runs, with file and line. A flag that looks like a typing
    error of a known one is refused. The JSON and the exit codes are those of 'windtunnel run'.
    """
    from windtunnel.cli.trees import run_tree

    output = output_of(as_json, verbose, log_format, metrics_port)
    raise typer.Exit(run_tree(context.args, output=output))


def convert(
    context: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="Main file of the tree, or that of an environment.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: stdout.")
    ] = None,
) -> None:
    """Write a configuration tree of mlos_bench as one file for 'windtunnel run'.

    \b
    Examples:
      windtunnel convert cli/my-bench.jsonc --output my-bench.yaml
      windtunnel convert env.jsonc --globals globals/lab.jsonc --experiment_id my-bench

    Takes the other flags of 'windtunnel mlos', too. Comments at the top of the file say what could not be
    honoured, for which the exit code is 2, and what is done otherwise. Scripts are named relative to the
    folder of the new file, or the current one.
    """
    from windtunnel.cli.trees import convert_tree

    raise typer.Exit(convert_tree(["--config", file, *context.args], output=output))
