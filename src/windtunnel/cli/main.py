"""The command line. Each command imports what it needs when it is called, so that ``--help`` is quick."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import Annotated

import typer

from windtunnel.cli.usage import Commands

__all__ = ["main", "make_app"]

_WORKER = "AnyIO worker thread"
_THREADS_LIMIT_S = 0.5
_MODULES = {
    "run": "run",
    "resume": "resume",
    "worker": "worker",
    "list": "show",
    "show": "show",
    "watch": "watch",
    "demo": "demo",
    "new": "new",
    "validate": "description",
    "show-config": "description",
    "schema": "description",
    "hosts": "hosts",
    "optimizers": "optimizers",
    "load": "load",
    "export": "export",
    "merge": "merge",
    "enqueue": "edit",
    "cancel": "edit",
    "delete": "edit",
    "rename": "edit",
    "copy": "edit",
    "import-mlos": "edit",
    "db": "db",
    "mlos": "mlos",
    "convert": "mlos",
}
"""command → the module that adds it, in the order of the help."""


def make_app(only: str | None = None) -> typer.Typer:
    """The command line.

    :param only: a command; with it no more is made than it takes. Default: all.
    """
    app = typer.Typer(
        name="windtunnel",
        cls=Commands,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_windtunnel)
    for module in [_MODULES[only]] if only in _MODULES else dict.fromkeys(_MODULES.values()):
        importlib.import_module(f"windtunnel.cli.{module}").register(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"windtunnel {version('windtunnel')}")
        raise typer.Exit


def _windtunnel(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Runs benchmark trials concurrently, tunes parameters, and keeps everything in a database.

    \b
    Start with:
      windtunnel demo                    a real experiment, in under a minute
      windtunnel run experiment.yaml     run, or resume, what a file describes
      windtunnel worker my-experiment    help to run it, from here or from another machine
      windtunnel load URL --rate 100     a load test, alone
      windtunnel list                    the experiments of a database
      windtunnel show my-experiment      what came of one

    'windtunnel new NAME' makes a project to start from, 'windtunnel --install-completion' lets the shell
    complete commands and ids.

    Exit codes: 0 fine, 1 the experiment failed, 2 the command or the configuration is wrong, 3 interrupted
    and stopped in order, 4 interrupted and the teardowns cut short.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    :param arguments: default those of the process.
    :returns: the exit code; see ``verdict.py``.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a terminal may lack a character
    try:
        code = _called(arguments)
    except (Exception, KeyboardInterrupt, BaseExceptionGroup) as error:  # noqa: BLE001 - it is told
        from windtunnel.cli.errors import report

        code = report(error)
    return _left(_flushed(code))


def _called(arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = typer.main.get_command(make_app(only=given[0] if given else None))
    try:
        command.main(args=given, prog_name="windtunnel")
    except SystemExit as ended:
        if ended.code == 128 + 2:  # how typer tells of a KeyboardInterrupt
            raise KeyboardInterrupt from None
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _flushed(code: int) -> int:
    """Write out what is buffered; a reader that has gone (``| head``) is no failure of ours."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            # The interpreter flushes once more when it ends, and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


def _left(code: int) -> int:
    """Leave behind what cannot be stopped: a plain function in its thread, a view of a paused terminal.

    The interpreter would wait for them, though everything they were for is over and stored. It would also
    look for garbage in all that was loaded, several times: a sixth of the time that a short command takes.
    """
    gc.freeze()
    deadline = time.monotonic() + _THREADS_LIMIT_S
    workers = [thread for thread in threading.enumerate() if thread.name == _WORKER]
    for thread in workers:
        thread.join(max(0.0, deadline - time.monotonic()))
    if any(thread.is_alive() for thread in workers):
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
