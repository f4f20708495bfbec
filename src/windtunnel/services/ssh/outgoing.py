"""Uploads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial

from windtunnel.protocols import Transferred
from windtunnel.services.ssh.archives import Entry, archive, entries
from windtunnel.services.ssh.incoming import archived_checksums
from windtunnel.services.ssh.local_files import CHUNK, Digests, Source, checksum, permissions
from windtunnel.services.ssh.pipes import Pipe
from windtunnel.services.ssh.programs import COMMIT, EXTRACT, UPLOAD
from windtunnel.services.ssh.transfer import KEPT_FROM, NO_TOOL, Transfer

__all__ = ["FileUpload", "TreeUpload"]


class FileUpload:
    """One file."""

    def __init__(self, transfer: Transfer, digests: Digests) -> None:
        self._transfer = transfer
        self._digests = digests

    async def run(self) -> Transferred:
        transfer, back, resumed = self._transfer, None, 0
        source = await transfer.stoppable(partial(self._digests.source, transfer.local))
        transfer.progress.total = source.size
        async with transfer.program(UPLOAD, self._values(source), doing="a file was uploaded") as pipe:
            answer = await pipe.line()
            if answer is not None and answer != "same":
                resumed = await self._offset(pipe, source, answer)
                await self._send(pipe, source, resumed)
                answer = await pipe.line()
                if answer is not None and answer.startswith("back "):
                    back = await _received_checksum(pipe)
        if answer == "same":
            await transfer.progress.add(source.size)
            return Transferred(skipped=1)
        if answer is not None and back is not None:
            await self._commit(source, back, answer.removeprefix("back "))
        return Transferred(files=1, size=source.size, resumed=resumed)

    def _values(self, source: Source) -> dict[str, str]:
        # A file that nobody runs gets its mode as it is made, which saves a program.
        is_plain = source.mode & 0o711 == 0o600
        return {
            **self._transfer.values,
            "size": str(source.size),
            "want": source.digest,
            "mode": f"{source.mode:o}",
            "umask": f"{0o777 & ~source.mode:o}" if is_plain else "077",
            "chmod": "" if is_plain else "yes",
            "keep": str(KEPT_FROM),
        }

    async def _offset(self, pipe: Pipe, source: Source, answer: str) -> int:
        """How much of it is there already."""
        if not answer.startswith("part "):
            return 0
        _, size, digest = answer.split()
        resumed, is_ours = int(size), False
        if 0 < resumed <= source.size:
            found = await self._transfer.stoppable(partial(checksum, source.path, resumed))
            is_ours = found == digest
        await pipe.send(b"keep\n" if is_ours else b"drop\n")
        return resumed if is_ours else 0

    async def _send(self, pipe: Pipe, source: Source, start: int) -> None:
        await self._transfer.progress.add(start)
        with closing(_chunks(source, start)) as chunks:
            following = partial(next, chunks, b"")
            in_memory = source.content is not None
            while chunk := following() if in_memory else await self._transfer.in_thread(following):
                if not await pipe.send(chunk):
                    return
                await self._transfer.progress.add(len(chunk))
        if self._transfer.progress.done < source.size:
            raise self._transfer.failure("it changed while it was read")
        pipe.end_input()

    async def _commit(self, source: Source, back: str, part: str) -> None:
        """The host cannot make checksums, so it gave back what it has."""
        transfer = self._transfer
        part = f"{transfer.values['dir']}/{part}"
        if back != source.digest:
            await transfer.remove(part)
            raise transfer.failure("what arrived is not what was sent")
        await _committed(transfer, part, mode=f"{source.mode:o}")


class TreeUpload:
    """A directory: what is not there yet goes into one archive, beside the target, and from there into it."""

    def __init__(self, transfer: Transfer, digests: Digests) -> None:
        self._transfer = transfer
        self._digests = digests

    async def run(self) -> Transferred:
        transfer = self._transfer
        found = await transfer.in_thread(partial(entries, transfer.local))
        same = await self._same([entry for entry in found if entry.is_file])
        chosen = [entry for entry in found if entry.name not in same]
        size = sum(entry.status.st_size for entry in chosen if entry.is_file)
        transfer.progress.total = size + sum(same.values())
        await transfer.progress.add(sum(same.values()))
        part, sent = await self._send(chosen)
        try:
            await self._verify(part, sent)
        except BaseException:
            await transfer.remove(part)
            raise
        await _committed(transfer, part, mode="")
        if same:
            modes = {entry.name: permissions(entry.status.st_mode) for entry in found if entry.name in same}
            await transfer.set_modes(transfer.target, modes)
        count = sum(entry.is_file or entry.link is not None for entry in chosen)
        return Transferred(files=count, skipped=len(same), size=size)

    async def _same(self, files: Sequence[Entry]) -> dict[str, int]:
        """The files that are there already, and their sizes."""
        transfer = self._transfer
        there = await transfer.checksums(transfer.target, [entry.name for entry in files])
        pairs = [(entry, digest) for entry, digest in zip(files, there, strict=True) if digest is not None]

        def compared(stop: Callable[[], bool]) -> dict[str, int]:
            same = {}
            for entry, digest in pairs:
                if digest == self._digests.source(transfer.local / entry.name, stop).digest:
                    same[entry.name] = entry.status.st_size
            return same

        return await transfer.stoppable(compared) if pairs else {}

    async def _send(self, chosen: Sequence[Entry]) -> tuple[str, dict[str, str]]:
        """Send the archive.

        :returns: where it is unpacked, and the checksum of each file in it.
        """
        transfer, digests, part = self._transfer, dict[str, str](), ""
        try:
            async with transfer.program(EXTRACT, transfer.values, doing="a directory was uploaded") as pipe:
                answer = await pipe.line()
                if answer is not None:
                    part = f"{transfer.values['dir']}/{answer.removeprefix('send ')}"
                    await self._stream(pipe, chosen, digests)
        except BaseException:
            if part:
                await transfer.remove(part)
            raise
        return part, digests

    async def _stream(self, pipe: Pipe, chosen: Sequence[Entry], digests: dict[str, str]) -> None:
        transfer = self._transfer
        with closing(archive(transfer.local, chosen, digests)) as chunks:
            while chunk := await transfer.in_thread(partial(next, chunks, b"")):
                if not await pipe.send(chunk):
                    return
                await transfer.progress.add(len(chunk))
        pipe.end_input()

    async def _verify(self, part: str, sent: dict[str, str]) -> None:
        transfer, names = self._transfer, list(sent)
        there = await transfer.checksums(part, names)
        if NO_TOOL in there:
            read = await archived_checksums(transfer, part)
            there = [read.get(name) for name in names]
        for name, digest in zip(names, there, strict=True):
            if digest != sent[name]:
                raise transfer.failure(f"what arrived of {name!r} is not what was sent")


async def _committed(transfer: Transfer, part: str, *, mode: str) -> None:
    values = {"part": part, "target": transfer.target, "mode": mode}
    try:
        async with transfer.program(COMMIT, values, doing="an upload was completed") as pipe:
            await pipe.line()
    except BaseException:
        await transfer.remove(part)
        raise


def _chunks(source: Source, start: int) -> Generator[bytes, None, None]:
    if source.content is not None:
        for place in range(start, source.size, CHUNK):
            yield source.content[place : place + CHUNK]
        return
    with source.path.open("rb", buffering=0) as file:
        file.seek(start)
        while chunk := file.read(CHUNK):
            yield chunk


async def _received_checksum(pipe: Pipe) -> str:
    digest = hashlib.sha256()
    while chunk := await pipe.receive():
        digest.update(chunk)
    return digest.hexdigest()
