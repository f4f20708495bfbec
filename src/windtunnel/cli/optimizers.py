"""``windtunnel optimizers``: which there are, what for, with which options, and what is installed."""

from __future__ import annotations

import sys
from typing import Any

import typer

from windtunnel.cli.options import AsJson

__all__ = ["offers", "register"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command()(optimizers)


def optimizers(as_json: AsJson = False) -> None:
    """List the optimizers: what each is for, its options with their defaults, and whether it is installed.

    A class of your own is named by its dotted path.

    \b
    Example:
      windtunnel optimizers
      windtunnel optimizers --json | jq '.[] | select(.installed) | .name'
    """
    from windtunnel.cli.console import make_console
    from windtunnel.cli.data import as_json as data_as_json

    if as_json:
        typer.echo(data_as_json(offers()), nl=False)
    else:
        make_console(sys.stdout).print(_table(offers()))


def offers() -> list[dict[str, Any]]:
    """One object for each optimizer. ``options`` is null where they are not known before it is installed."""
    from windtunnel.optimizers.registry import OPTIMIZERS

    found = []
    for name, offer in OPTIMIZERS.items():
        cls = offer.find()
        options = None
        if cls is not None:
            options = [
                {"name": key, "default": _default(field), "meaning": field.description}
                for key, field in cls.options_class.model_fields.items()
            ]
        found.append(
            {
                "name": name,
                "purpose": offer.purpose,
                "installed": not offer.missing,
                "install": f"pip install 'windtunnel[{offer.extra}]'" if offer.extra else None,
                "options": options,
            }
        )
    return found


def _default(field: Any) -> Any:
    """None for an option that must be given, or whose default its meaning tells."""
    return None if field.is_required() else field.get_default(call_default_factory=True)


def _table(found: list[dict[str, Any]]) -> Any:
    from windtunnel.cli.tables import plain_table

    table = plain_table("optimizer", "for", "options", "installed")
    for one in found:
        options = ", ".join(map(_short, one["options"] or ()))
        installed = "yes" if one["installed"] else f"no: {one['install']}"
        table.add_row(one["name"], one["purpose"], options or "-", installed)
    return table


def _short(option: dict[str, Any]) -> str:
    return option["name"] if option["default"] in (None, {}) else f"{option['name']}={option['default']}"
