"""Brings files to hosts and back, through programs of a POSIX shell there.

A file is one stream through ``cat``, a directory one through ``tar``; ``benchmarks/ssh_files.py`` compares
that with SFTP. SFTP is not used at all, so nothing depends on a server that offers it.

Whether a file is there already is decided by its size and checksum and by nothing else: times say little
after a copy, or on hosts whose clocks differ.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import anyio
from anyio import to_thread

from windtunnel.errors import EnvironmentFailed
from windtunnel.protocols import Progress, ProgressHandler, Transferred
from windtunnel.services.ssh.archives import UnsafeArchive
from windtunnel.services.ssh.incoming import Download
from windtunnel.services.ssh.local_files import Digests, Parts
from windtunnel.services.ssh.outgoing import FileUpload, TreeUpload
from windtunnel.services.ssh.pipes import PipeSessions
from windtunnel.services.ssh.remote_exec import SshService
from windtunnel.services.ssh.transfer import Reporter, Transfer

__all__ = ["SshFiles"]

R = TypeVar("R")


class SshFiles:
    """Files on hosts that have an SSH server; implements ``FileShare``.

    It shares the connections of the service, and the channels of each with its scripts.

    :param at_once: how many transfers run at once; default 64; each holds up to 1 MB of its file.
    :param at_once_per_host: how many of them with one host; default 4.
    """

    def __init__(self, service: SshService, *, at_once: int = 64, at_once_per_host: int = 4) -> None:
        self._sessions = PipeSessions(service)
        self._digests = Digests()
        self._parts = Parts()
        self._all = anyio.CapacityLimiter(at_once)
        self._threads = anyio.CapacityLimiter(at_once)
        self._at_once_per_host = at_once_per_host
        self._of_hosts: dict[str, anyio.CapacityLimiter] = {}

    async def upload(
        self,
        host: str,
        local: Path,
        remote: str,
        *,
        recursive: bool = True,
        on_progress: ProgressHandler | None = None,
    ) -> Transferred:
        what = f"cannot upload {str(local)!r} to {remote!r}"
        async with self._turn(host):
            is_tree = await to_thread.run_sync(local.is_dir, limiter=self._threads)
            if is_tree and not recursive:
                raise EnvironmentFailed(f"host {host!r}: {what}: it is a directory; recursive is off")
            transfer = await self._transfer(host, local, remote, what, on_progress)
            if is_tree:
                return await self._run(TreeUpload(transfer, self._digests).run, transfer)
            return await self._run(FileUpload(transfer, self._digests).run, transfer)

    async def download(
        self,
        host: str,
        remote: str,
        local: Path,
        *,
        recursive: bool = True,
        on_progress: ProgressHandler | None = None,
    ) -> Transferred:
        what = f"cannot download {remote!r} to {str(local)!r}"
        async with self._turn(host):
            transfer = await self._transfer(host, local, remote, what, on_progress)
            return await self._run(
                Download(transfer, self._digests, self._parts, recursive=recursive).run, transfer
            )

    @asynccontextmanager
    async def _turn(self, host: str) -> AsyncIterator[None]:
        of_host = self._of_hosts.setdefault(host, anyio.CapacityLimiter(self._at_once_per_host))
        # A host that is slow holds none of the places of all while its transfers wait for each other.
        async with of_host, self._all:
            yield

    async def _transfer(
        self, host: str, local: Path, remote: str, what: str, on_progress: ProgressHandler | None
    ) -> Transfer:
        if not remote:
            raise EnvironmentFailed(f"host {host!r}: {what}: no path is given")
        session = await self._sessions.session(host)

        async def report(done: int, total: int | None) -> None:
            if on_progress is not None:
                await on_progress(Progress(host=host, path=local, done=done, total=total))

        return Transfer(session, local, remote, what, Reporter(report), self._threads)

    async def _run(self, work: Callable[[], Awaitable[R]], transfer: Transfer) -> R:
        """Give every failure the host's name and what was to be done."""
        try:
            return await work()
        except UnsafeArchive as exc:
            raise transfer.failure(str(exc)) from exc
        except OSError as exc:
            place = "" if exc.filename is None else f": {str(exc.filename)!r}"
            raise transfer.failure(f"{exc.strerror or exc}{place}, on this machine") from exc
