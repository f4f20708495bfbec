"""Runs scripts on other hosts over SSH, and leaves none of their processes behind.

See ``shell`` for what happens on the host. A process that moves itself to another session is found and ended
too when its session ends, where the host has /proc.
"""

from __future__ import annotations

import itertools
import logging
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Self

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from windtunnel.errors import EnvironmentFailed, HostFailed, HostLost
from windtunnel.protocols import LineHandler, ScriptResult
from windtunnel.services.capture import Gathered
from windtunnel.services.ssh.channels import Channel, Ended, Runner
from windtunnel.services.ssh.connection import Connection
from windtunnel.services.ssh.options import SshOptions
from windtunnel.services.ssh.pool import Pool
from windtunnel.services.ssh.shell import script

__all__ = ["RemoteScripts", "SshService"]

logger = logging.getLogger(__name__)

_MOST_LINES = 10_000
_STOP_LIMIT_S = 5.0
_REMOVE_LIMIT_S = 20.0
_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.1


class SshService:
    """Runs scripts on hosts that have an SSH server; implements ``RemoteExec``. Enter it before use.

    :param options: how to reach a host that is not in ``hosts``.
    :param hosts: name → how to reach it.
    :param grace: how long processes get between SIGTERM and SIGKILL; default 0.5 s.
    :param capacity: bytes kept of the end of each stream, and of each line; default 64 KiB.
    :param connects_at_once: how many connections are negotiated at once; default 100.
    """

    def __init__(
        self,
        options: SshOptions | None = None,
        *,
        hosts: Mapping[str, SshOptions] | None = None,
        grace: timedelta = timedelta(seconds=0.5),
        capacity: int = 64 * 1024,
        connects_at_once: int = 100,
    ) -> None:
        self._pool = Pool(options, hosts or {}, at_once=connects_at_once)
        self._grace_s = grace.total_seconds()
        self._capacity = capacity
        self._unverified = [
            name for name, one in {"any": options, **(hosts or {})}.items() if one and one.host_keys == "off"
        ]

    async def __aenter__(self) -> Self:
        if self._unverified:
            hosts = ", ".join(self._unverified[:5]) + (" …" if len(self._unverified) > 5 else "")
            logger.warning("host keys are not verified (host: %s): anybody can pretend to be it", hosts)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.close()

    def session(self, host: str, *, shell: str | None = None) -> RemoteScripts:
        return RemoteScripts(
            self._pool, host, shell=shell or "/bin/sh", grace_s=self._grace_s, capacity=self._capacity
        )


