"""What all transfers share: the two ends, what is said of progress, and what failures mean."""

from __future__ import annotations

import posixpath
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Event
from typing import TypeVar

import anyio
from anyio import to_thread

from windtunnel.errors import EnvironmentFailed, HostFailed
from windtunnel.services.ssh.local_files import part_id
from windtunnel.services.ssh.pipes import Pipe, Pipes, operand
from windtunnel.services.ssh.programs import CHECKSUMS, MODES, REMOVE

__all__ = ["KEPT_FROM", "NO_TOOL", "Reporter", "Transfer"]

KEPT_FROM = 1024 * 1024
"""Bytes from which on an incomplete file stays when a connection is lost; the next attempt goes on then."""

NO_TOOL = "none"
"""The checksum of every file on a host that cannot make any."""

_DISK = ("No space left on device", "Read-only file system", "Input/output error", "Disk quota exceeded")
_FOLLOWS = ("due to previous errors", "from previous errors.")
_GONE = 4
_REMOVE_LIMIT_S = 20.0

R = TypeVar("R")


class Reporter:
    """Counts what has arrived, and tells it."""

    def __init__(self, tell: Callable[[int, int | None], Awaitable[None]]) -> None:
        self._tell = tell
        self.done = 0
        self.total: int | None = None

    async def add(self, size: int) -> None:
        # An archive is a little more than what is in it.
        self.done = self.done + size if self.total is None else min(self.done + size, self.total)
        await self._tell(self.done, self.total)


class Transfer:
    """One transfer between a local path and one on a host.

    :param what: what is to be done, for messages.
    """

    def __init__(
        self,
        session: Pipes,
        local: Path,
        remote: str,
        what: str,
        progress: Reporter,
        threads: anyio.CapacityLimiter,
    ) -> None:
        self.session = session
        self.local = local
        self.target = operand(posixpath.normpath(remote))
        self.progress = progress
        self._what = what
        self._threads = threads

    async def in_thread(self, function: Callable[[], R]) -> R:
        """Call it in a worker thread. Cancelling waits for it."""
        return await to_thread.run_sync(function, limiter=self._threads)

    async def stoppable(self, function: Callable[[Callable[[], bool]], R]) -> R:
        """Call it in a worker thread. When cancelled, its argument tells it to stop, and nobody waits."""
        stop = Event()
        try:
            return await to_thread.run_sync(
                function, stop.is_set, limiter=self._threads, abandon_on_cancel=True
            )
        finally:
            stop.set()

    @property
    def values(self) -> dict[str, str]:
        """What the programs know of the target."""
        folder, name = posixpath.split(self.target)
        return {"target": self.target, "dir": folder, "id": part_id(name)}

    def failure(self, reason: str) -> EnvironmentFailed:
        """The error to raise. Another host may have room on its disk."""
        if reason.endswith(_DISK):
            return HostFailed(self.session.host, f"{self._what}: {reason}")
        return EnvironmentFailed(f"host {self.session.host!r}: {self._what}: {reason}")

    @asynccontextmanager
    async def program(self, text: str, values: dict[str, str], *, doing: str) -> AsyncIterator[Pipe]:
        """Run a program there; a failure of it is raised when the block is left.

        :param doing: what is under way, should the connection be lost.
        """
        async with self.session.open(text, values, doing=doing) as pipe:
            yield pipe
        if pipe.status == _GONE:
            raise self.failure("the file changed while it was read")
        if pipe.status != 0:
            raise self.failure(_reason(pipe))

    async def checksums(self, folder: str, names: Sequence[str]) -> list[str | None]:
        """The SHA-256 of files there: None for one that is not there, ``NO_TOOL`` for each it cannot make."""
        found: list[str | None] = []
        async with self.program(CHECKSUMS, {"target": folder}, doing="checksums were made") as pipe:
            answer = await pipe.line()
            if answer == "absent":
                found = [None] * len(names)
            elif answer is not None:
                async with anyio.create_task_group() as group:
                    group.start_soon(pipe.send_lines, names, name="sending names")
                    while len(found) < len(names) and (flags := await pipe.line()) is not None:
                        for flag in flags:
                            found.append(await _checksum(pipe) if flag == "+" else None)
                    group.cancel_scope.cancel()
        if len(found) < len(names):
            raise self.failure("the host does not tell the checksums of the files")
        return found

    async def set_modes(self, folder: str, modes: Mapping[str, int]) -> None:
        """Set the permissions of files there."""
        lines = [f"{mode:o} {name}" for name, mode in sorted(modes.items(), key=lambda item: item[1])]
        async with self.program(MODES, {"target": folder}, doing="permissions were set") as pipe:
            if await pipe.line() is not None:
                await pipe.send_lines(lines)

    async def remove(self, part: str) -> None:
        """Remove what will not be completed. Never takes long; what is not removed is by the next upload."""
        if self.session.is_lost:
            return
        with anyio.move_on_after(_REMOVE_LIMIT_S, shield=True):
            try:
                async with self.session.open(REMOVE, {"part": part}, doing="a directory was removed"):
                    pass
            except HostFailed:
                pass  # who made it is told why


def _reason(pipe: Pipe) -> str:
    """What a program says last, without the names of programs and of incomplete files."""
    said = [line for line in pipe.said.splitlines() if not line.endswith(_FOLLOWS)]
    if not said:
        return f"the program for it ended with status {pipe.status}"
    if "Wrote only " in said[-1]:
        return _DISK[0]  # the name that GNU tar has for it
    return said[-1].rpartition(": ")[2]


async def _checksum(pipe: Pipe) -> str:
    line = await pipe.line()
    return "" if line is None else line.lstrip("\\").partition(" ")[0]
