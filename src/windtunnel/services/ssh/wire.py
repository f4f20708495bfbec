"""The bytes of a connection: what is written in one turn of the event loop goes out in one piece.

asyncssh writes each packet by itself and an empty one before it, which would be a call into the system here
and a wake-up of the server there for every one of them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

__all__ = ["Wire"]

_ENOUGH = 64 * 1024


class Wire:
    """A connected socket; asyncssh takes it for a tunnel.

    :param sock: closed with the connection.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def create_connection(
        self, factory: Callable[[], asyncio.Protocol], _host: str, _port: int
    ) -> tuple[asyncio.BaseTransport, asyncio.Protocol]:
        """Called by asyncssh."""
        protocol = factory()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: _Introduction(protocol), sock=self._sock)
        return transport, protocol


class _Introduction(asyncio.Protocol):
    """Puts the other protocol in its own place, with a transport that gathers."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - that of a stream
        transport.set_protocol(self._protocol)
        self._protocol.connection_made(_Gathering(transport))


class _Gathering(asyncio.Transport):
    """Another transport, whose ``write`` waits for the end of the turn."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []
        self._size = 0

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(bytes(data))
        self._size += len(data)
        if self._size >= _ENOUGH:
            self._flush()

    def _flush(self) -> None:
        if self._pieces:
            pieces, self._pieces, self._size = self._pieces, [], 0
            self._transport.write(b"".join(pieces))

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)
