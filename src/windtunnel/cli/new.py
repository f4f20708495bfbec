"""The command that makes a project; what it does is in ``templates.py``."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


class _Template(enum.StrEnum):
    LOAD = "load"
    LOCAL = "local"
    SSH = "ssh"
    SQLITE = "sqlite"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(new)


def new(
    name: Annotated[
        Path, typer.Argument(metavar="NAME", help="Folder to make; its name is the experiment's id.")
    ],
    template: Annotated[
        _Template, typer.Option(help="A script here or on other hosts, the demo's, or a load test.")
    ] = _Template.LOCAL,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Make a small project that runs as it is, to be changed into one's own.

    \b
    Examples:
      windtunnel new my-experiment
      windtunnel new my-experiment --template ssh
      windtunnel new my-capacity --template load
    """
    from windtunnel.cli.templates import make_project

    make_project(name, template.value, as_data=as_json)
