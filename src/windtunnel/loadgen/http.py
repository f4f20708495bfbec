"""Connections over HTTP/1.1 to one origin."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

import anyio

from windtunnel.errors import LoadFailed
from windtunnel.loadgen.client import Client
from windtunnel.loadgen.connection import Connection, LookingConnection, Session
from windtunnel.loadgen.recorder import ErrorKind, Recorder

__all__ = ["HttpClient", "Origin"]


class Origin(NamedTuple):
    """Where requests go.

    :ivar tls: None for plain HTTP.
    """

    host: str
    port: int
    tls: ssl.SSLContext | None = None


class HttpClient(Client):
    """Connections to one origin. Nothing else is contacted: redirects are not followed.

    :param sessions: called for what each arrival does.
    :param only: what every arrival does, if that is always the same.
    :param timeout_s: of each request, from when it is written; and of a connection.
    :param looks_inside: whether any step looks at headers or bodies.
    """

    def __init__(
        self,
        recorder: Recorder,
        origin: Origin,
        *,
        limit: int,
        timeout_s: float,
        sessions: Callable[[], Session],
        only: Session | None = None,
        looks_inside: bool = False,
    ) -> None:
        super().__init__(recorder, limit=limit)
        self._origin = origin
        self._timeout_s = timeout_s
        self.next_session = sessions
        self.only = only
        self._connections: list[Connection] = []
        self._kind = LookingConnection if looks_inside else Connection
        self._address: str | None = None

    async def __aenter__(self) -> Self:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self._connections:
            connection.close()
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)  # none of them raises, so no error comes in a group

    async def prepare(self, count: int) -> None:
        """Connect so many, one first.

        :raises LoadFailed: if no connection can be made.
        """
        made = [self._made() for _ in range(min(count, self.limit))]
        self.slots.extend(made)
        self.idle.extend(made)
        if problem := await self._connect(made[0]):
            raise LoadFailed(
                f"cannot load {self._origin.host}:{self._origin.port}: {problem}; is it running?"
            )
        async with anyio.create_task_group() as tasks:
            for connection in made[1:]:
                tasks.start_soon(self._connect, connection)

    def connect(self, connection: Connection) -> None:
        """Begin to connect; the connection hears what came of it."""
        self._tasks.start_soon(self._connect, connection)

    async def _connect(self, connection: Connection) -> str | None:
        """What is wrong, if it did not work."""
        loop = asyncio.get_running_loop()
        host, port, tls = self._origin
        try:
            with anyio.fail_after(self._timeout_s):
                transport, _ = await loop.create_connection(
                    lambda: connection,
                    self._address or host,
                    port,
                    ssl=tls,
                    server_hostname=host if tls else None,
                )
            self._address = self._address or transport.get_extra_info("peername")[0]
        except TimeoutError:
            problem = f"no connection within {self._timeout_s:g} s"
        except (OSError, ssl.SSLError) as exc:
            problem = _told(exc)
        else:
            return None
        connection.unconnected(ErrorKind.CONNECT, problem)
        return problem

    def sweep(self, now: int) -> None:
        before = now - round(self._timeout_s * 1e9)
        for connection in self._connections:
            connection.sweep(before, f"no answer within {self._timeout_s:g} s")

    def cut(self, now: int) -> None:
        for connection in self._connections:
            connection.cut("no answer before the end of the run")

    def take_received(self) -> int:
        total = 0
        for connection in self._connections:
            total += connection.received
            connection.received = 0
        return total

    def _made(self) -> Connection:
        made = self._kind(self)
        self._connections.append(made)
        return made


def _told(exc: OSError) -> str:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {exc.verify_message}"
    if exc.errno and not isinstance(exc, socket.gaierror | ssl.SSLError):
        return os.strerror(exc.errno).lower()  # asyncio says no more than that a call failed
    return exc.strerror or str(exc) or type(exc).__name__
