"""The server under test: answers every request with a checksum, which takes it a while."""

from __future__ import annotations

import asyncio
import hashlib
import sys

BLOCK = b"x" * 256 * 1024


class Answers(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]  # TCP gives no other
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while b"\r\n\r\n" in self.received:  # no request here has a body
            _, _, self.received = self.received.partition(b"\r\n\r\n")
            body = hashlib.sha256(BLOCK).hexdigest().encode()
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Answers, "127.0.0.1", port)
    print("ready", flush=True)
    await server.serve_forever()


asyncio.run(main(int(sys.argv[1])))
