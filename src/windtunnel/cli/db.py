"""``windtunnel db``: care for a database itself."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from windtunnel.cli import DEFAULT_STORAGE
from windtunnel.cli.options import JsonObject

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    group = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Care for a database itself.")
    group.command()(upgrade)
    group.callback()(lambda: None)  # a group, although it has one command only
    app.add_typer(group, name="db")


def upgrade(
    storage: Annotated[str, typer.Option(metavar="URL", help="The database.")] = DEFAULT_STORAGE,
    as_json: JsonObject = False,
) -> None:
    """Bring a database's tables up to date. SQLite files are upgraded by themselves when they are opened.

    \b
    Example:
      windtunnel db upgrade --storage postgresql://me@db.example.org/bench
    """
    import anyio

    from windtunnel.cli.stored import check_exists, place_of
    from windtunnel.storage import upgrade_storage

    check_exists(storage)
    revision = anyio.run(upgrade_storage, storage)
    if as_json:
        typer.echo(json.dumps({"storage": place_of(storage), "schema": revision}))
    else:
        typer.echo(f"{place_of(storage)} has schema {revision}")
