"""What is told of an option whose value is none that it can have."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

__all__ = ["Commands"]


class Commands(TyperGroup):
    """The commands, which say so in our words, not in those of the library that checks types."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as exc:
            from pydantic import ValidationError  # it is loaded by now, unlike for --help

            from windtunnel.options import mismatch

            if isinstance(exc.__cause__, ValidationError):
                exc.message = mismatch(exc.__cause__)
            raise
