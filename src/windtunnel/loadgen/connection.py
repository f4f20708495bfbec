"""One connection of HTTP/1.1, from callbacks: a request at a time, no task or future for any of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast

from windtunnel.errors import ConfigError
from windtunnel.loadgen.client import Freed
from windtunnel.loadgen.recorder import ErrorKind, Recorder

try:
    import httptools
except ImportError as exc:
    raise ConfigError("load tests need httptools; pip install 'windtunnel[load]'") from exc

__all__ = ["Answer", "Connection", "HttpStep", "LookingConnection", "Session"]

_HEAD = 16_384
"""Bytes of an unfinished answer that are kept, to tell how it was to end."""
_BODY = 1 << 20
"""Bytes of a body that checks can see."""
_FINAL = 200
_clock = time.monotonic_ns
_BAD = 400


class Answer(NamedTuple):
    """What a check sees.

    :ivar headers: their names in lower case.
    :ivar body: its first mebibyte.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpStep(NamedTuple):
    """One request of a session, ready to be sent.

    :ivar payload: the bytes, or what makes them from the values of the session.
    :ivar latencies: where its latency is noted.
    :ivar problem: what is wrong with an answer, or None; without it, a status of 400 or above is.
    :ivar save: values for later steps from an answer.
    """

    payload: bytes | Callable[[Mapping[str, Any]], bytes]
    latencies: list[int]
    problem: Callable[[Answer], tuple[ErrorKind, str] | None] | None = None
    save: Callable[[Answer], Mapping[str, Any]] | None = None
    think_s: float = 0.0
    is_head: bool = False

    @property
    def looks_inside(self) -> bool:
        return self.problem is not None or self.save is not None or self.is_head


class Session(NamedTuple):
    """What one arrival does.

    :ivar values: for the payloads that want some.
    """

    steps: Sequence[HttpStep]
    values: Mapping[str, Any] = {}


