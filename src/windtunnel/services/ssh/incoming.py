"""Downloads."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

import anyio
import anyio.lowlevel

from windtunnel.concurrency import first_error
from windtunnel.protocols import Transferred
from windtunnel.services.ssh.archives import UnsafeArchive, merge, read_checksums, unpack
from windtunnel.services.ssh.local_files import CHUNK, Digests, Parts, hashed
from windtunnel.services.ssh.pipes import Pipe
from windtunnel.services.ssh.programs import DOWNLOAD
from windtunnel.services.ssh.transfer import KEPT_FROM, NO_TOOL, Transfer

__all__ = ["Download", "archived_checksums"]

_CHANGED = "it changed while it was read, or was damaged on the way"
_DOING = "a file was downloaded"

R = TypeVar("R")


@dataclass
class _Part:
    """What is not complete yet, and whether it stays so that another attempt can go on."""

    path: Path
    is_kept: bool = False


class Download:
    """A file or a directory, whatever it is there."""

    def __init__(self, transfer: Transfer, digests: Digests, parts: Parts, *, recursive: bool) -> None:
        self._transfer = transfer
        self._digests = digests
        self._parts = parts
        self._recursive = recursive

    async def run(self) -> Transferred:
        transfer = self._transfer
        async with transfer.program(DOWNLOAD, transfer.values, doing=_DOING) as pipe:
            answer = await pipe.line()
            if answer is not None and answer.startswith("file "):
                _, mode, size = answer.split()
                return await self._file(pipe, _mode(mode), int(size))
            await pipe.send(b"no\n")
        if not self._recursive:
            raise transfer.failure("it is a directory; recursive is off")
        return await self._tree()

    @asynccontextmanager
    async def _part(self, *, resume: bool) -> AsyncIterator[_Part]:
        in_thread, local = self._transfer.in_thread, self._transfer.local
        part = _Part(await in_thread(partial(self._parts.begin, local, resume=resume)))
        try:
            yield part
        finally:
            with anyio.CancelScope(shield=True):  # nothing but this disk can be slow
                await in_thread(partial(self._parts.end, part.path, keep=part.is_kept))

    # A file

    async def _file(self, pipe: Pipe, mode: int, size: int) -> Transferred:
        transfer = self._transfer
        transfer.progress.total = size
        if await transfer.in_thread(transfer.local.is_dir):
            raise transfer.failure(f"{str(transfer.local)!r} is a directory")
        if await self._is_same(pipe, size):
            pipe.end_input()
            await transfer.in_thread(partial(transfer.local.chmod, mode))
            await transfer.progress.add(size)
            return Transferred(skipped=1)
        async with self._part(resume=True) as part:
            file = await transfer.in_thread(partial(_opened, part.path))
            try:
                resumed = await self._receive(pipe, file, size)
                if resumed is None:
                    status = await pipe.wait_status()
                    if status == 0:
                        raise transfer.failure(_CHANGED)
                    part.is_kept = status is None and file.size >= KEPT_FROM
                    return Transferred()  # what is wrong is raised when the program is left
            finally:
                file.close()
            await transfer.in_thread(partial(_completed, part.path, transfer.local, mode))
        return Transferred(files=1, size=size, resumed=resumed)

    async def _is_same(self, pipe: Pipe, size: int) -> bool:
        local = self._transfer.local
        if await self._transfer.in_thread(partial(_plain_size, local)) != size:
            return False
        await pipe.send(b"sum 0\n")
        answer = await pipe.line()
        source = await self._transfer.stoppable(partial(self._digests.source, local))
        return answer is not None and answer.partition(" ")[0] == source.digest

    async def _receive(self, pipe: Pipe, file: _File, size: int) -> int | None:
        """Write what is there to the file.

        :returns: how much an earlier attempt had brought, None if it is not complete.
        """
        transfer = self._transfer
        resumed = await self._offset(pipe, file, size)
        await transfer.progress.add(resumed)
        await pipe.send(f"send {resumed}\n".encode())
        left, chunks, pending = size - resumed, [], 0
        while left:
            chunk = await pipe.receive()
            if not chunk:
                break
            if len(chunk) > left:
                pipe.put_back(chunk[left:])
                chunk = chunk[:left]
            left -= len(chunk)
            pending += len(chunk)
            chunks.append(chunk)
            if pending >= CHUNK or not left:
                await transfer.in_thread(partial(file.write, b"".join(chunks)))
                await transfer.progress.add(pending)
                chunks, pending = [], 0
        if left:
            await transfer.in_thread(partial(file.write, b"".join(chunks)))
            return None
        return resumed if await self._is_complete(pipe, file) else None

    async def _is_complete(self, pipe: Pipe, file: _File) -> bool:
        answer = await pipe.line()
        if answer is None:
            return False
        if answer.partition(" ")[0] not in (file.digest(), NO_TOOL):
            raise self._transfer.failure(_CHANGED)
        return True

    async def _offset(self, pipe: Pipe, file: _File, size: int) -> int:
        """How much of it is here already."""
        resumed = file.size
        if not resumed:
            return 0
        if resumed <= size:
            await pipe.send(f"part {resumed}\n".encode())
            answer = await pipe.line()
            await self._transfer.stoppable(file.hash)
            if answer is not None and answer.partition(" ")[0] == file.digest():
                return resumed
        await self._transfer.in_thread(file.restart)
        return 0

    # A directory

    async def _tree(self) -> Transferred:
        transfer = self._transfer
        if not await transfer.in_thread(partial(_can_be_directory, transfer.local)):
            raise transfer.failure(f"{str(transfer.local)!r} is there and no directory")
        async with self._part(resume=False) as part:
            await transfer.in_thread(partial(part.path.mkdir, 0o700))
            unpacked = await _received(transfer, transfer.target, partial(unpack, root=part.path))
            there = await transfer.checksums(transfer.target, list(unpacked.files))
            for (name, digest), found in zip(unpacked.files.items(), there, strict=True):
                if found not in (digest, NO_TOOL):
                    raise transfer.failure(f"{name!r}: {_CHANGED}")
            skipped = await transfer.in_thread(partial(merge, part.path, transfer.local, unpacked))
        count = len(unpacked.files) + len(unpacked.links)
        return Transferred(files=count - skipped, skipped=skipped, size=unpacked.size)


async def archived_checksums(transfer: Transfer, folder: str) -> dict[str, str]:
    """The checksums of all files in a directory there, computed here."""
    return await _received(transfer, folder, read_checksums)


async def _received(transfer: Transfer, folder: str, consume: Callable[[IO[bytes]], R]) -> R:
    """Read a directory there as an archive, in a worker thread."""
    result: R | None = None
    values = {**transfer.values, "target": folder}
    async with transfer.program(DOWNLOAD, values, doing="a directory was downloaded") as pipe:
        if await pipe.line() is not None:
            await pipe.send(b"tree\n")
            result = await _through_thread(transfer, pipe, consume)
    if result is None:
        raise transfer.failure("the host sent no archive")
    return result


async def _through_thread(transfer: Transfer, pipe: Pipe, consume: Callable[[IO[bytes]], R]) -> R | None:
    """What ``consume`` makes of the output; None if that ended too early, which the program can explain."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    feed = _Feed(pipe, theirs, transfer)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(feed.run, name="feeding an archive")
            # Cancelled, it ends because its input does.
            result = await transfer.in_thread(partial(_consumed, ours, consume))
    except BaseExceptionGroup as exc:
        await anyio.lowlevel.checkpoint_if_cancelled()  # then the archive ended because of us
        error = first_error(exc)
        if isinstance(error, UnsafeArchive) and feed.is_at_end and await pipe.wait_status() != 0:
            return None
        raise error from None
    return result


