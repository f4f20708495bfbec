"""The command that lists and checks the hosts of an experiment; what it does is in ``checking.py``."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from windtunnel.cli.options import ConfigPath, File, Globals, GlobalsFiles

__all__ = ["register"]


class _Action(enum.StrEnum):
    LIST = "list"
    CHECK = "check"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(hosts)


def hosts(
    file: File,
    action: Annotated[_Action, typer.Argument(metavar="[list|check]")] = _Action.LIST,
    limit: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="How long checking one host may take.")
    ] = 15.0,
    at_once: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many hosts are checked at once.")
    ] = 100,
    names: Globals = None,
    globals_files: GlobalsFiles = None,
    config_path: ConfigPath = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List the hosts of an experiment, or connect to all and check that trials can run there.

    'list' shows what the file, and the inventory it names, come to when all ranges are expanded. 'check'
    shows of each host whether it can be used, the latency, the system, the processors, how far its clock is
    off, and how its host key was judged; and below why a host cannot be used. No trial is run.

    \b
    Examples:
      windtunnel hosts experiment.yaml
      windtunnel hosts experiment.yaml check
      windtunnel hosts experiment.yaml check --json | jq '.[] | select(.ok | not) | .name'

    Exit codes: 1 if a host cannot be used, 2 if the file is wrong.
    """
    from windtunnel.cli import checking
    from windtunnel.cli.sources import Sources

    loaded = Sources.of(names, globals_files, config_path).load(file)
    if action is _Action.LIST:
        checking.list_hosts(loaded, as_data=as_json)
    else:
        raise typer.Exit(checking.check_hosts(loaded, limit_s=limit, at_once=at_once, as_data=as_json))
