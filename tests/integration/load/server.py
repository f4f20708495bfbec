"""An HTTP server for load tests, in a process of its own that can be frozen. Listens on loopback only.

Run as a program it prints its port; ``serving`` starts one. What a request gets depends on its path.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple, cast
from urllib.request import urlopen

__all__ = ["Server", "closed_port", "serving"]

_HUGE = 3_000_000


class Server(NamedTuple):
    """A running one."""

    process: subprocess.Popen[str]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def counts(self) -> dict[str, int]:
        """Requests it has got by path and by User-Agent, in ``total``, and how many ``connections``."""
        with urlopen(f"{self.url}counts", timeout=5) as answer:
            found: dict[str, int] = json.load(answer)
        return found

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@contextlib.contextmanager
def serving(*options: str) -> Iterator[Server]:
    """A server for as long as the block runs."""
    command = [sys.executable, "-S", str(Path(__file__)), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Server(process, int(process.stdout.readline()))
        finally:
            process.kill()


def closed_port() -> int:
    """A port of loopback on which nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


def _whole(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    head = "".join(f"{line}\r\n" for line in headers)
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body


_ANSWERS = {
    "/": _whole(b"hello"),
    "/unavailable": _whole(b"", "503 Service Unavailable"),
    "/json": _whole(b'{"items": [{"id": 7, "token": "t-42"}]}', "200 OK", "Content-Type: application/json"),
    "/chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n",
    "/huge": _whole(b"x" * _HUGE),
    "/garbage": b"\x16\x03\x01 this is no HTTP\r\n\r\n",
    "/continue": b"HTTP/1.1 100 Continue\r\n\r\n" + _whole(b"ok"),
    "/twice": _whole(b"one") + _whole(b"two"),
}
_CLOSING = {
    "/close": _whole(b"bye", "200 OK", "Connection: close"),
    "/until-eof": b"HTTP/1.0 200 OK\r\n\r\nup to the end",
    "/short": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfar less",
    "/silent": b"",
}


class _Handler(asyncio.Protocol):
    counts: ClassVar[dict[str, int]] = {}
    free_at = 0.0
    per_second = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.counts["connections"] = self.counts.get("connections", 0) + 1
        self._data = b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        while b"\r\n\r\n" in self._data:
            head, _, rest = self._data.partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:])
            length = int(headers.get("content-length", 0))
            if len(rest) < length:
                return
            self._data = rest[length:]
            method, target, _ = lines[0].split(" ")
            self._answer(method, target, headers, rest[:length])

    def _answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        path = target.partition("?")[0]
        if path == "/counts":
            self.transport.write(_whole(json.dumps(self.counts).encode()))
            return
        self.counts[target] = self.counts.get(target, 0) + 1
        self.counts["total"] = self.counts.get("total", 0) + 1
        agent = headers.get("user-agent", "")
        self.counts[agent] = self.counts.get(agent, 0) + 1
        loop = asyncio.get_running_loop()
        if path in _CLOSING:
            self.transport.write(_CLOSING[path])
            self.transport.close()
        elif path == "/reset":
            self.transport.abort()
        elif path == "/never":
            pass
        elif path == "/slow-headers":
            for number, byte in enumerate(_whole(b"late")):
                loop.call_later(0.002 * number, self.transport.write, bytes([byte]))
        elif path == "/echo":
            seen = {"method": method, "body": body.decode(), "headers": headers, "target": target}
            self.transport.write(_whole(json.dumps(seen).encode()))
        elif method == "HEAD":
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        elif self.per_second:
            self._answer_in_turn(_ANSWERS["/"])
        else:
            self.transport.write(_ANSWERS.get(path, _whole(b"", "404 Not Found")))

    def _answer_in_turn(self, answer: bytes) -> None:
        """As a server that can do so many a second, and has others wait in line."""
        now = time.monotonic()
        _Handler.free_at = max(_Handler.free_at, now) + 1 / self.per_second
        asyncio.get_running_loop().call_later(_Handler.free_at - now, self.transport.write, answer)


async def _main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--certificate")
    options.add_argument("--per-second", type=float, default=0.0)
    options.add_argument("--port", type=int, default=0)
    given = options.parse_args()
    _Handler.per_second = given.per_second
    context = None
    if given.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(given.certificate)
    server = await asyncio.get_running_loop().create_server(
        _Handler, "127.0.0.1", given.port, ssl=context, backlog=1024
    )
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
