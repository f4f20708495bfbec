"""An SSH server in Python for machines without OpenSSH. It does what the tests need of sshd, and no more.

Called with: address, port, host key, authorized keys. Scripts run as whoever runs this.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import sys
from functools import partial

import asyncssh
from asyncssh.packet import UInt32

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Login(asyncssh.SSHServer):
    """Whoever has an authorized key may run programs and go on to other places."""

    def session_requested(self) -> asyncssh.SSHServerSession[bytes]:
        return Session()

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return True


class Session(asyncssh.SSHServerSession[bytes]):
    """One channel: a program in a session of its own, its three streams, and its end."""

    def __init__(self) -> None:
        self._channel: asyncssh.SSHServerChannel[bytes] | None = None
        self._input: asyncio.WriteTransport | None = None
        self._outputs: list[asyncio.ReadTransport] = []
        self._early: list[bytes] = []
        self._at_end = False
        self._open_outputs = 2
        self._has_ended = False
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan

    def exec_requested(self, command: str) -> bool:
        task = asyncio.get_running_loop().create_task(self._run(command))
        self._tasks.add(task)
        return True

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if self._input is None:
            self._early.append(data)
        else:
            self._input.write(data)

    def eof_received(self) -> bool:
        self._at_end = True
        if self._input is not None:
            self._input.write_eof()
        return True

    def pause_writing(self) -> None:
        for output in self._outputs:
            output.pause_reading()

    def resume_writing(self) -> None:
        for output in self._outputs:
            output.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._channel = None
        for one in (self._input, *self._outputs):
            if one is not None:
                one.close()

    async def _run(self, command: str) -> None:
        assert self._channel is not None
        peer = self._channel.get_extra_info("peername")[:2]
        here = self._channel.get_extra_info("sockname")[:2]
        user = pwd.getpwuid(os.geteuid())
        env = {
            "PATH": _PATH,
            "HOME": user.pw_dir,
            "USER": user.pw_name,
            "LOGNAME": user.pw_name,
            "SHELL": "/bin/sh",
            "SHLVL": "2",
            "SSH_CONNECTION": " ".join(map(str, (*peer, *here))),
        }
        loop = asyncio.get_running_loop()
        child_in, our_in = os.pipe()
        outputs = [os.pipe(), os.pipe()]
        process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            command,
            stdin=child_in,
            stdout=outputs[0][1],
            stderr=outputs[1][1],
            env=env,
            cwd=user.pw_dir,
            start_new_session=True,
        )
        for fd in (child_in, outputs[0][1], outputs[1][1]):
            os.close(fd)
        for kind, (fd, _) in zip((None, asyncssh.EXTENDED_DATA_STDERR), outputs, strict=True):
            transport, _ = await loop.connect_read_pipe(partial(_Output, self, kind), os.fdopen(fd, "rb"))
            self._outputs.append(transport)
        self._input, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(our_in, "wb"))
        for data in self._early:
            self._input.write(data)
        if self._at_end:
            self._input.write_eof()
        self._ended(await process.wait())

    def output(self, data: bytes, kind: int | None) -> None:
        if self._channel is not None:
            self._channel.write(data, kind)

    def output_ended(self) -> None:
        self._open_outputs -= 1
        self._close_if_done()

    def _ended(self, status: int) -> None:
        """As sshd does: tell the status at once, and close when nobody can write any more."""
        self._has_ended = True
        if self._channel is None:
            return
        send = self._channel._send_request
        if status < 0:
            name = signal.Signals(-status).name.removeprefix("SIG").encode()
            send(
                b"exit-signal",
                asyncssh.packet.String(name),
                b"\0",
                asyncssh.packet.String(b""),
                asyncssh.packet.String(b""),
            )
        else:
            send(b"exit-status", UInt32(status))
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._has_ended and not self._open_outputs and self._channel is not None:
            self._channel.write_eof()
            self._channel.close()


class _Output(asyncio.Protocol):
    def __init__(self, session: Session, kind: int | None) -> None:
        self._session = session
        self._kind = kind

    def data_received(self, data: bytes) -> None:
        self._session.output(data, self._kind)

    def connection_lost(self, exc: Exception | None) -> None:
        self._session.output_ended()


async def serve(address: str, port: int, host_key: str, authorized: str) -> None:
    await asyncssh.listen(
        address,
        port,
        server_factory=Login,
        server_host_keys=[host_key],
        authorized_client_keys=authorized,
        encoding=None,
    )
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), *sys.argv[3:]))
