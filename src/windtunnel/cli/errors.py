"""What a person is told when something goes wrong, and the exit code that goes with it."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Iterator

from windtunnel.cli.secrecy import hidden
from windtunnel.cli.verdict import FAILED, INTERRUPTED, MISUSED
from windtunnel.errors import ConfigError, NotFound, WindtunnelError

__all__ = ["report"]


def report(error: BaseException) -> int:
    """Tell the user about ``error`` and give the exit code.

    It is 2 for a wrong configuration and for what is not there, 3 for a Ctrl-C before anything ran, else 1.
    Only an error that nobody raised on purpose, which is a bug of ours, is shown with its traceback.
    """
    leaves = list(_leaves(error))
    known = [one for one in leaves if isinstance(one, WindtunnelError)]
    if known:
        chosen = next((one for one in known if isinstance(one, ConfigError)), known[0])
        _print(f"error: {chosen}")
        return MISUSED if isinstance(chosen, ConfigError | NotFound) else FAILED
    if any(isinstance(one, KeyboardInterrupt) for one in leaves):
        _print("interrupted")
        return INTERRUPTED
    if isinstance(leaves[0], OSError):
        if leaves[0].errno != errno.EPIPE:
            _print(f"error: {leaves[0]}")
    else:
        _print("".join(traceback.format_exception(error)).rstrip())
        _print("error: this is a bug in windtunnel; please report it with the lines above")
    return FAILED


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _print(text: str) -> None:
    try:
        print(hidden(text), file=sys.stderr)  # noqa: T201 - what the program says when it ends
    except OSError:
        return
