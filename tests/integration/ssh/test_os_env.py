"""OSEnv: what it changes is changed back, whatever happens in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.integration.ssh.processes import until
from tests.integration.ssh.servers import Fleet, Server
from windtunnel.environments import CompositeEnv, OSEnv
from windtunnel.errors import ConfigError, EnvironmentFailed, HostFailed, HostLost, MissingService
from windtunnel.model import Status
from windtunnel.protocols import HostOps, LocalExec, RemoteExec, Services
from windtunnel.services.local_exec import LocalExecService
from windtunnel.services.ssh import SshService
from windtunnel.testing.environments import TRIAL, FakeHosts, torn_down
from windtunnel.tunables import TunableGroups

SERVICES = Services({LocalExec: LocalExecService()})
TUNABLES = TunableGroups(
    {
        "kernel": {
            "params": {
                "backlog": {"type": "int", "range": [1, 9999], "default": 100},
                "mode": {"type": "categorical", "values": ["always", "never"], "default": "never"},
            }
        },
        "boot": {
            "params": {"cpus": {"type": "int", "range": [0, 64], "default": 4, "meta": {"reboot": True}}}
        },
    }
)


class Machine:
    """Files that stand for the settings of a machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.write("backlog", "10")
        self.write("mode", "always")
        self.write("cmdline", "quiet\n")

    def write(self, name: str, value: str) -> None:
        (self.folder / name).write_text(value)

    def read(self, *names: str) -> list[str]:
        return [(self.folder / name).read_text() for name in names]

    def config(self, **more: Any) -> dict[str, Any]:
        files = {str(self.folder / name): f"${name}" for name in ("backlog", "mode")}
        return {"files": files, "state_dir": str(self.state), **more}

    def env(self, **more: Any) -> OSEnv:
        return OSEnv(name="os", config=self.config(**more), tunables=TUNABLES, service=SERVICES)

    def entries(self) -> list[str]:
        """What is kept of original values."""
        return sorted(os.listdir(self.state / "os" / "entries"))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


async def failed_setup(environment: OSEnv, tunables: TunableGroups = TUNABLES) -> str:
    async with torn_down(environment):
        assert not await environment.setup(tunables, TRIAL)
        assert environment.failure is not None
        return environment.failure


async def test_settings_are_changed_for_the_trial_and_then_exactly_as_before(machine: Machine) -> None:
    machine.write("mode", "always\n\n\tx")
    new = machine.folder / "it's new $(touch oops)"
    environment = machine.env(
        files={
            f"{machine.folder}/backlog": "$backlog",
            f"{machine.folder}/mode": "a 'b'\n$$(touch oops) ü $mode",
            str(new): "1",
            f"{machine.folder}/left": None,
        }
    )
    (machine.folder / "backlog").chmod(0o640)
    for value in (7, 8):
        async with torn_down(environment):
            assert await environment.setup(TUNABLES.assign({"backlog": value}), TRIAL), environment.failure
            assert machine.read("backlog", "mode") == [f"{value}\n", "a 'b'\n$(touch oops) ü never\n"]
            assert new.read_text() == "1\n"
            assert (await environment.run()).status is Status.SUCCEEDED
        assert machine.read("backlog", "mode") == ["10", "always\n\n\tx"]
        assert not new.exists()
        assert not machine.entries()
    assert (machine.folder / "backlog").stat().st_mode & 0o777 == 0o640
    assert sorted(os.listdir(machine.folder)) == ["backlog", "cmdline", "mode", "state"]


async def test_what_was_changed_before_a_failure_is_restored(machine: Machine) -> None:
    missing = f"{machine.folder}/nowhere/file"
    environment = machine.env(files={f"{machine.folder}/backlog": "$backlog", missing: "1"})
    failure = await failed_setup(environment)
    assert f"cannot set {missing} to '1'" in failure
    assert "'localhost'" in failure
    assert environment.is_clean
    assert machine.read("backlog") == ["10"]
    assert not machine.entries()


