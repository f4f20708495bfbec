"""The terminal, or what stands in for one."""

from __future__ import annotations

import os
from typing import IO

from rich.console import Console

__all__ = ["is_live", "make_console"]

_PIPED_WIDTH = 240


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would end the program; whether a reader that has gone matters is for the caller to say."""
        raise


def make_console(stream: IO[str]) -> Console:
    """A console that prints texts as they are: brackets in a message are no markup, numbers get no colours.

    What is no terminal has no width to respect, so its tables are not squeezed into 80 columns.
    """
    width = None if stream.isatty() or "COLUMNS" in os.environ else _PIPED_WIDTH
    return _Console(file=stream, markup=False, emoji=False, highlight=False, width=width)


def is_live(console: Console) -> bool:
    """Whether a display can be redrawn in place. FORCE_COLOR makes colours, it makes no terminal."""
    return console.file.isatty() and console.is_interactive
