"""Reading what a script prints: line by line, with bounded memory, whatever it prints."""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import termios
from collections.abc import Iterator

import anyio
from anyio.lowlevel import checkpoint

from windtunnel.protocols import LineHandler, Output

__all__ = ["Capture", "Gathered", "LineSplitter", "Tail"]

_CHUNK = 64 * 1024
_LINES_PER_TURN = 256


class Tail:
    """The newest bytes of a stream.

    :param capacity: how many are kept.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._kept = bytearray()
        self._seen = 0

    def add(self, chunk: bytes) -> None:
        self._seen += len(chunk)
        self._kept += chunk
        if len(self._kept) > 2 * self._capacity:
            del self._kept[: -self._capacity]

    def output(self) -> Output:
        """The end of the stream as text; undecodable bytes are replaced."""
        kept = bytes(self._kept[-self._capacity :])
        return Output(kept.decode("utf-8", "replace"), self._seen - len(kept))


class LineSplitter:
    """Cuts a stream of bytes into lines of text.

    :param limit: bytes kept of a line; the rest of a longer one is dropped.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._partial = b""

    def split(self, chunk: bytes) -> Iterator[str]:
        """The lines that ``chunk`` completes, without their line ends."""
        first, *others = chunk.split(b"\n")
        self._partial += first[: self._limit - len(self._partial)]
        for part in others:
            yield self._take()
            self._partial = part[: self._limit]

    def rest(self) -> Iterator[str]:
        """The last line, if it has no line end."""
        if self._partial:
            yield self._take()

    def _take(self) -> str:
        line, self._partial = self._partial, b""
        return line.decode("utf-8", "replace").removesuffix("\r")


class Gathered:
    """What a stream brought: its end is kept, its lines are handed on one by one.

    :param capacity: bytes kept of its end, and of each line.
    """

    def __init__(self, capacity: int) -> None:
        self._tail = Tail(capacity)
        self._splitter = LineSplitter(capacity)

    async def take(self, chunk: bytes, on_line: LineHandler | None) -> None:
        """The next bytes. Returns when every line they complete was handled."""
        self._tail.add(chunk)
        if on_line is not None:
            await self._hand_on(self._splitter.split(chunk), on_line)

    async def end(self, on_line: LineHandler | None) -> None:
        """There will be no more: hand on a last line that has no line end."""
        if on_line is not None:
            await self._hand_on(self._splitter.rest(), on_line)

    def output(self) -> Output:
        """The end of what was taken."""
        return self._tail.output()

    async def _hand_on(self, lines: Iterator[str], on_line: LineHandler) -> None:
        for number, line in enumerate(lines, 1):
            await on_line(line)
            if number % _LINES_PER_TURN == 0:
                await checkpoint()


class Capture:
    """The read end of a pipe that becomes a script's standard output or error.

    :param capacity: bytes kept of its end, and of each line.
    """

    def __init__(self, capacity: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._gathered = Gathered(capacity)
        self._fd, self._write_fd = os.pipe()
        os.set_blocking(self._fd, False)
        self._left: int | None = None
        self._waiting: anyio.CancelScope | None = None
        self._at_end = False

    @property
    def write_fd(self) -> int:
        """The end to give to the process."""
        return self._write_fd

    def started(self) -> None:
        """The process has its own copy of the write end: without ours, the end of the stream can be seen."""
        os.close(self._write_fd)
        self._write_fd = -1

    async def pump(self, on_line: LineHandler | None) -> None:
        """Read until the stream ends or, after ``finish``, until nothing more is there.

        A slow ``on_line`` slows the process down: the pipe fills up.
        """
        while chunk := await self._read():
            await self._gathered.take(chunk, on_line)
        await self._gathered.end(on_line)

    def finish(self) -> None:
        """Take what is in the pipe now and then stop, even if a background process holds it open."""
        self._left = self._available()
        if self._waiting is not None:
            self._waiting.cancel()

    def discard(self) -> None:
        """From now on read and forget, so that no writer blocks or gets SIGPIPE; needs no task."""
        if self._fd >= 0 and not self._at_end:
            self._loop.add_reader(self._fd, self._forget)

    def output(self) -> Output:
        """What was read, its end."""
        return self._gathered.output()

    def close(self) -> None:
        """Close both ends. May be called again."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
        for fd in (self._fd, self._write_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._write_fd = -1

    async def _read(self) -> bytes:
        """The next bytes; none at the end."""
        while not self._at_end and (self._left is None or self._left > 0):
            if self._left is None:
                with anyio.CancelScope() as self._waiting:
                    await anyio.wait_readable(self._fd)
                self._waiting = None
            else:
                await checkpoint()
            chunk = self._take()
            if chunk:
                return chunk
        return b""

    def _take(self) -> bytes:
        size = _CHUNK if self._left is None else min(_CHUNK, self._left)
        try:
            chunk = os.read(self._fd, size) if size else b""
        except BlockingIOError:
            self._left = None if self._left is None else 0
            return b""
        if self._left is not None:
            self._left -= len(chunk)
        self._at_end = size > 0 and not chunk
        return chunk

    def _available(self) -> int:
        count = array.array("i", [0])
        fcntl.ioctl(self._fd, termios.FIONREAD, count)
        return count[0]

    def _forget(self) -> None:
        try:
            self._at_end = not os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        if self._at_end:
            self._loop.remove_reader(self._fd)
