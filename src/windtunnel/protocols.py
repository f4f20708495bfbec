"""What environments may ask of the outside world, and the typed map that answers.

A service implements one or more of these protocols. Environments name the protocol they need and never a
class: ``services.get(LocalExec)``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from windtunnel.errors import MissingService
from windtunnel.model import Sample

__all__ = [
    "FileShare",
    "HostFacts",
    "HostOps",
    "LineHandler",
    "LocalExec",
    "LocalSession",
    "Output",
    "ProgramPipe",
    "Progress",
    "ProgressHandler",
    "RemoteExec",
    "RemotePipes",
    "RemoteSession",
    "ScriptResult",
    "Services",
    "TelemetrySink",
    "Transferred",
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


class ProgramPipe(Protocol):
    """The standard input and output of a program that runs."""

    @property
    def said(self) -> str:
        """The end of what it has written to its standard error."""

    async def send(self, data: bytes) -> bool:
        """Write, and wait while too much is on the way; False if the program does not read any more."""

    async def receive(self) -> bytes:
        """Some of what it prints; empty at the end, also if the host was lost."""


@runtime_checkable
class RemotePipes(Protocol):
    """Runs programs on other hosts that are talked with while they run."""

    def program(
        self, host: str, script: str, values: Mapping[str, str]
    ) -> AbstractAsyncContextManager[ProgramPipe]:
        """Start one; leaving ends its whole process group, and so do our end and the loss of the connection.

        :param script: for a POSIX shell. What it starts must print a line before it reads anything.
        :param values: shell variables that it finds set.
        :raises HostFailed: on entering, if the host cannot be used.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a transfer is.

    :ivar path: the local file or directory.
    :ivar done: bytes that are there, also those of an earlier attempt.
    :ivar total: bytes to transfer, None if that is not known.
    """

    host: str
    path: Path
    done: int
    total: int | None


ProgressHandler = Callable[[Progress], Awaitable[None]]
"""Called while a transfer goes on, a few times for each megabyte, and at its end; may be slow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """What a transfer did.

    :ivar files: files and links that were written.
    :ivar skipped: files that were there already.
    :ivar size: bytes of the written files.
    :ivar resumed: bytes of those that an earlier attempt had brought.
    """

    files: int = 0
    skipped: int = 0
    size: int = 0
    resumed: int = 0


@runtime_checkable
class FileShare(Protocol):
    """Brings files to other hosts and back.

    A file appears under its name at once and complete, its checksum verified, or not at all; a directory that
    is not there yet too. Into a directory that is there, each file goes by itself; others in it stay. A file
    of the same size and checksum is not sent again. Permissions are kept, times and owners are not. Missing
    parents are made. Links inside a directory stay links and are not followed; what is neither file,
    directory nor link is left out.
    """

    async def upload(
        self,
        host: str,
        local: Path,
        remote: str,
        *,
        recursive: bool = True,
        on_progress: ProgressHandler | None = None,
    ) -> Transferred:
        """Copy a file or directory to the host, where it is then called ``remote``.

        Cancelling leaves nothing there.

        :param remote: absolute, or relative to where one is after a login; ``~/`` is understood.
        :param recursive: whether a directory is copied.
        :raises HostLost: if the connection is lost; the next upload of a large file goes on from there.
        :raises HostFailed: if the host cannot be used, its disk is full or cannot be written.
        :raises EnvironmentFailed: if it cannot be done, with the reason.
        """

    async def download(
        self,
        host: str,
        remote: str,
        local: Path,
        *,
        recursive: bool = True,
        on_progress: ProgressHandler | None = None,
    ) -> Transferred:
        """Copy a file or directory from the host, as ``upload`` does. Nothing outside ``local`` is written.

        Links that lead out of the directory are left out.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What a host is. None: it does not tell.

    :ivar os: as people call it, ``Debian GNU/Linux 12 (bookworm)``.
    :ivar memory: bytes.
    :ivar boot_id: another one after every boot.
    :ivar clock_offset: seconds that its clock is ahead of ours.
    :ivar clock_error: seconds by which that may be wrong.
    :ivar latency: seconds of the shortest round trip to a program there.
    :ivar server: what its SSH server calls itself.
    """

    os: str | None = None
    kernel: str | None = None
    architecture: str | None = None
    cpu: str | None = None
    cpus: int | None = None
    memory: int | None = None
    boot_id: str | None = None
    clock_offset: float | None = None
    clock_error: float | None = None
    latency: float | None = None
    server: str | None = None


@runtime_checkable
class HostOps(Protocol):
    """Starts and stops other hosts. What already is as it should be is left so."""

    async def start(self, host: str) -> None:
        """Start it and wait until it can be used.

        :raises HostFailed: if it cannot be started, or not in time.
        """

    async def stop(self, host: str) -> None:
        """Stop it and wait until it does not answer any more.

        :raises HostFailed: if it cannot be stopped, or not in time.
        """

    async def reboot(self, host: str, *, wait: bool = True) -> None:
        """Boot it again.

        :param wait: until it can be used, with another boot id than before.
        :raises HostFailed: if it does not, or not in time.
        """

    async def wait_until_reachable(
        self, host: str, *, timeout: timedelta | None = None, booted_since: str | None = None
    ) -> None:
        """Wait until scripts can run there.

        :param timeout: default as configured for the host.
        :param booted_since: and the boot id is another one than this.
        :raises HostUnreachable: if that takes longer.
        :raises HostKeyRefused: at once.
        """

    async def boot_id(self, host: str) -> str:
        """What changes with every boot, and only then."""

    async def facts(self, host: str) -> HostFacts:
        """What the host is."""


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
