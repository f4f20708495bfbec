"""One generator, in a process of its own: JSON lines in, JSON lines out.

It says ``{"hello"}``, is told ``{"plan", "directory", "part"}`` and answers ``{"ready"}``. To each
``{"clock"}`` it then says what its own wall clock does. It is told ``{"start"}`` with the time of that clock
to begin at, and sends a ``{"window"}`` a second and ``{"ended"}``. In between it takes ``{"part", "since"}``,
another share of the schedule from a time on, and ``{"stop"}``. What is wrong with the plan or the target
comes as ``{"failed"}``. When its standard input ends, so does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import queue
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from windtunnel.concurrency import first_error
from windtunnel.errors import ConfigError, WindtunnelError, described
from windtunnel.loadgen.client import Client
from windtunnel.loadgen.compile import Part, client_of, resource_of, share
from windtunnel.loadgen.driver import ClosedLoop, Loop, OpenLoop
from windtunnel.loadgen.plan import LoadPlan
from windtunnel.loadgen.recorder import Recorder
from windtunnel.options import parse_options

__all__ = ["main", "spawn_command"]

_FLUSH_S = 0.01
_SWEEPS = 20
"""How often within a timeout it is looked for."""
_STOP_S = 0.2
_FIRST_CONNECTIONS = 16
_UNREAD = 1000
_SPARE_FILES = 64


def spawn_command() -> list[str]:
    """What starts one on this machine."""
    return [sys.executable, "-m", "windtunnel.loadgen.agent"]


class _Pipe:
    """Standard input and output, of whatever kind they are, without ever waiting for whoever reads."""

    def __init__(self, out_fd: int) -> None:
        self._out_fd = out_fd
        self._loop = asyncio.get_running_loop()
        self._commands: asyncio.Queue[bytes] = asyncio.Queue()  # whoever started us says only a few things
        self._messages: queue.Queue[Mapping[str, Any]] = queue.Queue(_UNREAD)
        self._writer = threading.Thread(target=self._write, name="writer", daemon=True)
        self._writer.start()
        threading.Thread(target=self._read, name="reader", daemon=True).start()

    async def receive(self) -> dict[str, Any]:
        """The next command; empty when there will be no more."""
        line = await self._commands.get()
        return dict(json.loads(line)) if line else {}

    def send(self, message: Mapping[str, Any]) -> None:
        try:
            self._messages.put_nowait(message)
        except queue.Full:
            raise BrokenPipeError("nobody reads what this generator tells") from None

    async def close(self) -> None:
        """Write out what was sent, for at most a second."""
        self.send({})
        await anyio.to_thread.run_sync(self._writer.join, 1.0)

    def _read(self) -> None:
        while line := sys.stdin.buffer.readline():
            self._loop.call_soon_threadsafe(self._commands.put_nowait, line)
        self._loop.call_soon_threadsafe(self._commands.put_nowait, b"")

    def _write(self) -> None:
        with os.fdopen(self._out_fd, "wb") as out, contextlib.suppress(OSError):
            while message := self._messages.get():
                out.write(json.dumps(message).encode() + b"\n")
                out.flush()


class _Agent:
    def __init__(self, pipe: _Pipe, command: Mapping[str, Any]) -> None:
        self._pipe = pipe
        self._plan = parse_options(LoadPlan, command["plan"])
        self._directory = Path(command["directory"])
        self._part = Part(*command["part"])
        _allow_files(self._plan, self._part)
        self._recorder = Recorder()
        self._loop: Loop | None = None
        self._limit = anyio.CancelScope()
        self._start = 0
        self._warm_ns = round(self._plan.warmup.total_seconds() * 1e9)
        self._is_warm = not self._warm_ns
        self._second = -1 if self._warm_ns else 0

    async def run(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            shared = resource_of(self._plan, self._directory)
            entered = None if shared is None else await stack.enter_async_context(shared)
            client = client_of(self._plan, self._recorder, self._part, self._directory, entered)
            await stack.enter_async_context(client)
            await client.prepare(min(client.limit, self._plan.users or _FIRST_CONNECTIONS))
            tasks = await stack.enter_async_context(anyio.create_task_group())
            self._pipe.send({"ready": True})
            while "clock" in (command := await self._pipe.receive()):
                self._pipe.send({"clock": time.time_ns()})
            if "start" not in command:
                tasks.cancel_scope.cancel()
                return
            self._start = time.monotonic_ns() + command["start"] - time.time_ns()
            tasks.start_soon(self._listen, client, tasks)
            await self._measure(client)
            tasks.cancel_scope.cancel()

    async def _measure(self, client: Client) -> None:
        until = self._start + round(self._plan.whole_s * 1e9)
        self._recorder.measured_from = self._start + self._warm_ns
        self._loop = loop = self._make_loop(client, until)
        await anyio.sleep((self._start - time.monotonic_ns()) / 1e9)
        self._recorder.restart(time.monotonic_ns())
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._watch, client)
            loop.start()
            cut_after_s = (until - time.monotonic_ns()) / 1e9 + self._plan.timeout.total_seconds()
            with anyio.move_on_after(cut_after_s) as self._limit:
                await loop.done()
            beside.cancel_scope.cancel()
        if self._limit.cancelled_caught:
            loop.stop()
            client.cut(time.monotonic_ns())
            with anyio.move_on_after(1):
                await loop.done()
        self._tell(client)
        self._pipe.send({"ended": True})

    def _make_loop(self, client: Client, until: int) -> Loop:
        if self._plan.users is not None:
            think_s = self._plan.think.total_seconds()
            return ClosedLoop(client, users=client.limit, think_s=think_s, until=until)
        return OpenLoop(client, self._scheduled(client))

    def _scheduled(self, client: Client, since: int = 0) -> Iterator[int]:
        """The times of this generator's requests. To ask for the first that is measured ends the warm-up."""
        for time_ns in share(self._plan, self._directory, self._part, since=since):
            if not self._is_warm and time_ns >= self._warm_ns:
                self._end_warmup(client)
            yield self._start + time_ns

    def _end_warmup(self, client: Client) -> None:
        """From here on it counts, to the request."""
        self._is_warm = True
        self._tell(client)
        self._second = 0

    async def _watch(self, client: Client) -> None:
        """Count what is noted, look for what takes too long, and tell about each second when it is over."""
        sweep_ns = round(self._plan.timeout.total_seconds() * 1e9 / _SWEEPS)
        swept = 0
        while True:
            await anyio.sleep(_FLUSH_S)
            now = time.monotonic_ns()
            if not self._is_warm and self._plan.users is not None and now >= self._recorder.measured_from:
                self._recorder.measured_from = now
                self._end_warmup(client)
            second = (now - self._start - self._warm_ns) // 1_000_000_000
            if self._is_warm and second > self._second:
                self._tell(client)
                self._second = second
            else:
                self._recorder.flush()
            if now - swept > sweep_ns:
                swept = now
                client.sweep(now)

    def _tell(self, client: Client) -> None:
        window = self._recorder.take(
            self._second, in_flight=client.in_flight, received=client.take_received()
        )
        self._pipe.send({"window": window.as_data()})

    async def _listen(self, client: Client, tasks: anyio.abc.TaskGroup) -> None:
        while command := await self._pipe.receive():
            if "stop" in command and self._loop is not None:
                self._loop.stop()
                self._limit.deadline = min(self._limit.deadline, anyio.current_time() + _STOP_S)
                self._recorder.measured_from = 2**63  # what is cut off now is nobody's fault
            elif "part" in command and isinstance(self._loop, OpenLoop):
                self._part = Part(*command["part"])
                since = command["since"]
                self._loop.follow(self._scheduled(client, since), since=self._start + since)
        tasks.cancel_scope.cancel()


