"""Generators on other hosts: a host's own windtunnel if it is of our version, otherwise a copy of ours."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from windtunnel.errors import ConfigError, LoadFailed
from windtunnel.loadgen.bundle import bundle, identity
from windtunnel.loadgen.generator import Generator, generator
from windtunnel.loadgen.plan import LoadPlan, files_of, with_files
from windtunnel.protocols import FileShare, RemoteExec, RemotePipes, RemoteSession, Services

__all__ = ["OtherHost"]

_MOST_WORKERS = 6
"""On one host: each has a channel of the one connection, and OpenSSH grants ten."""
_PROBE = """\
import json, os, sys, sysconfig
try:
    from importlib.metadata import version
    from importlib.util import find_spec
    found = version("windtunnel") if find_spec("windtunnel") and find_spec("httptools") else None
except Exception:
    found = None
folder = os.path.expanduser(sys.argv[1])
print(json.dumps({
    "abi": sysconfig.get_config_var("SOABI"), "python": sys.version.split()[0], "version": found,
    "folder": folder, "is_there": os.path.isdir(folder),
}))
"""
_SCRIPT = 'cd -- "$place" && "$python" $flag "$agent"\n'
_START_LIMIT_S = 60.0
_REMOVE_LIMIT_S = 20.0


class OtherHost:
    """Generators on a host, which end with us or with the connection.

    :param services: have ``RemoteExec``, ``RemotePipes`` and ``FileShare``.
    """

    def __init__(self, host: str, services: Services) -> None:
        self.host = host
        self._exec = services.get(RemoteExec)  # type: ignore[type-abstract]  # a protocol is its own key
        self._pipes = services.get(RemotePipes)  # type: ignore[type-abstract]
        self._files = services.get(FileShare)  # type: ignore[type-abstract]

    @contextlib.asynccontextmanager
    async def generators(
        self, plan: LoadPlan, raw: Mapping[str, Any], directory: Path
    ) -> AsyncIterator[list[Generator]]:
        if plan.workers > _MOST_WORKERS:
            raise ConfigError(
                f"expected at most {_MOST_WORKERS} workers on another host, found {plan.workers}",
                path=("workers",),
            )
        async with self._exec.session(self.host) as session, contextlib.AsyncExitStack() as stack:
            flag, agent = await self._agent(session, plan.python)
            moved = await self._copied(plan, directory, session)
            order = {"plan": with_files(raw, moved), "directory": session.directory}
            values = {"place": session.directory, "python": plan.python, "flag": flag, "agent": agent}
            found: list[Generator] = []
            with anyio.move_on_after(_START_LIMIT_S):
                for name in self._names(plan.workers):
                    program = self._pipes.program(self.host, _SCRIPT, values)
                    found.append(await stack.enter_async_context(generator(name, self.host, program, order)))
            if len(found) < plan.workers:
                raise LoadFailed(
                    f"host {self.host!r}: {len(found)} of {plan.workers} workers began within "
                    f"{_START_LIMIT_S:g} s; each needs one of the connection's channels"
                )
            yield found

    def _names(self, count: int) -> list[str]:
        return [self.host] if count == 1 else [f"{self.host} worker {number + 1}" for number in range(count)]

    async def _agent(self, session: RemoteSession, python: str) -> tuple[str, str]:
        """The arguments with which Python there is a generator."""
        ours = await anyio.to_thread.run_sync(identity)
        folder = f"~/.cache/windtunnel/generator-{ours.digest}"
        line = f"{shlex.quote(python)} -c {shlex.quote(_PROBE)} {shlex.quote(folder)}"
        result = await session.run([line], env={})
        told = result.stdout.text.strip().rpartition("\n")[2]
        if result.exit_status != 0 or not told.startswith("{"):
            said = (result.stderr.text or result.stdout.text).strip().splitlines()
            raise LoadFailed(
                f"host {self.host!r}: no generator can run there: {python!r} does not work"
                f"{f' ({said[-1]})' if said else ''}; say python: PATH in the load test"
            )
        found = json.loads(told)
        if found["version"] == ours.version:
            return "-m", "windtunnel.loadgen.agent"
        if found["abi"] != ours.abi:
            raise LoadFailed(
                f"host {self.host!r}: its Python {found['python']} ({found['abi']}) cannot run a generator "
                f"copied from here ({ours.abi}); install windtunnel[load] {ours.version} there, or say "
                "python: PATH in the load test"
            )
        if not found["is_there"]:
            await self._upload(str(found["folder"]))
        return "", str(found["folder"])

    async def _upload(self, folder: str) -> None:
        scratch = Path(await anyio.to_thread.run_sync(tempfile.mkdtemp))
        try:
            await anyio.to_thread.run_sync(bundle, scratch / "generator")
            await self._files.upload(self.host, scratch / "generator", folder)
        finally:
            with anyio.move_on_after(_REMOVE_LIMIT_S, shield=True):
                await anyio.to_thread.run_sync(shutil.rmtree, scratch, abandon_on_cancel=True)

    async def _copied(self, plan: LoadPlan, directory: Path, session: RemoteSession) -> dict[str, str]:
        """Bring the plan's files there: what each is called in the session's directory."""
        moved: dict[str, str] = {}
        for name, option in files_of(plan).items():
            if not await anyio.Path(directory, name).is_file():
                raise ConfigError(f"there is no file {name!r}", path=(option,))
            moved[name] = f"{len(moved)}/{Path(name).name}"
            await self._files.upload(self.host, directory / name, f"{session.directory}/{moved[name]}")
        return moved