class RemoteScripts:
    """The scripts of one trial on one host; see ``RemoteSession``. Any task may close it."""

    def __init__(self, pool: Pool, host: str, *, shell: str, grace_s: float, capacity: int) -> None:
        self._pool = pool
        self._host = host
        self._shell = shell
        self._grace_s = grace_s
        self._capacity = capacity
        self._numbers = itertools.count(1)
        self._opened: Connection | None = None
        self._number = 0
        self._last: ScriptResult | None = None
        self._held: list[Runner] = []  # by processes that its scripts have left

    @property
    def host(self) -> str:
        return self._host

    @property
    def directory(self) -> str:
        return f"{self._connection.base}/{self._number}/work"

    @property
    def last(self) -> ScriptResult | None:
        return self._last

    @property
    def _connection(self) -> Connection:
        assert self._opened is not None, "only used between entering and leaving"  # noqa: S101
        return self._opened

    async def __aenter__(self) -> Self:
        connection = await self._pool.connection(self._host)
        self._opened, self._number = connection, connection.next_session()
        try:
            answer = await connection.open_session(self._number)
        except BaseException:
            await self._leave()
            raise
        if answer != "ok":
            why = answer.removeprefix("no").strip()
            raise EnvironmentFailed(f"host {self._host!r}: cannot make a directory for the trial: {why}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._leave()

    async def run(
        self,
        lines: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None = None,
        on_line: LineHandler | None = None,
    ) -> ScriptResult:
        number = next(self._numbers)
        program = self._program(lines, env, cwd, number)
        if self._connection.is_lost:
            raise self._connection.loss("starting a script")
        await checkpoint_if_cancelled()
        runner = await self._connection.begin(program, doing="starting a script")
        stdout, stderr = Gathered(self._capacity), Gathered(self._capacity)
        try:
            await runner.read(stdout, stderr, on_line)
        finally:
            if runner.ended is None:
                await self._end(number, runner)
            self._put_away(runner)
            ended = runner.ended or Ended(runner.status or -int(signal.SIGKILL), 0, is_clean=False)
            self._last = ScriptResult(
                exit_status=ended.status,
                failed_line=ended.begun - 1 if ended.status and ended.begun else None,
                stdout=stdout.output(),
                stderr=stderr.output(),
            )
        return self._checked(runner, self._last, is_begun=ended.begun > 0 or not lines)

    def _checked(self, runner: Runner, result: ScriptResult, *, is_begun: bool) -> ScriptResult:
        if runner.ended is None:
            doing = "a script was running"
            if runner.status is not None and not self._connection.is_lost:
                raise HostLost(self._host, doing=doing, reason="the shell that waited for it has ended")
            self._connection.lost(ConnectionError("the server closed the channel and told no exit status"))
            raise self._connection.loss(doing)
        if result.exit_status < 0 and self._connection.is_lost:  # killed because we seemed to be gone
            raise self._connection.loss("a script was running")
        if result.exit_status != 0 and not is_begun:
            said = (result.stderr.text or result.stdout.text).strip() or f"status {result.exit_status}"
            raise EnvironmentFailed(f"host {self._host!r}: cannot start a script in {self._shell!r}: {said}")
        return result

    def _program(self, lines: Sequence[str], env: Mapping[str, str], cwd: str | None, number: int) -> bytes:
        if len(lines) > _MOST_LINES:
            raise EnvironmentFailed(
                f"cannot run {len(lines)} lines, the limit is {_MOST_LINES}; put them in a file"
            )
        directory = self.directory
        cwd = directory if cwd is None else cwd if cwd.startswith("/") else f"{directory}/{cwd}"
        try:
            return script(
                lines,
                env=env,
                base=self._connection.base,
                session=self._number,
                number=number,
                cwd=cwd,
                shell=self._shell,
                leader=self._connection.leader,
                token=self._connection.token,
            )
        except ValueError as exc:
            raise EnvironmentFailed(f"host {self._host!r}: cannot start a script: {exc}") from exc

    async def _end(self, number: int, channel: Channel) -> None:
        """End a script that was cut off: ask its group to end, wait for the grace, kill what is left."""
        place = f"{self._number} {number}"
        channel.forget()
        with anyio.move_on_after(_STOP_LIMIT_S + self._grace_s, shield=True), suppress(HostFailed):
            await self._wait_gone(await self._ask(f"term {place}"), f"poll {place}")
            await self._ask(f"kill {place}")
            await channel.wait_ended()

    def _put_away(self, runner: Runner) -> None:
        self._connection.put_away(runner)
        if runner.ended is not None and not runner.ended.is_clean:
            self._held.append(runner)

    async def _wait_gone(self, answer: str, poll: str) -> None:
        until, pause = anyio.current_time() + self._grace_s, _PAUSE_S
        while answer == "left" and anyio.current_time() < until:
            await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
            answer = await self._ask(poll)

    async def _ask(self, request: str) -> str:
        return await self._connection.ask(request, doing="ending a script", limit_s=_REMOVE_LIMIT_S)

    async def _leave(self) -> None:
        """End all that the session left on the host, and remove its directory."""
        connection = self._connection
        for runner in self._held:
            runner.close()
        self._held.clear()
        if connection.is_lost or not connection.base:
            return  # then the keeper there does it, or there is none
        with anyio.move_on_after(_REMOVE_LIMIT_S, shield=True) as scope:
            try:
                answer = await self._ask(f"end {self._number}")
                if answer == "left":
                    await self._wait_gone(answer, f"poll {self._number}")
                    await self._ask(f"drop {self._number}")
            except HostFailed as exc:
                logger.info("%s", exc)
        if scope.cancelled_caught:
            logger.warning("host %r: %s could not be removed in time", self._host, self.directory)