def _allow_files(plan: LoadPlan, part: Part) -> None:
    """:raises ConfigError: if this process may not have as many connections as its part of the plan wants."""
    whole = plan.users or plan.connections
    wanted = part.share(whole) + _SPARE_FILES
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and wanted > most:
        raise ConfigError(
            f"{whole} connections need {wanted} open files a process, and {most} are allowed; "
            "raise that (ulimit -Hn), or lower connections or users",
            path=("users" if plan.users else "connections",),
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve(out_fd: int) -> None:
    pipe = _Pipe(out_fd)
    try:
        pipe.send({"hello": True})
        command = await pipe.receive()
        if command:
            gc.freeze()
            await _Agent(pipe, command).run()
    except* Exception as group:  # noqa: BLE001 - whoever started us tells it
        error = first_error(group)
        path = list(error.path) if isinstance(error, ConfigError) else None
        known = error.message if isinstance(error, ConfigError) else str(error)
        pipe.send({"failed": known if isinstance(error, WindtunnelError) else described(error), "path": path})
    await pipe.close()


def main() -> None:
    """Serve whoever started this process, until it has heard the result."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started us decides
    out_fd = os.dup(1)
    os.dup2(2, 1)  # what a user's function prints is no message of ours
    try:
        import uvloop
    except ImportError:
        asyncio.run(_serve(out_fd))
    else:
        uvloop.run(_serve(out_fd))


if __name__ == "__main__":
    try:
        main()
    finally:
        os._exit(0)  # the thread that reads would keep the interpreter until there is nothing to read
