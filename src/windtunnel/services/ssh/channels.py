"""Channels of a connection: how many at once, what comes out of one, and the one to the keeper."""

from __future__ import annotations

import asyncio
import itertools
import math
import signal
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import asyncssh

from windtunnel.concurrency import Signal
from windtunnel.protocols import LineHandler
from windtunnel.services.capture import Gathered

__all__ = ["Answers", "ScriptChannel", "Slots"]

Barrier = Callable[[], Awaitable[object]]

_FULL = 256 * 1024
_GROW_AFTER = 32
_PATIENCE_S = 0.05
_REST_LIMIT_S = 1.0
_MOST_REST = 8 * _FULL  # more than all buffers on the way hold when a script ends
_LONGEST_ANSWER = 64 * 1024


class Slots:
    """How many channels a connection may have: those who want one more wait their turn.

    A channel whose script has ended may stay open for the background processes that hold it; it is closed
    when somebody waits.

    :param most: never more; fewer while the server refuses.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limiter = anyio.CapacityLimiter(most)
        self._lingering: deque[ScriptChannel] = deque()
        self._granted = 0

    async def acquire(self, channel: ScriptChannel) -> None:
        if self._limiter.available_tokens < 1:
            self._close_one()
        await self._limiter.acquire_on_behalf_of(channel)

    def release(self, channel: ScriptChannel) -> None:
        """The channel is closed."""
        if channel in self._lingering:
            self._lingering.remove(channel)
        self._limiter.release_on_behalf_of(channel)

    def opened(self) -> None:
        """The server has granted one. After many it may grant more at once than it did."""
        self._granted += 1
        if self._granted % _GROW_AFTER == 0 and self._limiter.total_tokens < self._most:
            self._limiter.total_tokens += 1

    def refused(self) -> bool:
        """The server refused one more than those open now.

        :returns: False if none is open, so that waiting for one to close is no use.
        """
        is_any = self._limiter.borrowed_tokens > 0
        self._limiter.total_tokens = max(1, self._limiter.borrowed_tokens)
        return is_any

    def linger(self, channel: ScriptChannel) -> None:
        """Keep it open as long as nobody needs its place."""
        self._lingering.append(channel)
        if self._limiter.statistics().tasks_waiting:
            self._close_one()

    def _close_one(self) -> None:
        if self._lingering:
            self._lingering.popleft().close()


class ScriptChannel(asyncssh.SSHClientSession[bytes]):
    """The channel of one script. Nobody reads it but ``read``: it is filled by calls from the connection.

    :param program: what the shell gets as its input; it does not wait for an end of it.
    :param on_closed: called once, when the server has closed it too.
    """

    def __init__(self, program: bytes, on_closed: Callable[[ScriptChannel], None]) -> None:
        self._program = program
        self._on_closed = on_closed
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._chunks: list[tuple[bytes, bool]] = []
        self._unread = 0
        self._received = 0
        self._is_paused = False
        self._is_forgotten = False
        self._at_end = False
        self._arrived = Signal()
        self._closed = anyio.Event()
        self.status: int | None = None
        self.lost: Exception | None = None

    @property
    def was_made(self) -> bool:
        """Whether the server granted it, so that it will be closed some time."""
        return self._channel is not None

    @property
    def is_closed(self) -> bool:
        return self._closed.is_set()

    @property
    def has_ended(self) -> bool:
        """Whether the script has ended and nobody else can write any more."""
        return self.is_closed or (self._at_end and self.status is not None)

    async def read(
        self, stdout: Gathered, stderr: Gathered, on_line: LineHandler | None, barrier: Barrier
    ) -> None:
        """Read until the script has ended, and then what it had written before.

        :param barrier: returns when the server has sent what it had at the time of the call.
        """
        most, seen, waited = math.inf, -1, 0.0
        while True:
            if self.status is not None and most == math.inf:
                most = self._received + _MOST_REST
            if chunks := self._take():
                for chunk, is_error in chunks:
                    await (stderr.take(chunk, None) if is_error else stdout.take(chunk, on_line))
            elif self.has_ended or seen == self._received:
                break
            elif self.status is None:
                await self._arrived.wait()
            else:  # it seems that background processes hold the channel open
                since = anyio.current_time()
                with anyio.move_on_after(_PATIENCE_S) as patience:
                    await self._arrived.wait()
                waited += anyio.current_time() - since
                if patience.cancelled_caught:
                    seen = self._received
                    await barrier()
            if self._received > most or waited > _REST_LIMIT_S:
                break  # background processes write this, and go on
        await stdout.end(on_line)

    async def wait_ended(self) -> None:
        """Until the script has ended; its output is forgotten."""
        self.forget()
        while self.status is None and not self.is_closed:
            await self._arrived.wait()

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
        self._received += len(data)
        if self._is_forgotten:
            return
        self._chunks.append((data, datatype is not None))
        self._unread += len(data)
        if self._unread > _FULL and not self._is_paused and self._channel is not None:
            self._is_paused = True
            self._channel.pause_reading()
        self._arrived.set()

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
        self.lost = exc
        self._closed.set()
        self._arrived.set()
        self._on_closed(self)


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
