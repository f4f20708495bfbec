"""Channels of a connection: how many at once, what comes out of one, and the one to the keeper."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio
import asyncssh

from windtunnel.concurrency import Signal
from windtunnel.protocols import LineHandler
from windtunnel.services.capture import Gathered

__all__ = ["Answers", "Channel", "Ended", "Runner", "Slots"]

_FULL = 256 * 1024
_GROW_AFTER = 32
_SIGNALLED = 128  # and the number of the signal is what a shell says of a program that was killed
_LONGEST_ANSWER = 64 * 1024


class Slots:
    """How many channels a connection may have: those who want one more wait their turn.

    One that nobody uses stays open until somebody needs its place: a runner that is idle, or one whose script
    has left processes that hold it.

    :param most: never more; fewer while the server refuses.
    """

    def __init__(self, most: int) -> None:
        self._most = self._total = most
        self._taken = 0
        self._granted = 0
        self._idle: list[Runner] = []
        self._lingering: deque[Channel] = deque()
        self._turn = anyio.Lock(fast_acquire=True)
        self._changed = anyio.Event()

    async def runner(self) -> Runner | None:
        """One that is idle; None if there is none, but a place for a new channel, which is taken."""
        async with self._turn:
            while not self._idle and self._taken >= self._total:
                await self._change()
            if self._idle:
                return self._idle.pop()
            self._taken += 1
            return None

    async def place(self) -> None:
        """Take a place for a new channel."""
        async with self._turn:
            while self._taken >= self._total:
                await self._change()
            self._taken += 1

    async def _change(self) -> None:
        if self._lingering:
            self._lingering.popleft().close()
        elif self._idle:
            self._idle.pop(0).close()
        self._changed = anyio.Event()
        await self._changed.wait()

    def release(self, channel: Channel) -> None:
        """The channel is closed, or was not made."""
        self._taken -= 1
        if channel in self._lingering:
            self._lingering.remove(channel)
        elif channel in self._idle:
            self._idle.remove(channel)
        self._changed.set()

    def opened(self) -> None:
        """The server has granted one. After many it may grant more at once than it did."""
        self._granted += 1
        if self._granted % _GROW_AFTER == 0 and self._total < self._most:
            self._total += 1

    def refused(self) -> bool:
        """The server refused one more than those open now.

        :returns: False if none is open, so that waiting for one to close is no use.
        """
        self._total = max(1, self._taken)
        return self._taken > 0

    def rest(self, runner: Runner) -> None:
        """It is ready for the next script."""
        self._idle.append(runner)
        self._changed.set()

    def linger(self, channel: Channel) -> None:
        """Keep it open as long as nobody needs its place."""
        self._lingering.append(channel)
        self._changed.set()


class Channel(asyncssh.SSHClientSession[bytes]):
    """A channel to a shell. It is filled by calls from the connection, and emptied by one task.

    :param program: what the shell gets as its input at first; it does not wait for an end of it.
    :param on_closed: called once, when the server has closed it too.
    """

    def __init__(self, program: bytes, on_closed: Callable[[Any], None]) -> None:
        self._program = program
        self._on_closed = on_closed
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._chunks: list[tuple[bytes, bool]] = []
        self._unread = 0
        self._is_paused = False
        self._is_forgotten = False
        self._at_end = False
        self._arrived = Signal()
        self._closed = anyio.Event()
        self.status: int | None = None

    @property
    def was_made(self) -> bool:
        """Whether the server granted it, so that it will be closed some time."""
        return self._channel is not None

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    async def wait_ended(self) -> None:
        """Until what ran in it has ended; its output is forgotten."""
        self.forget()
        while not self.has_ended:
            await self._arrived.wait()

    @property
    def has_ended(self) -> bool:
        return self.status is not None or self.is_closed

    def forget(self) -> None:
        """Nobody listens any more; what still comes is dropped, so that no writer blocks."""
        self._is_forgotten = True
        self._take()

    def close(self) -> None:
        """Close our side; the place is free when the server has closed its own."""
        if self._channel is not None:
            self._channel.close()

    def _take(self) -> list[tuple[bytes, bool]]:
        chunks, self._chunks, self._unread = self._chunks, [], 0
        if self._is_paused and self._channel is not None:
            self._is_paused = False
            self._channel.resume_reading()
        return chunks

    def _keep(self, data: bytes, *, is_error: bool) -> None:
        if self._is_forgotten:
            return
        self._chunks.append((data, is_error))
        self._unread += len(data)
        if self._unread > _FULL and not self._is_paused and self._channel is not None:
            self._is_paused = True
            self._channel.pause_reading()
        self._arrived.set()

    # Called by the connection

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan
        # The request for a shell goes out when this returns; its input follows without waiting for an answer.
        asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        if self._channel is not None and not self._channel.is_closing():
            self._channel.write(self._program)
        self._program = b""

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._keep(data, is_error=datatype is not None)

    def eof_received(self) -> bool:
        self._at_end = True
        self._arrived.set()
        return True

    def exit_status_received(self, status: int) -> None:
        self.status = status
        self._arrived.set()

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self.status = -_signal_number(signal)
        self._arrived.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set()
        self._arrived.set()
        self._on_closed(self)


@dataclass(frozen=True, slots=True)
class Ended:
    """What a runner says of a script that has ended.

    :ivar status: negative for a signal.
    :ivar begun: how many of its lines were begun.
    :ivar is_clean: whether nobody it has left can write to the streams, so that another one may.
    """

    status: int
    begun: int
    is_clean: bool


class Runner(Channel):
    """The channel of a shell that runs one script after the other.

    :param token: what its own lines begin with; see ``shell``.
    """

    def __init__(self, token: str, on_closed: Callable[[Runner], None]) -> None:
        super().__init__(b"", on_closed)
        self._streams = (_Stream(token), _Stream(token))
        self.ended: Ended | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the script has, and all that it has printed is here."""
        return self.ended is not None or super().has_ended

    def begin(self, program: bytes) -> None:
        """Run a script."""
        self.ended, self._is_forgotten = None, False
        for stream in self._streams:
            stream.at_end = False
        if self._channel is None:
            self._program += program
        else:
            self._channel.write(program)

    async def read(self, stdout: Gathered, stderr: Gathered, on_line: LineHandler | None) -> None:
        """Read all that the script prints until it ends."""
        while True:
            is_last = self.has_ended
            for chunk, is_error in self._take():
                await (stderr.take(chunk, None) if is_error else stdout.take(chunk, on_line))
            if is_last:
                break
            await self._arrived.wait()
        await stdout.end(on_line)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        is_error = datatype is not None
        stream = self._streams[is_error]
        if printed := stream.receive(data):
            self._keep(printed, is_error=is_error)
        if self.ended is None and all(stream.at_end for stream in self._streams):
            self.ended = _ended(self._streams[0].said)
            self._arrived.set()


