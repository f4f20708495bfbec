"""What environments may ask of the outside world, and the typed map that answers.

A service implements one or more of these protocols. Environments name the protocol they need and never a
class: ``services.get(LocalExec)``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from windtunnel.errors import MissingService
from windtunnel.model import Sample

__all__ = [
    "LineHandler",
    "LocalExec",
    "LocalSession",
    "Output",
    "RemoteExec",
    "RemoteSession",
    "ScriptResult",
    "Services",
    "TelemetrySink",
]

LineHandler = Callable[[str], Awaitable[None]]
"""Called with each line of standard output, in order and without its newline, while the script runs."""


@runtime_checkable
class TelemetrySink(Protocol):
    """Where samples go while a trial runs."""

    async def emit(self, metric: str, value: float | str, timestamp: datetime | None = None) -> None:
        """Take one sample; waits while the recorder is full.

        :param timestamp: aware; default now, made unique within the trial.
        """

    async def emit_many(self, samples: Iterable[Sample]) -> None:
        """Take several samples, in order; waits while the recorder is full."""


@dataclass(frozen=True, slots=True)
class Output:
    """The kept end of a stream, and how many bytes went before it."""

    text: str = ""
    dropped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptResult:
    """How a script ended.

    :ivar exit_status: 0 if every line succeeded, else that of the first failing line; negative for a signal.
    :ivar failed_line: index of that line, None if all succeeded or it is not known.
    """

    exit_status: int
    failed_line: int | None
    stdout: Output
    stderr: Output


class LocalSession(Protocol):
    """The scripts of one trial. Processes they leave in the background live on until the session ends."""

    @property
    def last(self) -> ScriptResult | None:
        """How the newest script ended, also one that was cancelled."""

    async def run(
        self,
        lines: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        on_line: LineHandler | None = None,
    ) -> ScriptResult:
        """Run the lines in one shell, exactly as written, stopping at the first that fails.

        Working directory and variables pass from line to line. Cancelling ends the script's whole process
        group: SIGTERM, a short grace, SIGKILL.

        :param env: added to this process's own environment.
        :param on_line: may be slow, the script then waits. Bytes that are not UTF-8 are replaced, very long
            lines are cut.
        :raises EnvironmentFailed: if the shell cannot be started.
        """


@runtime_checkable
class LocalExec(Protocol):
    """Runs scripts on this machine."""

    def session(self, *, shell: str | None = None) -> AbstractAsyncContextManager[LocalSession]:
        """Open a session; leaving it ends every process its scripts left, however they left them.

        :param shell: a POSIX shell; default ``/bin/sh``.
        """


class RemoteSession(Protocol):
    """The scripts of one trial on one host. Processes they leave live on until the session ends."""

    @property
    def host(self) -> str:
        """The host's name."""

    @property
    def directory(self) -> str:
        """The session's own directory on the host, an absolute path; removed when the session ends."""

    @property
    def last(self) -> ScriptResult | None:
        """How the newest script ended, also one that was cancelled."""

    async def run(
        self,
        lines: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None = None,
        on_line: LineHandler | None = None,
    ) -> ScriptResult:
        """Run the lines in one shell on the host; like ``LocalSession.run``, with the host's environment.

        Cancelling, the end of this process and the loss of the connection end the script's process group.

        :param env: added to the environment that the host gives; any text but NUL arrives unchanged.
        :param cwd: where to run; default the session's directory, to which it is relative.
        :raises HostLost: if the connection was lost; how the script ended is not known then.
        :raises EnvironmentFailed: if the shell cannot be started.
        """


@runtime_checkable
class RemoteExec(Protocol):
    """Runs scripts on other hosts."""

    def session(self, host: str, *, shell: str | None = None) -> AbstractAsyncContextManager[RemoteSession]:
        """Open a session; leaving it ends every process its scripts left.

        :param host: its name; entering connects to it, unless somebody did already.
        :param shell: a POSIX shell of the host; default ``/bin/sh``.
        :raises HostFailed: on entering, if the host cannot be used.
        """


P = TypeVar("P")


class Services:
    """The services of an experiment: protocol → instance."""

    def __init__(self, services: Mapping[type[object], object] | None = None) -> None:
        self._services = dict(services or {})

    def get(self, protocol: type[P]) -> P:
        """The service that implements ``protocol``.

        :raises MissingService: if there is none.
        """
        found = self._services.get(protocol)
        if not isinstance(found, protocol):
            have = ", ".join(sorted(p.__name__ for p in self._services)) or "none"
            raise MissingService(f"no service provides {protocol.__name__}; provided: {have}")
        return found

    def having(self, protocol: type[P], instance: P) -> Services:
        """A copy in which ``instance`` answers for ``protocol``."""
        return Services({**self._services, protocol: instance})