async def test_a_setting_that_does_not_exist_changes_nothing(machine: Machine) -> None:
    environment = machine.env(sysctl={"windtunnel.nothing": 1})
    assert "cannot read sysctl windtunnel.nothing" in await failed_setup(environment)
    assert machine.read("backlog") == ["10"]


async def test_restored_after_a_cancelled_set_up(machine: Machine) -> None:
    os.mkfifo(machine.folder / "gate")
    gate = {"get": "echo 1", "set": f"read x <{machine.folder}/gate", "value": "2"}
    environment = machine.env(commands={"gate": gate})
    async with anyio.create_task_group() as group:

        async def trial() -> None:
            async with torn_down(environment):
                await environment.setup(TUNABLES, TRIAL)

        group.start_soon(trial)
        await until(lambda: machine.read("backlog") == ["100\n"])
        group.cancel_scope.cancel()
    assert machine.read("backlog", "mode") == ["10", "always"]
    assert environment.is_clean


async def test_what_cannot_be_cancelled_is_waited_for(machine: Machine) -> None:
    """As a program of sudo's: it goes on in a session of its own, where nobody may end it."""
    os.mkfifo(machine.folder / "gate")
    (machine.folder / "sudo").write_text(
        '#!/bin/sh\nshift 2\nexec env -u WINDTUNNEL_SESSION setsid -w "$@"\n'
    )
    (machine.folder / "sudo").chmod(0o755)
    gate = {"get": "echo 1", "set": f"read x <{machine.folder}/gate; [ $x = 2 ]", "value": "2"}
    last = {
        "get": f"cat {machine.folder}/cmdline",
        "set": f"echo $value >{machine.folder}/cmdline",
        "value": "3",
    }
    environment = machine.env(commands={"gate": gate, "last": last}, sudo=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{machine.folder}:{os.environ['PATH']}")
        async with anyio.create_task_group() as group:
            group.start_soon(environment.setup, TUNABLES, TRIAL)
            await until(lambda: machine.read("backlog") == ["100\n"])
            group.cancel_scope.cancel()
        with pytest.MonkeyPatch.context() as impatient:
            impatient.setattr("windtunnel.environments.os_settings._PATIENCE_S", 0)
            with pytest.raises(EnvironmentFailed, match="still at work"):
                await environment.teardown()
        assert machine.read("backlog") == ["100\n"]
        await anyio.Path(machine.folder / "gate").write_text("2\n")
        await environment.teardown()
    assert machine.read("backlog", "mode", "cmdline") == ["10", "always", "quiet\n"]
    assert environment.is_clean


async def test_all_are_restored_though_one_cannot_be(machine: Machine) -> None:
    where = machine.folder / "stubborn"
    where.write_text("old\n")
    command = {
        "get": f"cat {where}",
        "set": f'[ "$value" = new ] || [ -e {where}.may ] && echo "$value" >{where}',
        "value": "new",
    }
    environment = machine.env(commands={"stubborn": command})
    assert await environment.setup(TUNABLES, TRIAL)
    with pytest.raises(EnvironmentFailed, match="not as before: stubborn; what it was is in"):
        await environment.teardown()
    assert machine.read("backlog", "mode", "stubborn") == ["10", "always", "new\n"]
    assert len(machine.entries()) == 1
    # It stays due, for this environment and for every other.
    assert "not as before: stubborn" in await _refusal(machine.env())
    where.with_suffix(".may").touch()
    await environment.teardown()
    assert machine.read("stubborn") == ["old\n"]
    assert not machine.entries()


async def _refusal(environment: OSEnv) -> str:
    assert not await environment.setup(TUNABLES, TRIAL)
    with pytest.raises(EnvironmentFailed):
        await environment.teardown()
    return environment.failure or ""


async def test_settings_that_change_each_other_are_restored(machine: Machine) -> None:
    """As vm.dirty_bytes and vm.dirty_ratio do: setting one clears the other, and none can be cleared."""
    folder = machine.folder
    pair = {
        name: {
            "get": f"cat {folder}/{name}",
            "set": f'[ "$value" != 0 ] && echo "$value" >{folder}/{name} && echo 0 >{folder}/{other}',
            "value": value,
        }
        for name, other, value in (("ratio", "bytes", "20"), ("bytes", "ratio", "4096"))
    }
    machine.write("ratio", "20\n")
    machine.write("bytes", "0\n")
    environment = machine.env(commands=pair)
    async with torn_down(environment):
        assert await environment.setup(TUNABLES, TRIAL), environment.failure
        assert machine.read("ratio", "bytes") == ["0\n", "4096\n"]
    assert machine.read("ratio", "bytes") == ["20\n", "0\n"]


_WORKER = """\
import anyio, json, sys
from windtunnel.environments import OSEnv
from windtunnel.protocols import LocalExec, RemoteExec, Services
from windtunnel.services.local_exec import LocalExecService
from windtunnel.services.ssh import SshOptions, SshService
from windtunnel.tunables import TunableGroups

async def main():
    config, tunables, ssh = json.loads(sys.argv[1])
    service = SshService(hosts={"web": SshOptions(**ssh)})
    services = Services({LocalExec: LocalExecService(), RemoteExec: service})
    tunables = TunableGroups(tunables)
    environment = OSEnv(name="os", config=config, tunables=tunables, service=services)
    trial = {"trial_id": 77, "experiment_id": "e", "host": "web"}
    assert await environment.setup(tunables, trial), environment.failure
    print("ready", flush=True)
    await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.mark.parametrize("is_local", [True, False])
async def test_what_a_killed_worker_left_is_restored_by_the_next_set_up(
    machine: Machine, server: Server, is_local: bool
) -> None:
    ssh = {
        "hostname": server.address,
        "port": server.port,
        "key": str(server.key),
        "known_hosts": str(server.known_hosts),
        "ssh_config": False,
    }
    given = json.dumps([machine.config(local=is_local), TUNABLES.definition(), ssh])
    worker = await anyio.to_thread.run_sync(
        lambda: subprocess.Popen([sys.executable, "-c", _WORKER, given], stdout=subprocess.PIPE)
    )
    assert worker.stdout is not None
    try:
        assert await anyio.to_thread.run_sync(worker.stdout.readline) == b"ready\n"
        assert machine.read("backlog", "mode") == ["100\n", "never\n"]
        # While it lives, the host is its own.
        other = machine.env()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("windtunnel.environments.os_settings._PATIENCE_S", 0)
            assert "for trial 77 of e; give the host one slot" in await failed_setup(other)
        assert machine.read("backlog") == ["100\n"]
    finally:
        worker.send_signal(signal.SIGKILL)
        await anyio.to_thread.run_sync(worker.wait)
        worker.stdout.close()
    # One that changes other settings has the old ones as they were.
    other = machine.env(files={f"{machine.folder}/cmdline": "loud"})
    async with torn_down(other):
        assert await other.setup(TUNABLES, TRIAL), other.failure
        assert machine.read("backlog", "mode", "cmdline") == ["10", "always", "loud\n"]
    assert machine.read("backlog", "mode", "cmdline") == ["10", "always", "quiet\n"]


@pytest.mark.usefixtures("openssh")
async def test_what_a_lost_connection_left_is_restored_by_the_next_set_up(
    machine: Machine, hosts: FakeHosts
) -> None:
    environment = booted(machine, hosts)
    trial = {**TRIAL, "host": "web"}
    assert await environment.setup(TUNABLES, trial), environment.failure
    async with hosts.service.session("web") as session:
        await session.run(["echo $PPID >pid"], env={})
        pid = (await session.run(["cat pid"], env={})).stdout.text
    os.kill(int(pid), signal.SIGKILL)
    with pytest.raises(HostLost):
        await environment.teardown()
    assert not environment.is_clean
    assert machine.read("backlog", "cmdline") == ["100\n", "quiet isolcpus=4\n"]
    another = machine.env(files={f"{machine.folder}/mode": "never"})
    async with torn_down(another):
        assert await another.setup(TUNABLES, trial), another.failure
        assert machine.read("backlog", "mode", "cmdline") == ["10", "never\n", "quiet\n"]
    assert machine.read("backlog", "mode", "cmdline") == ["10", "always", "quiet\n"]


@pytest.fixture(scope="session")
def apart(servers: Fleet) -> Server:
    """A server in a network namespace of its own."""
    return servers.server(behind_a_link=True)


async def test_a_sysctl_and_a_mount(apart: Server, tmp_path: Path) -> None:
    place = tmp_path / "a place"
    place.mkdir()
    await anyio.run_process(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place])
    try:
        async with SshService(hosts={"web": apart.options()}) as service:
            environment = OSEnv(
                name="os",
                config={
                    "sysctl": {"net.core.somaxconn": "$backlog", "net/ipv4/ip_local_port_range": "2000 3000"},
                    "mounts": {str(place): "noatime,size=2m"},
                    "state_dir": str(tmp_path / "state"),
                },
                tunables=TUNABLES,
                global_config={"host": "web", "host_address": apart.address},
                service=Services({RemoteExec: service}),
            )
            inside = ["nsenter", "-t", str(apart.pid), "-n", "cat"]
            files = [f"/proc/sys/net/{name}" for name in ("core/somaxconn", "ipv4/ip_local_port_range")]

            def seen() -> list[str]:
                mounts = Path("/proc/self/mounts").read_text().splitlines()
                mount = next(line for line in mounts if str(tmp_path) in line)
                sysctls = subprocess.check_output([*inside, *files], text=True).split()
                return [*sysctls, mount.split()[3]]

            before = await anyio.to_thread.run_sync(seen)
            async with torn_down(environment):
                assert await environment.setup(TUNABLES, {**TRIAL, "host": "web"}), environment.failure
                during = await anyio.to_thread.run_sync(seen)
                assert during[:3] == ["100", "2000", "3000"]
                assert "size=2048k" in during[3]
                assert "noatime" in during[3]
            assert await anyio.to_thread.run_sync(seen) == before
    finally:
        await anyio.run_process(["umount", place])


async def test_settings_are_changed_through_sudo(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a program that stands for it."""
    sudo = machine.folder / "sudo"
    sudo.write_text(f'#!/bin/sh\n[ "$1 $2" = "-n --" ] || exit 9\nshift 2\necho x >>{sudo}.log\nexec "$@"\n')
    sudo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{machine.folder}:{os.environ['PATH']}")
    environment = machine.env(sudo=True)
    async with torn_down(environment):
        assert await environment.setup(TUNABLES, TRIAL), environment.failure
        assert machine.read("backlog", "sudo.log") == ["100\n", "x\n"]
    assert machine.read("backlog", "sudo.log") == ["10", "x\nx\n"]


# Settings that take effect at boot


@pytest.fixture
async def hosts(server: Server) -> AsyncIterator[FakeHosts]:
    async with SshService(hosts={"web": server.options()}) as service:
        yield FakeHosts(service)


def booted(machine: Machine, hosts: FakeHosts) -> OSEnv:
    cmdline = f"{machine.folder}/cmdline"
    return OSEnv(
        name="os",
        config=machine.config(
            commands={
                "kernel": {
                    "get": f"cat {cmdline}",
                    "set": f'echo "$value" >{cmdline}',
                    "value": "quiet isolcpus=$cpus",
                }
            }
        ),
        tunables=TUNABLES,
        global_config={"host": "web", "host_address": "127.0.0.1"},
        service=Services({RemoteExec: hosts.service, HostOps: hosts, LocalExec: LocalExecService()}),
    )


async def test_the_host_is_booted_only_for_what_it_was_not_booted_with(
    machine: Machine, hosts: FakeHosts
) -> None:
    environment = booted(machine, hosts)
    # The files, which stand for /sys, forget at boot.
    hosts.on_reboot = lambda: machine.write("backlog", "10")
    for values, reboots in (
        ({"cpus": 4}, 1),
        ({"cpus": 4, "backlog": 200}, 1),
        ({"cpus": 5}, 2),
        ({"cpus": 5, "mode": "always"}, 2),
        ({"cpus": 4}, 3),
    ):
        tunables = TUNABLES.assign(values)
        async with torn_down(environment):
            assert await environment.setup(tunables, {**TRIAL, "host": "web"}), environment.failure
            assert hosts.calls == ["reboot web"] * reboots
            assert machine.read("backlog", "cmdline") == [
                f"{tunables['backlog']}\n",
                f"quiet isolcpus={tunables['cpus']}\n",
            ]
        assert machine.read("backlog", "cmdline") == ["10", "quiet\n"]


async def test_a_host_that_has_the_values_is_not_booted(machine: Machine, hosts: FakeHosts) -> None:
    environment = booted(machine, hosts)
    machine.write("cmdline", "quiet isolcpus=4\n")
    async with torn_down(environment):
        assert await environment.setup(TUNABLES, {**TRIAL, "host": "web"}), environment.failure
    assert hosts.calls == []


async def test_a_host_that_does_not_come_back_is_a_failed_host(machine: Machine, hosts: FakeHosts) -> None:
    environment = booted(machine, hosts)
    hosts.fail = True
    with pytest.raises(HostFailed, match="'web'"):
        await environment.setup(TUNABLES, {**TRIAL, "host": "web"})
    await environment.teardown()
    assert machine.read("backlog", "mode", "cmdline") == ["10", "always", "quiet\n"]


async def test_this_machine_is_never_booted(machine: Machine) -> None:
    command = {"get": "echo 1", "set": "true", "value": "2", "reboot": True}
    assert "is this machine" in await failed_setup(machine.env(commands={"kernel": command}))
    assert machine.read("backlog") == ["10"]


# Wrong descriptions


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sysctl": {"vm.swappiness": "$swap"}}, r"\$swap is not defined"),
        ({"sysctl": {"../x": 1}}, "expected a key such as"),
        ({"sysctl": {"a.b": [1]}}, "expected a number or a text"),
        ({"files": {"relative": 1}}, "absolute path"),
        ({"commands": {"x": {"get": "true"}}}, "missing key 'set'"),
        ({"state_dir": "here"}, "absolute path"),
        ({"reboot_groups": ["bot"]}, "did you mean 'boot'"),
    ],
)
def test_wrong_options_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OSEnv(name="os", config=config, tunables=TUNABLES, service=SERVICES)


def test_another_host_needs_a_way_there() -> None:
    remote = {"host": "web", "host_address": "10.0.0.1"}
    with pytest.raises(MissingService, match="OSEnv works on other hosts"):
        OSEnv(name="os", config={}, tunables=TUNABLES, service=SERVICES, global_config=remote)


async def test_it_is_restored_after_what_it_was_changed_for(machine: Machine) -> None:
    """A composite tears down in reverse: the scripts still find their settings."""
    seen = machine.folder / "seen"
    environment = CompositeEnv(
        name="all",
        config={
            "children": [
                {"class": "OSEnv", "config": machine.config()},
                {"class": "LocalEnv", "config": {"teardown": [f"cat {machine.folder}/backlog >{seen}"]}},
            ]
        },
        tunables=TUNABLES,
        service=SERVICES,
    )
    async with torn_down(environment):
        assert await environment.setup(TUNABLES, TRIAL), environment.failure
    assert machine.read("seen", "backlog") == ["100\n", "10"]
