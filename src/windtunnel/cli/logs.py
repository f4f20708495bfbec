"""The log of a command: lines for people on the console that also holds the live view, or lines of JSON."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TextIO

from rich.console import Console
from rich.text import Text

from windtunnel.cli.console import is_live
from windtunnel.cli.secrecy import hidden
from windtunnel.cli.words import plain
from windtunnel.errors import ConfigError
from windtunnel.logs import JsonFormatter

__all__ = ["LogFormat", "logging_to", "set_up_logging"]

LogFormat = Literal["text", "json"]

_STYLES = {"WARNING": "yellow", "ERROR": "bold red", "CRITICAL": "bold red"}


class _ConsoleHandler(logging.Handler):
    """Prints through the console, which moves the live view out of the way."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._console.print(self.line(record), soft_wrap=True)
        except Exception:  # noqa: BLE001 - a log line that cannot be written must not end an experiment
            self.handleError(record)

    def format(self, record: logging.LogRecord) -> str:
        return hidden(super().format(record))

    def line(self, record: logging.LogRecord) -> Text:
        return Text(self.format(record))


class _TextHandler(_ConsoleHandler):
    def __init__(self, console: Console, *, timed: bool) -> None:
        super().__init__(console)
        self._timed = timed
        self.setFormatter(logging.Formatter("%(message)s", datefmt="%H:%M:%S"))

    def line(self, record: logging.LogRecord) -> Text:
        line = Text()
        if self._timed:
            line.append(f"{logging.Formatter('%(asctime)s', '%H:%M:%S').format(record)} ", style="dim")
        line.append(f"{record.levelname.lower()}: ", style=_STYLES.get(record.levelname, "dim"))
        return line.append(plain(self.format(record)))


class _StreamHandler(logging.StreamHandler[TextIO]):
    """The standard error, without a console."""

    def format(self, record: logging.LogRecord) -> str:
        return hidden(super().format(record))


def set_up_logging(console: Console, *, verbosity: int = 0, form: LogFormat = "text") -> None:
    """Show warnings, from ``verbosity`` 1 what an operator may act on, from 2 everything.

    :param console: where text goes.
    :param form: ``json`` writes lines of JSON to the standard error; through the console, if that holds a
        live view and both are a terminal.
    """
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)]
    root = logging.getLogger()
    for handler in [one for one in root.handlers if isinstance(one, _ConsoleHandler | _StreamHandler)]:
        root.removeHandler(handler)
    root.addHandler(_TextHandler(console, timed=verbosity > 0) if form == "text" else _json_handler(console))
    logging.getLogger("windtunnel").setLevel(level)
    logging.raiseExceptions = False


@contextmanager
def logging_to(file: Path, *, level: int) -> Iterator[None]:
    """Write the log to the end of a file too, while the block runs.

    :param level: the lowest that is written there; the console keeps its own.
    :raises ConfigError: if the file cannot be written.
    """
    try:
        handler = logging.FileHandler(file, encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"cannot write the log file {str(file)!r}: {exc.strerror or exc}") from None
    handler.setLevel(level)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    root, package = logging.getLogger(), logging.getLogger("windtunnel")
    for other in root.handlers:
        other.setLevel(package.level)
    package.setLevel(min(package.level, level))
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def _json_handler(console: Console) -> logging.Handler:
    shared = is_live(console) and sys.stderr.isatty()
    handler = _ConsoleHandler(console) if shared else _StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    return handler