class _Stream:
    """Finds what scripts print: it ends with a line of their runner, ``TOKEN`` and what that says.

    The first such line ends what the host says to everybody that logs in.
    """

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._held = b""
        self._is_ready = False
        self.at_end = False
        self.said = b""

    def receive(self, data: bytes) -> bytes:
        """What of it the script has printed."""
        if self.at_end:
            return b""
        before, found, rest = (self._held + data).partition(self._token)
        printed = before if self._is_ready else b""
        if not found:
            self._held = _beginning(before, self._token)
            return printed.removesuffix(self._held)
        line, end, after = rest.partition(b"\n")
        if not end:
            self._held = found + rest
            return printed
        self._held = b""
        if self._is_ready:
            self.at_end, self.said = True, line
            return printed
        self._is_ready = True
        return self.receive(after)


def _beginning(data: bytes, token: bytes) -> bytes:
    """The end of the data that may be the beginning of the token."""
    start = data.rfind(token[:1], max(0, len(data) - len(token) + 1))
    while start >= 0:
        if token.startswith(data[start:]):
            return data[start:]
        start = data.rfind(token[:1], max(0, len(data) - len(token) + 1), start)
    return b""


def _ended(said: bytes) -> Ended:
    status, begun, how, state = said.split()
    value = int(status)
    is_killed = how == b"killed" and value > _SIGNALLED
    return Ended(_SIGNALLED - value if is_killed else value, int(begun), state == b"clean")


def _signal_number(name: str) -> int:
    found = getattr(signal, f"SIG{name}", signal.SIGKILL)
    return int(found)


class Answers(asyncssh.SSHClientSession[bytes]):
    """The channel of a shell that answers requests, line by line, in any order.

    :param greeting: how the line begins that it prints when it is ready; what comes before is kept as noise.
    """

    def __init__(self, greeting: str) -> None:
        self._greeting = greeting
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._partial = b""
        self._noise = b""
        self._numbers = itertools.count(1)
        self._waiting: dict[str, anyio.Event] = {}
        self._answers: dict[str, str] = {}
        self._ready = anyio.Event()
        self.hello: str | None = None
        self.is_closed = False

    @property
    def noise(self) -> str:
        """The end of what it printed that is no answer."""
        return self._noise.decode("utf-8", "replace").strip()

    async def begin(self, program: bytes) -> str | None:
        """Send the program and wait for its greeting; what follows that, None if it ended instead."""
        assert self._channel is not None, "it was opened"  # noqa: S101
        with suppress(BrokenPipeError):  # it has ended already; what it said comes all the same
            self._channel.write(program)
        await self._ready.wait()
        return self.hello

    async def ask(self, request: str) -> str | None:
        """Send one line and wait for the answer; None if the channel was closed before it came."""
        if self.is_closed or self._channel is None:
            return None
        number = f"r{next(self._numbers)}"
        event = self._waiting[number] = anyio.Event()
        try:
            try:
                self._channel.write(f"{number} {request}\n".encode())
            except BrokenPipeError:  # it ends, and nobody would answer
                return None
            await event.wait()
            return self._answers.pop(number, None)
        finally:
            self._waiting.pop(number, None)
            self._answers.pop(number, None)

    def end(self) -> None:
        """No more requests: it cleans up and ends."""
        if self._channel is not None and not self.is_closed:
            self._channel.write_eof()

    async def wait_closed(self) -> None:
        if self._channel is not None:
            await self._channel.wait_closed()

    # Called by the connection

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype is not None:
            self._noise = (self._noise + data)[-_LONGEST_ANSWER:]
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._partial = self._partial[-_LONGEST_ANSWER:]
        for line in lines:
            self._line(line)

    def _line(self, line: bytes) -> None:
        first, _, rest = line.decode("utf-8", "replace").partition(" ")
        if first == self._greeting and self.hello is None:
            self.hello = rest
            self._ready.set()
        elif first in self._waiting:
            self._answers[first] = rest
            self._waiting[first].set()
        else:
            self._noise = (self._noise + line + b"\n")[-_LONGEST_ANSWER:]

    def eof_received(self) -> bool:
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self._ready.set()
        for event in self._waiting.values():
            event.set()
