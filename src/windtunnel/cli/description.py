"""The commands that look at a description; what they do is in ``describing.py``."""

from __future__ import annotations

from typing import Annotated

import typer

from windtunnel.cli.options import ConfigPath, File, Globals, GlobalsFiles

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(validate)
    app.command("show-config")(show_config)
    app.command()(schema)


def validate(
    file: File,
    names: Globals = None,
    globals_files: GlobalsFiles = None,
    config_path: ConfigPath = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Check all that can be checked in a file without running anything.

    Every mistake is told with its file, line and column: keys and values, names that are not defined, options
    of environments, optimizers and pruners, hosts, services that are missing, scripts that do not exist, and
    objectives that nothing reports. Files of experiments can name Python modules, which are imported.

    \b
    Examples:
      windtunnel validate experiment.yaml
      windtunnel validate experiment.yaml -g rows=5000 --json

    Exit codes: 0 if it is fine, 2 if there are mistakes.
    """
    from windtunnel.cli.describing import validate as check_file
    from windtunnel.cli.sources import Sources

    raise typer.Exit(check_file(file, Sources.of(names, globals_files, config_path), as_data=as_json))


def show_config(
    file: File,
    trials: Annotated[int | None, typer.Option(metavar="N", help="As for 'run'.")] = None,
    storage: Annotated[str | None, typer.Option(metavar="URL", help="As for 'run'.")] = None,
    names: Globals = None,
    globals_files: GlobalsFiles = None,
    config_path: ConfigPath = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of all values.")] = False,
) -> None:
    """Print what a file amounts to after includes and names, and where each value comes from.

    Values from environment variables and from files are shown as references, and passwords not at all.

    \b
    Examples:
      windtunnel show-config experiment.yaml
      windtunnel show-config experiment.yaml -g rows=5000 --globals lab.yaml --json
    """
    from windtunnel.cli.describing import show_config as show
    from windtunnel.cli.sources import Sources

    overrides = {"trials": trials, "storage": storage}
    show(file, Sources.of(names, globals_files, config_path), overrides, as_data=as_json)


def schema() -> None:
    """Print the JSON Schema of experiment files, for editors.

    With the comment '# yaml-language-server: $schema=windtunnel.schema.json' in a YAML file, or the key
    "$schema" in a JSON file, editors complete keys and mark mistakes.

    \b
    Example:
      windtunnel schema > windtunnel.schema.json
    """
    from windtunnel.cli.describing import print_schema

    print_schema()
