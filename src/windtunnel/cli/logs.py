"""Log records as lines for people, on the console that also holds the live view."""

from __future__ import annotations

import logging

from rich.console import Console
from rich.text import Text

from windtunnel.cli.words import plain

__all__ = ["set_up_logging"]

_STYLES = {"WARNING": "yellow", "ERROR": "bold red", "CRITICAL": "bold red"}


class _ConsoleHandler(logging.Handler):
    """Prints through the console, which moves the live view out of the way."""

    def __init__(self, console: Console, *, timed: bool) -> None:
        super().__init__()
        self._console = console
        self._timed = timed
        self.setFormatter(logging.Formatter("%(message)s", datefmt="%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = Text()
            if self._timed:
                line.append(f"{logging.Formatter('%(asctime)s', '%H:%M:%S').format(record)} ", style="dim")
            line.append(f"{record.levelname.lower()}: ", style=_STYLES.get(record.levelname, "dim"))
            line.append(plain(self.format(record)))
            self._console.print(line, soft_wrap=True)
        except Exception:  # noqa: BLE001 - a log line that cannot be written must not end an experiment
            self.handleError(record)


def set_up_logging(console: Console, *, verbosity: int = 0) -> None:
    """Show warnings on ``console``, from ``verbosity`` 1 what an operator may act on, from 2 everything."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)]
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, _ConsoleHandler)]:
        root.removeHandler(handler)
    root.addHandler(_ConsoleHandler(console, timed=verbosity > 0))
    logging.getLogger("windtunnel").setLevel(level)
    logging.raiseExceptions = False