class _Owner(Protocol):
    """The client that a connection belongs to.

    :ivar only: what every arrival does, if that is always the same.
    """

    recorder: Recorder
    only: Session | None
    freed: Freed

    def next_session(self) -> Session: ...
    def connect(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """A slot: a connection, made when it is needed and made again when the server has closed it."""

    _looks = False
    """Whether any step looks at more than the status, which costs time."""

    def __init__(self, client: _Owner) -> None:
        self._client = client
        self._recorder = client.recorder
        self._only = client.only
        self._request = _single_request(client.only)
        self._transport: asyncio.Transport | None = None
        self._busy = False
        self._due = 0
        self._complete = 0
        self._status = 0
        self._stays = False
        self._steps: Sequence[HttpStep] = client.only.steps if client.only else ()
        self._values: Mapping[str, Any] = {}
        self._at = 0
        self._unfinished = b""
        self._pause: asyncio.TimerHandle | None = None
        self.since = 0
        self.received = 0

    def begin(self, due: int, now: int) -> None:
        self._due = due
        self._at = 0
        if self._request is not None and self._transport is not None:
            self.since = now
            self._busy = True
            self._transport.write(self._request)
            return
        self._steps, self._values = self._only or self._client.next_session()
        self._send(now)

    def _send(self, now: int) -> None:
        self.since = now
        self._busy = True
        if self._transport is None:
            self._client.connect(self)
            return
        payload = self._steps[self._at].payload
        if not isinstance(payload, bytes):
            payload = payload(self._values)
        self._transport.write(payload)

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # TCP gives no other
        self._renew()
        if self._busy:
            self._send(self.since)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError as exc:
            self._garbled(f"{type(exc).__name__}: {exc}")
            return
        if self._complete:
            self._answered()
        elif len(self._unfinished) < _HEAD:
            self._unfinished += data[:_HEAD]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self._busy or self._pause is not None:
            return
        if exc is None and _ends_with_connection(self._unfinished):
            self._status = self._parser.get_status_code()
            self._complete, self._stays = 1, False
            self._answered()
        else:
            so_far = "in mid-answer" if self._unfinished else "before it answered"
            self._fail(
                ErrorKind.RESET, f"the server closed the connection {so_far}{f': {exc}' if exc else ''}"
            )

    # What the parser calls

    def on_message_complete(self) -> None:
        self._status = self._parser.get_status_code()
        if self._status >= _FINAL:  # one like 100 (Continue) announces another
            self._complete += 1
            self._stays = self._parser.should_keep_alive()  # the parser forgets it after this call

    # The course of a request

    def _renew(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._feed = self._parser.feed_data
        self._complete = 0
        self._unfinished = b""

    def _answered(self) -> None:
        if self._complete > 1 or not self._busy:
            self._garbled("an answer that nothing was asked for")
            return
        self._complete = 0
        status = self._status
        self._unfinished = b""
        now = _clock()
        step = self._steps[self._at]
        if self._due >= self._recorder.measured_from:
            step.latencies.append(now - self._due)
            if self._looks or status >= _BAD:
                self._judge(step, status)
        if not self._stays:
            self._part()
        if self._looks:
            self._look(step, status)
        self._at += 1
        if self._at < len(self._steps):
            self._go_on(now, step.think_s)
            return
        self._busy = False
        self._client.freed(self, now)

    def _look(self, step: HttpStep, status: int) -> None:
        """Take from an answer what later steps want, and be ready for the next."""
        if step.save is not None:
            self._values = {**self._values, **step.save(self._answer(status))}
        if step.is_head and self._stays:
            self._renew()

    def _judge(self, step: HttpStep, status: int) -> None:
        """Note what is wrong with an answer."""
        if step.problem is None:
            if status >= _BAD:
                self._recorder.failed(ErrorKind.STATUS, self._due, f"status {status}")
        elif (problem := step.problem(self._answer(status))) is not None:
            kind, message = problem
            self._recorder.failed(kind, self._due, message)

    def _go_on(self, now: int, think_s: float) -> None:
        if think_s:
            loop = asyncio.get_running_loop()
            self._pause = loop.call_later(think_s, self._next_step)
        else:
            self._due = now
            self._recorder.unscheduled += 1
            self._send(now)

    def _next_step(self) -> None:
        self._pause = None
        self._go_on(time.monotonic_ns(), 0)

    def _answer(self, status: int) -> Answer:
        return Answer(status, {}, b"")

    def _garbled(self, message: str) -> None:
        was_busy = self._busy
        self._hang_up()
        if was_busy:
            self._fail(ErrorKind.PROTOCOL, f"the answer is not HTTP: {message}")

    def _fail(self, kind: ErrorKind, message: str) -> None:
        self._recorder.failed(kind, self._due, message)
        self._busy = False
        self._client.freed(self, time.monotonic_ns(), unreached=kind is ErrorKind.CONNECT)

    def _part(self) -> None:
        """The server wants no further request here."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.set_protocol(_Gone())
            transport.close()

    def _hang_up(self) -> None:
        transport = self._transport
        self._part()
        if transport is not None:
            transport.abort()

    # What the client calls

    def unconnected(self, kind: ErrorKind, message: str) -> None:
        """The connection it asked for could not be made."""
        if self._busy:
            self._fail(kind, message)

    def cut(self, message: str) -> None:
        """End the session."""
        if not self._busy:
            return
        self._hang_up()
        if self._pause is None:
            self._fail(ErrorKind.TIMEOUT, message)
        else:
            self._pause.cancel()
            self._pause, self._busy = None, False
            self._client.freed(self, time.monotonic_ns())

    def sweep(self, before: int, message: str) -> None:
        """End the session if it waits for an answer since before this time."""
        if self._busy and self.since < before and self._pause is None:
            self.cut(message)

    def close(self) -> None:
        self._busy = False
        if self._pause is not None:
            self._pause.cancel()
        self._hang_up()


def _single_request(session: Session | None) -> bytes | None:
    """What every arrival sends, if that is one request that never changes: the quickest way is for that."""
    if session is None or len(session.steps) != 1:
        return None
    (step,) = session.steps
    return step.payload if isinstance(step.payload, bytes) else None


class _Gone(asyncio.Protocol):
    """Takes what comes after a connection was given up."""


class LookingConnection(Connection):
    """One that keeps headers and the body, for checks and for values."""

    _looks = True
    _headers: dict[str, str]
    _body: bytearray

    def on_message_begin(self) -> None:
        self._headers = {}
        self._body = bytearray()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        # The parser does not know that a HEAD was asked for, and would wait for the body.
        if self._busy and self._steps[self._at].is_head:
            super().on_message_complete()

    def on_body(self, data: bytes) -> None:
        if len(self._body) < _BODY:
            self._body += data

    def on_message_complete(self) -> None:
        if not (self._steps and self._steps[min(self._at, len(self._steps) - 1)].is_head):
            super().on_message_complete()

    def _answer(self, status: int) -> Answer:
        return Answer(status, self._headers, bytes(self._body[:_BODY]))


def _ends_with_connection(answer: bytes) -> bool:
    """Whether the answer is one that ends when its connection does (RFC 9112, section 6.3)."""
    head, found, _ = answer.partition(b"\r\n\r\n")
    head = head.lower()
    return bool(found) and b"\r\ncontent-length:" not in head and b"\r\ntransfer-encoding:" not in head