class _Feed:
    """Writes what a program prints into a pipe that a thread reads from."""

    def __init__(self, pipe: Pipe, descriptor: int, transfer: Transfer) -> None:
        self._pipe = pipe
        self._descriptor = descriptor
        self._transfer = transfer
        self.is_at_end = False

    async def run(self) -> None:
        try:
            pending = 0
            while chunk := await self._pipe.receive():
                if not await self._write(chunk):
                    return
                pending += len(chunk)
                if pending >= CHUNK:
                    await self._transfer.progress.add(pending)
                    pending = 0
            self.is_at_end = True
            await self._transfer.progress.add(pending)
        finally:
            os.close(self._descriptor)

    async def _write(self, chunk: bytes) -> bool:
        view = memoryview(chunk)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                await anyio.wait_writable(self._descriptor)
            except BrokenPipeError:
                return False
        return True


def _consumed(descriptor: int, consume: Callable[[IO[bytes]], R]) -> R:
    with os.fdopen(descriptor, "rb") as stream:
        result = consume(stream)
        while stream.read(CHUNK):
            pass  # an archive may be padded
    return result


class _File:
    """A file that is written and hashed at the same time. For worker threads, one after the other."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._hash = hashed(path, 0)
        self.size = os.fstat(self._file.fileno()).st_size

    def hash(self, stop: Callable[[], bool]) -> None:
        """Take into account what was there before."""
        self._hash = hashed(self._path, self.size, stop)

    def restart(self) -> None:
        self._file.truncate(0)
        self._hash = hashed(self._path, 0)
        self.size = 0

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]
        self._hash.update(data)
        self.size += len(data)

    def digest(self) -> str:
        return self._hash.hexdigest()

    def close(self) -> None:
        self._file.close()


def _opened(path: Path) -> _File:
    if not path.exists():
        path.touch(0o600)
    return _File(path)


def _completed(part: Path, target: Path, mode: int) -> None:
    part.chmod(mode)
    part.replace(target)


def _plain_size(path: Path) -> int | None:
    return None if path.is_symlink() or not path.is_file() else path.stat().st_size


def _can_be_directory(path: Path) -> bool:
    return path.is_dir() or not (path.exists() or path.is_symlink())


def _mode(text: str) -> int:
    """The permissions of a file, from how ``ls`` writes them."""
    bits = 0
    for letter in text[1:10]:
        bits = bits << 1 | (letter in "rwxst")
    return bits
