"""What is told of an option whose value is none that it can have."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

__all__ = ["Commands"]

_KINDS = {"int": "an integer", "float": "a number", "bool": "true or false"}


class Commands(TyperGroup):
    """The commands, which say so in our words."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as exc:
            exc.message = _plain(exc)
            raise


def _plain(exc: typer.BadParameter) -> str:
    """The message, unless it is the one of a library that checks types for whoever writes programs."""
    cause: Any = exc.__cause__
    if not hasattr(cause, "errors"):
        return exc.message
    first = cause.errors()[0]
    kind = _KINDS.get(first["type"].partition("_")[0])
    return exc.message if kind is None else f"expected {kind}, found {first['input']!r}"
