"""Starts and stops hosts through their operating system, and asks them what they are."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import anyio

from windtunnel.errors import HostFailed, HostKeyRefused, HostLost, HostUnreachable
from windtunnel.protocols import HostFacts, LocalExec, ScriptResult
from windtunnel.services.ssh.connection import Connection
from windtunnel.services.ssh.options import HostOpsOptions
from windtunnel.services.ssh.pipes import Pipe, PipeSessions, pool_of
from windtunnel.services.ssh.remote_exec import SshService

__all__ = ["SshHostOps"]

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0
_ANSWER_LIMIT_S = 20.0
_PROBES = 4
_MOST_LINES = 100

R = TypeVar("R")

_BOOT_ID = """\
cat -- "$path" 2>/dev/null || sysctl -n kern.bootsessionuuid 2>/dev/null || sysctl -n kern.boottime ||
    fail 'it does not tell when it was booted'
"""

_FACTS = """\
tell() { if [ -n "$2" ]; then printf '%s %s\\n' "$1" "$2"; fi; }
set -- $(uname -srm)
tell kernel "$2"
tell architecture "$3"
if [ -r /etc/os-release ]; then . /etc/os-release; fi
tell os "${PRETTY_NAME:-$1}"
cpu=$(sed -n '/^model name/{s/^[^:]*: *//p;q;}' /proc/cpuinfo 2>/dev/null)
tell cpu "${cpu:-$(sysctl -n machdep.cpu.brand_string 2>/dev/null)}"
tell cpus "$(getconf _NPROCESSORS_ONLN 2>/dev/null)"
if [ -r /proc/meminfo ]; then read -r _ kilobytes _ </proc/meminfo; fi
tell memory "${kilobytes:+${kilobytes}000}"
if [ -r "$path" ]; then read -r boot <"$path"; else boot=$(sysctl -n kern.bootsessionuuid 2>/dev/null); fi
tell boot_id "$boot"
echo end
while read -r _; do date +%s.%N; done
"""


class SshHostOps:
    """Hosts that have an SSH server; implements ``HostOps``.

    :param local: runs the commands that start hosts.
    :param options: of a host that is not in ``hosts``.
    :param hosts: name → options.
    """

    def __init__(
        self,
        service: SshService,
        local: LocalExec,
        *,
        options: HostOpsOptions | None = None,
        hosts: Mapping[str, HostOpsOptions] | None = None,
    ) -> None:
        self._service = service
        self._local = local
        self._default = options or HostOpsOptions()
        self._hosts = dict(hosts or {})
        self._sessions = PipeSessions(service)
        self._told: dict[str, Connection] = {}

    def _options(self, host: str) -> HostOpsOptions:
        return self._hosts.get(host, self._default)

    async def start(self, host: str) -> None:
        with suppress(HostUnreachable, HostLost):
            await self.boot_id(host)
            return
        command, limit = self._options(host).start_command, self._options(host).boot_timeout
        if command is None:
            raise HostFailed(host, "it does not answer, and there is no start_command to start it with")
        with anyio.move_on_after(limit.total_seconds()) as scope:
            async with self._local.session() as session:
                result = await session.run([command], env={"HOST": host}, cwd=Path())
                _check(host, "start", command, result)
        if scope.cancelled_caught:
            raise HostFailed(host, f"cannot start it: {command!r} did not end within {limit}")
        await self.wait_until_reachable(host)

    async def stop(self, host: str) -> None:
        options = self._options(host)
        with anyio.move_on_after(options.boot_timeout.total_seconds()):
            await self._command(host, "stop", options.stop_command or _as_root("shutdown -h now"))
            await _repeat(lambda: self._is_gone(host))
            return
        raise HostFailed(host, f"it was stopped, and still answers after {options.boot_timeout}")

    async def reboot(self, host: str, *, wait: bool = True) -> None:
        options = self._options(host)
        before = await self.boot_id(host)
        with anyio.move_on_after(options.boot_timeout.total_seconds()) as scope:
            await self._command(host, "reboot", options.reboot_command or _as_root("shutdown -r now"))
        if scope.cancelled_caught:
            raise HostFailed(host, f"the command to reboot it did not end within {options.boot_timeout}")
        if wait:
            await self.wait_until_reachable(host, booted_since=before)

    async def wait_until_reachable(
        self, host: str, *, timeout: timedelta | None = None, booted_since: str | None = None
    ) -> None:
        limit = self._options(host).boot_timeout if timeout is None else timeout
        why = "it did not answer"

        async def try_once() -> bool:
            nonlocal why
            try:
                found = await self.boot_id(host)
            except HostKeyRefused:
                raise
            except HostFailed as exc:  # a login too may be refused while it boots
                why = exc.reason
                return False
            why = "it has not booted since"
            return found != booted_since

        with anyio.move_on_after(limit.total_seconds()):
            await _repeat(try_once)
            return
        raise HostUnreachable(host, f"it was not ready within {limit}: {why}", passing=True)

    async def boot_id(self, host: str) -> str:
        return await self._ask(host, _BOOT_ID, _first_line)

    async def facts(self, host: str) -> HostFacts:
        facts = await self._ask(host, _FACTS, _read_facts)
        connection = await pool_of(self._service).connection(host)
        version = connection.ssh.get_extra_info("server_version")
        return HostFacts(**{**facts, "server": version})

    async def news(self, host: str) -> HostFacts | None:
        """``facts``, if we have connected to the host since this was last asked; makes no connection.

        :raises HostFailed: if it does not tell; that is no news next time.
        """
        connection = pool_of(self._service).connected(host)
        if connection is None or self._told.get(host) is connection:
            return None
        self._told[host] = connection
        return await self.facts(host)

    async def _ask(self, host: str, program: str, read: Callable[[Pipe], Awaitable[R]]) -> R:
        session = await self._sessions.session(host)
        values = {"path": self._options(host).boot_id_path}
        with anyio.move_on_after(_ANSWER_LIMIT_S):
            async with session.open(program, values, doing="it was asked what it is") as pipe:
                result = await read(pipe)
            if pipe.status != 0:
                raise HostFailed(host, pipe.said or f"it does not tell, status {pipe.status}")
            return result
        raise HostUnreachable(host, f"it did not tell what it is within {_ANSWER_LIMIT_S:g} s", passing=True)

    async def _command(self, host: str, what: str, command: str) -> None:
        with suppress(HostLost):  # it did as it was told
            async with self._service.session(host) as session:
                _check(host, what, command, await session.run([command], env={"HOST": host}))

    async def _is_gone(self, host: str) -> bool:
        try:
            await self.boot_id(host)
        except (HostUnreachable, HostLost):
            return True
        return False


def _as_root(command: str) -> str:
    return f'if [ "$(id -u)" = 0 ]; then {command}; else sudo -n {command}; fi'


def _check(host: str, what: str, command: str, result: ScriptResult) -> None:
    if result.exit_status > 0:
        said = (result.stderr.text or result.stdout.text).strip() or "it said nothing"
        raise HostFailed(
            host, f"cannot {what} it: {command!r} ended with status {result.exit_status}: {said}"
        )


async def _repeat(try_once: Callable[[], Awaitable[bool]]) -> None:
    """Until it succeeds, with growing pauses."""
    pause = _FIRST_PAUSE_S
    while not await try_once():
        await anyio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


async def _first_line(pipe: Pipe) -> str:
    return (await pipe.line() or "").strip()


async def _read_facts(pipe: Pipe) -> dict[str, str | int | float]:
    """Fields of ``HostFacts``."""
    facts: dict[str, str | int | float] = {}
    for _ in range(_MOST_LINES):
        if (line := await pipe.line()) in (None, "end"):
            break
        name, _, value = (line or "").partition(" ")
        if name in HostFacts.__dataclass_fields__:  # else it is the rest of a value of several lines
            facts[name] = int(value) if name in ("cpus", "memory") and value.isdecimal() else value
    if isinstance(memory := facts.get("memory"), int):
        facts["memory"] = memory // 1000 * 1024
    facts |= await _clock(pipe)
    pipe.end_input()
    return facts


async def _clock(pipe: Pipe) -> dict[str, float]:
    """Ask for the time again and again; the shortest round trip knows it best, as in RFC 5905."""
    best: dict[str, float] = {}
    for _ in range(_PROBES):
        sent, began = time.time(), time.perf_counter()
        await pipe.send(b"\n")
        line = await pipe.line()
        latency = time.perf_counter() - began
        seconds, _, fraction = (line or "").partition(".")
        if not seconds.isdecimal():
            break
        is_exact = fraction.isdecimal()  # not every date knows parts of a second
        there = float(f"{seconds}.{fraction}") if is_exact else int(seconds) + 0.5
        if not best or latency < best["latency"]:
            best = {
                "clock_offset": there - (sent + latency / 2),
                "clock_error": latency / 2 + (0.0 if is_exact else 0.5),
                "latency": latency,
            }
    return best
