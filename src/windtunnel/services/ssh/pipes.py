"""Programs on a host that talk with us, and end when we stop listening.

They are scripts of a session like others, so the keeper knows them and ends them; but their standard input is
ours after the first line they print. Before that, the shell may still be reading its program from it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from shlex import quote

import anyio

from windtunnel.errors import EnvironmentFailed
from windtunnel.services.ssh.channels import Channel
from windtunnel.services.ssh.pool import Pool
from windtunnel.services.ssh.remote_exec import RemoteScripts, SshService
from windtunnel.services.ssh.shell import MARK

__all__ = ["Pipe", "PipeSessions", "Pipes", "SshPipes", "operand", "pool_of"]

_SHELL = "/bin/sh"
_GRACE_S = 5.0  # a busy host needs a while to remove what was not completed
_MOST_SAID = 4096
_LONGEST_LINE = 64 * 1024
_LINES_AT_ONCE = 1000

# "$node" names the host in names of files that others share; a program may give "undo" a meaning.
_PROGRAM = """\
{{
export LC_ALL=C {mark}={files}/
echo $$ >{file} || exit 125
if [ -e {files}/x{number} ] || [ -e {base}/x ]; then exit 143; fi
undo() {{ :; }}
over() {{ echo ended >>{file}; }}
trap 'undo; over' EXIT
trap 'exit 143' TERM
fail() {{ printf '%s\\n' "$1" >&2; exit 3; }}
{{ read -r node </proc/sys/kernel/hostname; }} 2>/dev/null || node=$(uname -n)
{values}
{text}
exit 0
}}
"""


def pool_of(service: SshService) -> Pool:
    """The connections that a service shares with those who need more of a host than scripts."""
    return service._pool  # noqa: SLF001 - of this package


def operand(path: str) -> str:
    """A path on a host as programs take it: never an option; ``~/`` is where one is after the login."""
    path = path.removeprefix("~/") if path != "~" else "."
    return path if path.startswith("/") else f"./{path}"


class Pipe(Channel):
    """The channel of one such program."""

    def __init__(self, program: bytes, on_closed: Callable[[Channel], None]) -> None:
        super().__init__(program, on_closed)
        self._incoming: deque[bytes] = deque()
        self._said = b""
        self._writable = anyio.Event()
        self._writable.set()

    @property
    def said(self) -> str:
        """The end of what the program has written to its standard error."""
        return self._said.decode("utf-8", "replace").strip()

    async def receive(self) -> bytes:
        """Some of what the program prints; empty at the end."""
        while not self._incoming:
            for chunk, is_error in self._take():
                if is_error:
                    self._said = (self._said + chunk)[-_MOST_SAID:]
                else:
                    self._incoming.append(chunk)
            if self._incoming:
                break
            if self.is_closed or self._at_end:
                return b""
            await self._arrived.wait()
        return self._incoming.popleft()

    def put_back(self, chunk: bytes) -> None:
        """``receive`` gives it again."""
        self._incoming.appendleft(chunk)

    async def line(self) -> str | None:
        """The next line without its end; None if the program ended instead."""
        parts = b""
        while chunk := await self.receive():
            parts += chunk
            line, end, rest = parts.partition(b"\n")
            if end:
                if rest:
                    self.put_back(rest)
                return line.decode("utf-8", "replace")
            if len(parts) > _LONGEST_LINE:
                break
        return None

    async def send(self, data: bytes) -> bool:
        """Write, and wait while too much is on the way; False if the program does not read any more."""
        if self._channel is None or self._channel.is_closing() or self.status is not None:
            return False
        try:
            self._channel.write(data)
        except BrokenPipeError:
            return False
        await self._writable.wait()
        return not self.is_closed

    async def send_lines(self, lines: Sequence[str]) -> None:
        """Write all there will be: lines in which a line end is ``\\n`` and a backslash is doubled."""
        for start in range(0, len(lines), _LINES_AT_ONCE):
            some = lines[start : start + _LINES_AT_ONCE]
            text = "".join(line.replace("\\", "\\\\").replace("\n", "\\n") + "\n" for line in some)
            if not await self.send(text.encode("utf-8", "surrogateescape")):
                return
        self.end_input()

    def end_input(self) -> None:
        if self._channel is not None and not self._channel.is_closing():
            self._channel.write_eof()

    async def wait_status(self) -> int | None:
        """Until the program has ended; how it ended, None if the connection was lost."""
        while await self.receive():
            pass
        while self.status is None and not self.is_closed:
            await self._arrived.wait()
        return self.status

    # Called by the connection

    def pause_writing(self) -> None:
        if self._writable.is_set():
            self._writable = anyio.Event()

    def resume_writing(self) -> None:
        self._writable.set()

    def exit_status_received(self, status: int) -> None:
        super().exit_status_received(status)
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._writable.set()


class Pipes(RemoteScripts):
    """A session whose programs talk with us. It needs no leaving: it ends with its connection."""

    def __init__(self, pool: Pool, host: str) -> None:
        super().__init__(pool, host, shell=_SHELL, grace_s=_GRACE_S, capacity=_LONGEST_LINE)
        self._free: list[int] = []  # so that thousands of programs leave few files there

    @property
    def is_lost(self) -> bool:
        return self._connection.is_lost

    @asynccontextmanager
    async def open(self, text: str, values: Mapping[str, str], *, doing: str) -> AsyncIterator[Pipe]:
        """Run a program, and wait for its end; see ``started``.

        :raises HostLost: if the connection is lost.
        """
        async with self.started(text, values, doing=doing) as pipe:
            yield pipe
            if await pipe.wait_status() is None:
                raise self._connection.loss(doing)

    @asynccontextmanager
    async def started(self, text: str, values: Mapping[str, str], *, doing: str) -> AsyncIterator[Pipe]:
        """Run a program; leaving ends it, unless it has ended.

        :param text: for a POSIX shell; prints a line before it reads anything.
        :param values: shell variables that it finds set.
        :raises HostLost: if the connection was lost before.
        """
        number = self._free.pop() if self._free else next(self._numbers)
        program = self._interactive(text, values, number)
        if self._connection.is_lost:
            raise self._connection.loss("it was not in use")
        pipe = await self._connection.open(partial(Pipe, program), doing=doing)
        try:
            yield pipe
        finally:
            if pipe.status is None:
                await self._end(number, pipe)
            pipe.close()
            if pipe.status == 0:
                self._free.append(number)

    def _interactive(self, text: str, values: Mapping[str, str], number: int) -> bytes:
        files = f"{self._connection.base}/{self._number}"
        file = f"{files}/p{number}"
        program = _PROGRAM.format(
            mark=MARK,
            files=quote(files),
            file=quote(file),
            number=number,
            base=quote(self._connection.base),
            values="\n".join(f"{name}={quote(value)}" for name, value in values.items()),
            text=text,
        )
        if "\0" in program:
            raise EnvironmentFailed(f"host {self._host!r}: a path cannot hold a NUL character")
        return program.encode("utf-8", "surrogateescape")


class PipeSessions:
    """One session for each host, made again when its connection was."""

    def __init__(self, service: SshService) -> None:
        self._pool = pool_of(service)
        self._sessions: dict[str, Pipes] = {}
        self._locks: dict[str, anyio.Lock] = {}

    async def session(self, host: str) -> Pipes:
        """:raises HostFailed: if the host cannot be used."""
        found = self._sessions.get(host)
        if found is not None and not found.is_lost:
            return found
        async with self._locks.setdefault(host, anyio.Lock()):
            found = self._sessions.get(host)
            if found is None or found.is_lost:
                found = Pipes(self._pool, host)
                await found.__aenter__()
                self._sessions[host] = found
        return found


class SshPipes:
    """Programs on hosts that have an SSH server; implements ``RemotePipes``.

    It shares the connections of the service, and the channels of each with its scripts.
    """

    def __init__(self, service: SshService) -> None:
        self._sessions = PipeSessions(service)

    @asynccontextmanager
    async def program(self, host: str, script: str, values: Mapping[str, str]) -> AsyncIterator[Pipe]:
        session = await self._sessions.session(host)
        async with session.started(script, values, doing="a program was started") as pipe:
            yield pipe
