"""Stopping, starting and rebooting a machine that is one sshd and a file with its boot id."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import anyio
import pytest

import windtunnel
from tests.integration.ssh.servers import _LEASHED, Fleet, Server, _wait_listening, find_sshd, kill
from windtunnel.errors import HostFailed, HostKeyRefused, HostLost, HostUnreachable
from windtunnel.protocols import HostOps
from windtunnel.services.local_exec import LocalExecService
from windtunnel.services.ssh import SshService
from windtunnel.services.ssh.hosts import SshHostOps
from windtunnel.services.ssh.options import HostOpsOptions

CLOCK_AHEAD_S = 100


class Machine:
    """Goes down and up as the files say that its commands write to."""

    def __init__(self, servers: Fleet, folder: Path) -> None:
        self.folder = folder
        self.boots = 0
        tools = folder / "tools"
        tools.mkdir()
        date = tools / "date"
        date.write_text(f'#!/bin/sh\nPATH=/usr/bin:/bin\nexec date -d "+{CLOCK_AHEAD_S} seconds" "$@"\n')
        date.chmod(0o755)
        self.server = servers.server(SetEnv=f"SHLVL=2 PATH={tools}:/usr/bin:/bin:/usr/sbin:/sbin")
        self.switch = folder / "switch"
        os.mkfifo(self.switch)
        self._booted()

    def options(self, **more: object) -> HostOpsOptions:
        given = {
            # As a machine does: the command ends with everything else, if at all.
            "stop_command": f"echo off >{self.switch}; sleep 1000",
            "reboot_command": f"echo reboot >{self.switch}; exit 0",
            "start_command": f'test "$HOST" = web && echo on >{self.switch}',
            "boot_id_path": str(self.folder / "boot id"),
            "boot_timeout": "15s",
            **more,
        }
        return HostOpsOptions.model_validate(given)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(partial(anyio.to_thread.run_sync, self.serve))
            try:
                yield
            finally:
                with anyio.CancelScope(shield=True):  # it reads, or has failed
                    await anyio.to_thread.run_sync(self.end)

    def end(self) -> None:
        with suppress(OSError):
            os.close(os.open(self.switch, os.O_WRONLY | os.O_NONBLOCK))

    def serve(self) -> None:
        """Do what is wanted until nothing is."""
        while True:
            wanted = self.switch.read_text().strip()
            if not wanted:
                return
            if wanted in ("off", "reboot"):
                kill(self.server.pid, *self.server.sessions())
            if wanted in ("on", "reboot"):
                self._boot()

    def _boot(self) -> None:
        server, sshd = self.server, find_sshd()
        command = ["sh", "-c", _LEASHED, "sh", str(sshd), "-D", "-f", str(server.folder / "config")]
        leash = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert leash.stdout is not None
        server.stop()
        server.pid, server.leash = int(leash.stdout.readline()), leash
        leash.stdout.close()
        leash.wait()
        self._booted()
        _wait_listening(server)

    def _booted(self) -> None:
        self.boots += 1
        (self.folder / "boot id").write_text(f"boot {self.boots}\n")


@pytest.fixture
def machine(servers: Fleet, tmp_path: Path) -> Machine:
    return Machine(servers, tmp_path)


@pytest.fixture
async def web(machine: Machine) -> AsyncIterator[SshService]:
    async with SshService(hosts={"web": machine.server.options(attempts=1)}) as service:
        yield service


def host_ops(service: SshService, options: HostOpsOptions | None = None) -> SshHostOps:
    return SshHostOps(service, LocalExecService(), hosts={"web": options or HostOpsOptions()})


def test_it_is_a_host_ops() -> None:
    assert isinstance(host_ops(SshService()), HostOps)


async def test_a_machine_reboots_stops_and_starts(machine: Machine, web: SshService) -> None:
    ops = host_ops(web, machine.options())
    async with machine.running():
        assert await ops.boot_id("web") == "boot 1"
        async with web.session("web") as session:
            await ops.reboot("web")
            assert await ops.boot_id("web") == "boot 2"
            with pytest.raises(HostLost):
                await session.run(["true"], env={})
        await ops.stop("web")
        with pytest.raises(HostUnreachable, match="'web'"):
            await ops.boot_id("web")
        await ops.start("web")
        assert await ops.boot_id("web") == "boot 3"
    await ops.start("web")  # it is, so nothing is done
    assert machine.boots == 3


async def test_a_machine_that_does_not_boot_says_so(machine: Machine, web: SshService) -> None:
    options = machine.options(reboot_command="true", boot_timeout="300ms")
    with pytest.raises(HostUnreachable, match=r"'web'.*not ready within 0:00:00.3.*has not booted"):
        await host_ops(web, options).reboot("web")
    with pytest.raises(HostFailed, match=r"'web': it was stopped, and still answers"):
        await host_ops(web, machine.options(stop_command="true", boot_timeout="300ms")).stop("web")
    for what in ("reboot", "stop"):
        options = machine.options(**{f"{what}_command": "echo not allowed >&2; exit 7"})
        with pytest.raises(HostFailed, match=rf"'web': cannot {what} it: .* status 7: not allowed"):
            await getattr(host_ops(web, options), what)("web")


async def test_a_machine_that_is_off_needs_a_command(machine: Machine) -> None:
    kill(machine.server.pid)
    async with SshService(hosts={"web": machine.server.options(attempts=1)}) as service:
        with pytest.raises(HostFailed, match=r"'web': it does not answer, and there is no start_command"):
            await host_ops(service).start("web")
        with pytest.raises(HostFailed, match=r"'web': cannot start it: 'false' ended with status 1"):
            await host_ops(service, machine.options(start_command="false")).start("web")
        with pytest.raises(HostUnreachable, match=r"not ready within 0:00:00.2.*cannot connect"):
            await host_ops(service).wait_until_reachable("web", timeout=timedelta(seconds=0.2))


async def test_another_host_key_after_a_boot_is_refused_at_once(server: Server, tmp_path: Path) -> None:
    async with SshService(hosts={"web": server.options(known_hosts=tmp_path / "none")}) as service:
        with anyio.fail_after(5), pytest.raises(HostKeyRefused, match="'web'"):
            await host_ops(service).wait_until_reachable("web")


async def test_facts(machine: Machine, web: SshService) -> None:
    ops = host_ops(web, machine.options())
    before = time.time()
    facts = await ops.facts("web")
    assert (facts.kernel, facts.architecture) == (platform.release(), platform.machine())
    assert (facts.cpus, facts.boot_id) == (os.cpu_count(), "boot 1")
    assert facts.memory == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert facts.os
    assert facts.server
    assert facts.server.startswith("SSH-2.0-OpenSSH")
    assert facts.clock_offset is not None
    assert facts.clock_error is not None
    assert facts.latency is not None
    assert 0 < facts.latency < time.time() - before
    assert abs(facts.clock_offset - CLOCK_AHEAD_S) <= facts.clock_error + 0.001
    assert facts.clock_error < 1


@pytest.mark.timeout(60)
async def test_a_trial_starts_its_host_as_the_file_says(machine: Machine, tmp_path: Path) -> None:
    """One composite with a child that starts the host, one that runs there, and one that runs here."""
    server = machine.server
    scripts = {"results_stdout_pattern": r"^(?P<metric>\w+): (?P<value>\S+)$"}
    description = {
        "experiment": "e",
        "objectives": {"there": "min"},
        "trials": 1,
        "storage": f"sqlite:///{tmp_path / 'e.db'}",
        "hosts": [
            {
                "name": "web",
                "address": server.address,
                "port": server.port,
                "key": str(server.key),
                "known_hosts": str(server.known_hosts),
                "ssh_config": False,
                "attempts": 1,
                "power": machine.options().model_dump(),
            }
        ],
        "environment": {
            "class": "CompositeEnv",
            "config": {
                "children": [
                    {"class": "HostEnv", "config": {"on_teardown": "stop"}},
                    {"class": "RemoteEnv", "config": {**scripts, "run": ["echo there: ${#SSH_CONNECTION}"]}},
                    {"class": "LocalEnv", "config": {**scripts, "run": ["echo here: ${#SSH_CONNECTION}"]}},
                ]
            },
        },
    }
    kill(server.pid)
    async with machine.running():
        summary = await windtunnel.run(description)
    assert (summary.succeeded, machine.boots) == (1, 2)
    assert summary.best is not None
    assert summary.best.metrics is not None
    assert summary.best.metrics["there"] > 0
    assert summary.best.metrics["here"] == 0
    async with SshService(hosts={"web": server.options(attempts=1)}) as service:
        with pytest.raises(HostUnreachable):
            await host_ops(service).boot_id("web")
