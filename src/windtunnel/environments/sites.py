"""Where the scripts of a trial run: on this machine or on a host."""

from __future__ import annotations

import logging
import shutil
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio
from anyio import to_thread

from windtunnel.errors import EnvironmentFailed
from windtunnel.protocols import (
    FileShare,
    LineHandler,
    LocalExec,
    LocalSession,
    Progress,
    RemoteExec,
    RemoteSession,
    ScriptResult,
    Services,
)
from windtunnel.scratch import make_scratch

__all__ = ["LocalSite", "RemoteSite", "Site"]

logger = logging.getLogger(__name__)

_CLOSE_LIMIT_S = 20.0
_MAKE = """\
case $WINDTUNNEL_DIR in '~') d=$HOME ;; '~/'*) d=$HOME/${WINDTUNNEL_DIR#??} ;; *) d=$WINDTUNNEL_DIR ;; esac
mkdir -p -- "$d" && CDPATH= cd -- "$d" && pwd"""


class Site(ABC):
    """A directory of one trial, and a shell in it.

    :ivar where: for messages: empty, or ``on host 'web'``.
    """

    where: str = ""

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether scripts can run in it."""

    @property
    @abstractmethod
    def last(self) -> ScriptResult | None:
        """How the newest script ended, also one that was cancelled."""

    @abstractmethod
    async def open(self, *, shell: str | None = None, directory: str | None = None) -> None:
        """Make the directory and be ready to run scripts. ``close`` is due also if this fails.

        :param directory: one to use, which ``close`` keeps; default a fresh one, which it removes.
        :raises HostFailed: if the host cannot be used.
        :raises EnvironmentFailed: if the directory cannot be made.
        """

    @abstractmethod
    async def run(
        self, lines: Sequence[str], *, env: Mapping[str, str], on_line: LineHandler | None = None
    ) -> ScriptResult:
        """Run the lines in one shell in the directory; see ``LocalSession.run``."""

    @abstractmethod
    async def write(self, file: str, text: str) -> None:
        """Write a file. Its path is relative to the directory, as in all calls.

        :raises EnvironmentFailed: if that does not work.
        """

    @abstractmethod
    def reading(self, file: str, *, most: int | None = None) -> AbstractAsyncContextManager[Path]:
        """The file, or a copy of it, on this machine for as long as the block runs.

        :param most: fetch no more than so many bytes.
        :raises EnvironmentFailed: on entering, if it cannot be fetched; one of this machine may be missing.
        """

    @abstractmethod
    async def close(self) -> None:
        """End what the scripts left, and remove the directory. Takes a limited time, also when cancelled."""


class LocalSite(Site):
    """A directory of this machine."""

    def __init__(self, services: Services) -> None:
        self._exec = services.get(LocalExec)  # type: ignore[type-abstract]  # a protocol is its own key
        self._directory: Path | None = None
        self._is_kept = False
        self._opened: AbstractAsyncContextManager[LocalSession] | None = None
        self._session: LocalSession | None = None

    @property
    def directory(self) -> Path:
        """Its absolute path."""
        assert self._directory is not None, "only used while it is open"  # noqa: S101
        return self._directory

    @property
    def is_open(self) -> bool:
        return self._session is not None

    @property
    def last(self) -> ScriptResult | None:
        return None if self._session is None else self._session.last

    async def open(self, *, shell: str | None = None, directory: str | None = None) -> None:
        self._is_kept = directory is not None
        self._directory = await to_thread.run_sync(_make_directory, directory)
        self._opened = self._exec.session(shell=shell)
        self._session = await self._opened.__aenter__()

    async def run(
        self, lines: Sequence[str], *, env: Mapping[str, str], on_line: LineHandler | None = None
    ) -> ScriptResult:
        assert self._session is not None, "only used while it is open"  # noqa: S101
        return await self._session.run(lines, env=env, cwd=self.directory, on_line=on_line)

    async def write(self, file: str, text: str) -> None:
        await to_thread.run_sync(_write, self.directory / file, text)

    @asynccontextmanager
    async def reading(self, file: str, *, most: int | None = None) -> AsyncIterator[Path]:
        yield self.directory / file

    async def close(self) -> None:
        directory, self._directory = self._directory, None
        opened, self._opened, self._session = self._opened, None, None
        with anyio.move_on_after(_CLOSE_LIMIT_S, shield=True) as scope:
            if opened is not None:
                await opened.__aexit__(None, None, None)
            if directory is not None and not self._is_kept:
                await to_thread.run_sync(_remove, directory, abandon_on_cancel=True)
        if scope.cancelled_caught:
            logger.warning("%s could not be removed in time", directory)


class RemoteSite(Site):
    """A directory of a host.

    :param host: its name.
    """

    def __init__(self, services: Services, host: str) -> None:
        self.host = host
        self.where = f"on host {host!r}"
        self._services = services
        self._exec = services.get(RemoteExec)  # type: ignore[type-abstract]  # a protocol is its own key
        self._opened: AbstractAsyncContextManager[RemoteSession] | None = None
        self._session: RemoteSession | None = None
        self._directory: str | None = None

    @property
    def is_open(self) -> bool:
        return self._session is not None

    @property
    def last(self) -> ScriptResult | None:
        return None if self._session is None else self._session.last

    def path(self, file: str) -> str:
        """The absolute path of a file there."""
        assert self._session is not None, "only used while it is open"  # noqa: S101
        return file if file.startswith("/") else f"{self._directory or self._session.directory}/{file}"

    async def open(self, *, shell: str | None = None, directory: str | None = None) -> None:
        opened = self._exec.session(self.host, shell=shell)
        self._session = await opened.__aenter__()
        self._opened = opened
        if directory is not None:
            self._directory = await self._make_directory(directory)

    async def run(
        self, lines: Sequence[str], *, env: Mapping[str, str], on_line: LineHandler | None = None
    ) -> ScriptResult:
        assert self._session is not None, "only used while it is open"  # noqa: S101
        return await self._session.run(lines, env=env, cwd=self._directory, on_line=on_line)

    async def write(self, file: str, text: str) -> None:
        async with _scratch(Path(file).name) as copy:
            await to_thread.run_sync(_write, copy, text)
            await self._files.upload(self.host, copy, self.path(file))

    @asynccontextmanager
    async def reading(self, file: str, *, most: int | None = None) -> AsyncIterator[Path]:
        async def check(progress: Progress) -> None:
            if most is not None and progress.done > most:
                raise EnvironmentFailed(
                    f"host {self.host!r}: {self.path(file)!r} is longer than {most} bytes"
                )

        async with _scratch(Path(file).name) as copy:
            await self._files.download(self.host, self.path(file), copy, recursive=False, on_progress=check)
            yield copy

    async def close(self) -> None:
        opened, self._opened, self._session, self._directory = self._opened, None, None, None
        if opened is not None:  # limited, and shielded, by who opened it
            await opened.__aexit__(None, None, None)

    @property
    def _files(self) -> FileShare:
        return self._services.get(FileShare)  # type: ignore[type-abstract]  # a protocol is its own key

    async def _make_directory(self, directory: str) -> str:
        result = await self.run([_MAKE], env={"WINDTUNNEL_DIR": directory})
        if result.exit_status != 0:
            why = result.stderr.text.strip() or f"status {result.exit_status}"
            raise EnvironmentFailed(
                f"host {self.host!r}: setup failed: cannot make the trial's directory: {why}"
            )
        return result.stdout.text.removesuffix("\n")


@asynccontextmanager
async def _scratch(name: str) -> AsyncIterator[Path]:
    """A path of this machine for a file or directory; what is there after the block is removed."""
    directory = await to_thread.run_sync(_make_directory, None)
    try:
        yield directory / name
    finally:
        with anyio.move_on_after(_CLOSE_LIMIT_S, shield=True):
            await to_thread.run_sync(_remove, directory, abandon_on_cancel=True)


def _make_directory(path: str | None) -> Path:
    try:
        if path is None:
            return make_scratch()
        directory = Path(path).expanduser().absolute()
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as exc:  # the latter: nobody has such a home
        raise EnvironmentFailed(f"setup failed: cannot make the trial's directory: {exc}") from exc
    return directory


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise EnvironmentFailed(f"cannot write {str(path)!r}: {exc}") from exc


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        logger.warning("the directory %s of a trial could not be removed completely", directory)
