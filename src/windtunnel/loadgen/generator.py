"""One generator, as whoever runs a load test talks with it, and the places where generators can be."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

import anyio
import anyio.abc

from windtunnel.errors import ConfigError, LoadFailed
from windtunnel.loadgen.agent import spawn_command
from windtunnel.loadgen.clock import Clock
from windtunnel.loadgen.plan import LoadPlan
from windtunnel.protocols import ProgramPipe

__all__ = ["Generator", "Place", "ThisMachine", "generator"]

_GRACE_S = 5.0


class Generator:
    """One agent, as it is spoken to.

    :param host: where it is; None for this machine.
    :param order: what it is told first: its plan, and the directory of its files.
    :param kill: ends it at once, however often it is called.
    :ivar told_ns: when it was last heard of.
    """

    def __init__(
        self,
        name: str,
        host: str | None,
        pipe: ProgramPipe,
        order: Mapping[str, Any],
        kill: Callable[[], Awaitable[None]],
    ) -> None:
        self.name = name
        self.host = host
        self.kill = kill
        self.clock = Clock()
        self.told_ns = 0
        self._pipe = pipe
        self._order = order
        self._heard = b""

    async def prepare(self, number: int, of: int) -> None:
        """Have it made ready for its share of the load, and look at its clock.

        :raises ConfigError: if it says that the plan is wrong.
        :raises LoadFailed: if the target cannot be reached from there, or the generator ended.
        """
        self.check(await self.hear())  # its greeting: before that, it might not hear us
        await self.tell({**self._order, "part": [number, of]})
        self.check(await self.hear())
        self.clock = await Clock.measured(self._time)

    async def _time(self) -> int:
        """What its clock says."""
        await self.tell({"clock": True})
        message = await self.hear()
        self.check(message)
        return int(message["clock"])

    async def start(self, at_ns: int) -> None:
        """Have it begin at this time of our clock."""
        await self.tell({"start": at_ns + self.clock.offset_ns})

    async def tell(self, message: Mapping[str, Any]) -> None:
        """Send a message; that it was not received is heard."""
        await self._pipe.send(json.dumps(message).encode() + b"\n")

    async def hear(self) -> dict[str, Any]:
        """Its next message; empty if there will be none."""
        parts = [self._heard]
        while b"\n" not in parts[-1]:
            if not (chunk := await self._pipe.receive()):
                return {}
            parts.append(chunk)
        line, _, self._heard = b"".join(parts).partition(b"\n")
        # A host may greet whoever logs in.
        return dict(json.loads(line)) if line.startswith(b"{") else await self.hear()

    def check(self, message: Mapping[str, Any]) -> None:
        """:raises ConfigError, LoadFailed: if it is one of failure, or the generator has ended."""
        if not message:
            raise LoadFailed(f"{self.name} ended before it was ready{self.last_words}")
        if "failed" in message:
            if message["path"] is not None:
                raise ConfigError(message["failed"], path=message["path"])
            where = "" if self.host is None else f"from host {self.host!r}: "
            raise LoadFailed(f"{where}{message['failed']}")

    @property
    def last_words(self) -> str:
        """What it has written to its standard error at last, to be appended; empty if nothing."""
        lines = self._pipe.said.splitlines()
        return f": {lines[-1]}" if lines else ""


@contextlib.asynccontextmanager
async def generator(
    name: str, host: str | None, program: AbstractAsyncContextManager[ProgramPipe], order: Mapping[str, Any]
) -> AsyncIterator[Generator]:
    """A generator for as long as its program runs."""
    async with contextlib.AsyncExitStack() as stack:
        pipe = await stack.enter_async_context(program)
        yield Generator(name, host, pipe, order, stack.aclose)


class Place(Protocol):
    """Where generators can be started."""

    @property
    def host(self) -> str | None:
        """Its name; None for this machine."""

    def generators(
        self, plan: LoadPlan, raw: Mapping[str, Any], directory: Path
    ) -> AbstractAsyncContextManager[list[Generator]]:
        """As many as the plan has workers, until the block ends.

        :param raw: the plan as a mapping.
        :param directory: where its files are, on this machine.
        """


class ThisMachine:
    """Generators in processes of their own."""

    host = None

    @contextlib.asynccontextmanager
    async def generators(
        self, plan: LoadPlan, raw: Mapping[str, Any], directory: Path
    ) -> AsyncIterator[list[Generator]]:
        order = {"plan": raw, "directory": str(directory)}
        async with contextlib.AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(generator(f"worker {number + 1}", None, _process(), order))
                for number in range(plan.workers)
            ]


class _LocalPipe:
    """A process of this machine; it writes to our own standard error."""

    said = ""

    def __init__(self, stdin: anyio.abc.ByteSendStream, stdout: anyio.abc.ByteReceiveStream) -> None:
        self._stdin, self._stdout = stdin, stdout

    async def send(self, data: bytes) -> bool:
        try:
            await self._stdin.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return False
        return True

    async def receive(self) -> bytes:
        try:
            return await self._stdout.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return b""


@contextlib.asynccontextmanager
async def _process() -> AsyncIterator[ProgramPipe]:
    process = await anyio.open_process(
        spawn_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, start_new_session=True
    )
    assert process.stdin is not None  # noqa: S101 - it is a pipe
    assert process.stdout is not None  # noqa: S101
    try:
        yield _LocalPipe(process.stdin, process.stdout)
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(_GRACE_S, shield=True):
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    # Its own kill() would take the exit status away from whoever waits for it.
                    os.kill(process.pid, signal.SIGKILL)
            await process.aclose()
