"""Hosts that go away while something runs on them."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from tests.integration.ssh.processes import alive, directories, find, until
from tests.integration.ssh.servers import Fleet, Server, kill
from windtunnel.errors import HostFailed, HostLost, HostUnreachable
from windtunnel.services.ssh import SshService
from windtunnel.services.ssh.remote_exec import RemoteScripts

pytestmark = pytest.mark.usefixtures("openssh")


@pytest.fixture(scope="session")
def far(servers: Fleet) -> Server:
    """A server behind a link that can be cut."""
    return servers.server(behind_a_link=True)


@pytest.fixture
def marker() -> str:
    """A text that is in the environment of every process a test starts."""
    return uuid.uuid4().hex


@asynccontextmanager
async def losing(session: RemoteScripts, marker: str) -> AsyncIterator[list[HostFailed]]:
    """Runs an endless script from before the block on; gives what ended it, once the block is left."""
    ended: list[HostFailed] = []

    async def work() -> None:
        try:
            await session.run(["sleep 1000 & touch begun; sleep 1000"], env={"MARKER": marker})
        except HostFailed as exc:
            ended.append(exc)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(work)
            await until(Path(session.directory, "begun").exists)
            yield ended


async def _run_through(function: Callable[[], None]) -> None:
    await anyio.to_thread.run_sync(function)


async def test_a_cut_link_is_noticed_in_time_and_others_are_not_disturbed(
    server: Server, far: Server, tmp_path: Path, marker: str
) -> None:
    more = {"keepalive_interval": "200ms", "keepalive_count": 4, "attempts": 1, "request_timeout": "1s"}
    options = far.options(temp_dir=str(tmp_path), **more)
    hosts = {"near": server.options(), "far": options}
    try:
        async with SshService(hosts=hosts) as service, service.session("near") as near:
            async with service.session("far") as session:
                async with losing(session, marker) as ended:
                    await _run_through(far.cut)
                    cut_at = anyio.current_time()
                    while not ended:
                        assert (await near.run(["echo undisturbed"], env={})).exit_status == 0
                assert anyio.current_time() - cut_at < options.silence_s + 1
            assert isinstance(ended[0], HostLost)
            assert (ended[0].host, ended[0].doing) == ("far", "a script was running")
            with pytest.raises(HostUnreachable, match="'far'"):
                async with service.session("far"):
                    pass
            # The host has noticed nothing. When it is back, what it still runs for us is ended first.
            assert await alive(marker)
            await _run_through(far.mend)
            async with service.session("far") as session:
                await until(lambda: not find(marker))
                assert len(directories(tmp_path)) == 1
    finally:
        await _run_through(far.mend)
    assert not directories(tmp_path)


async def test_packets_that_vanish_for_a_while_lose_nothing(far: Server) -> None:
    lines: list[str] = []
    seen = anyio.Event()

    async def on_line(line: str) -> None:
        lines.append(line)
        seen.set()

    options = far.options(keepalive_interval="500ms", keepalive_count=10)
    try:
        async with SshService(hosts={"far": options}) as service, service.session("far") as session:
            there = Path(session.directory)
            script = ["seq 1 500; until [ -e gate ]; do sleep 0.02; done", "seq 501 1000; touch printed"]

            async def run() -> None:
                result = await session.run(script, env={}, on_line=on_line)
                assert result.exit_status == 0

            async with anyio.create_task_group() as group:
                group.start_soon(run)
                await seen.wait()
                await _run_through(far.cut)
                await _run_through((there / "gate").touch)
                await until((there / "printed").exists)  # and it could not arrive
                assert lines[-1] == "500"
                await _run_through(far.mend)
    finally:
        await _run_through(far.mend)
    assert lines == [str(number) for number in range(1, 1001)]


async def test_a_server_killed_in_mid_command_loses_the_host(
    servers: Fleet, tmp_path: Path, marker: str
) -> None:
    server = servers.server()
    options = server.options(temp_dir=str(tmp_path), attempts=1)
    async with SshService(hosts={"web": options}) as service, service.session("web") as session:
        async with losing(session, marker) as ended:
            # The server's processes for our connection, and the one that listens.
            kill(server.pid, *server.sessions())
        assert isinstance(ended[0], HostLost)
        with pytest.raises(HostLost):
            await session.run(["true"], env={})
        with pytest.raises(HostUnreachable):
            async with service.session("web"):
                pass
        # Nobody but the keeper is left there to end it.
        await until(lambda: not find(marker))
        await until(lambda: not directories(tmp_path))


async def test_a_new_connection_is_made_after_a_loss(server: Server, tmp_path: Path, marker: str) -> None:
    options = server.options(temp_dir=str(tmp_path))
    async with SshService(hosts={"web": options}) as service:
        async with service.session("web") as session:
            first = await _server_process(session)
            async with losing(session, marker) as ended:
                kill(first)
            assert isinstance(ended[0], HostLost)
        async with service.session("web") as session:
            assert await _server_process(session) != first
    await until(lambda: not find(marker))


async def test_a_keeper_that_is_killed_is_a_lost_host(server: Server, tmp_path: Path, marker: str) -> None:
    options = server.options(temp_dir=str(tmp_path))
    async with SshService(hosts={"web": options}) as service, service.session("web") as session:
        keepers = await _keepers(session)
        async with losing(session, marker) as ended:
            assert len(keepers) == 1
            kill(*keepers)
            await until(lambda: session._connection.is_lost)
            # A new connection is made, and its keeper ends what the other one guarded.
            async with service.session("web"):
                assert not await alive(marker)
        assert "has ended" in str(ended[0])
    assert not directories(tmp_path)


async def test_what_a_killed_keeper_guarded_ends_with_the_connection(
    server: Server, tmp_path: Path, marker: str
) -> None:
    options = server.options(temp_dir=str(tmp_path))
    async with SshService(hosts={"web": options}) as service, service.session("web") as session:
        keepers = await _keepers(session)
        async with losing(session, marker) as ended:
            kill(*keepers)
            await until(lambda: session._connection.is_lost)
            assert await alive(marker)
            await service.__aexit__(None, None, None)
        assert isinstance(ended[0], HostLost)
    assert not await alive(marker)
    assert not directories(tmp_path)


async def _runner(session: RemoteScripts) -> int:
    """The shell that has started the newest script."""
    return int((await session.run(["echo $PPID"], env={})).stdout.text)


async def _server_process(session: RemoteScripts) -> int:
    """The process of the server for the session's connection."""
    return _parent_and_command(str(await _runner(session)))[0]


async def _keepers(session: RemoteScripts) -> list[int]:
    """The shells that the server runs for it and that start no scripts."""
    runner, server = await _runner(session), await _server_process(session)
    pids = filter(str.isdecimal, os.listdir("/proc"))
    shells = [int(pid) for pid in pids if _parent_and_command(pid) == (server, b"/bin/sh\0-s\0")]
    return [pid for pid in shells if pid != runner]


def _parent_and_command(pid: str) -> tuple[int, bytes]:
    try:
        stat = Path("/proc", pid, "stat").read_text()
        return int(stat.rpartition(")")[2].split()[1]), Path("/proc", pid, "cmdline").read_bytes()
    except OSError:
        return 0, b""
