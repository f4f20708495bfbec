"""Getting into a host, or being told exactly why not."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import asyncssh
import pytest

from tests.integration.ssh.servers import Fleet, Server, missing, write_key
from windtunnel.errors import (
    ConfigError,
    HostFailed,
    HostKeyRefused,
    HostUnreachable,
    LoginRefused,
    WindtunnelError,
)
from windtunnel.options import parse_options
from windtunnel.services.ssh import SshOptions, SshService


async def echo(options: SshOptions) -> str:
    """What a script prints on the host ``web``."""
    async with SshService(hosts={"web": options}) as service, service.session("web") as session:
        return (await session.run(["echo hello"], env={})).stdout.text


async def refusal(options: SshOptions, kind: type[WindtunnelError] = HostFailed) -> str:
    with pytest.raises(kind) as caught:
        await echo(options)
    return str(caught.value)


# What a configuration may say


def test_the_keys_of_the_predecessor_are_understood() -> None:
    options = parse_options(
        SshOptions,
        {
            "ssh_hostname": "10.0.0.1",
            "ssh_port": 2222,
            "ssh_username": "bench",
            "ssh_priv_key_path": "~/.ssh/bench",
            "ssh_known_hosts_path": None,
            "ssh_keepalive_interval": 10,
            "ssh_request_timeout": 60,
        },
    )
    assert (options.hostname, options.port, options.username) == ("10.0.0.1", 2222, "bench")
    assert (options.key, options.known_hosts) == ((Path("~/.ssh/bench"),), ())
    assert (options.keepalive_interval.seconds, options.request_timeout.seconds) == (10, 60)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"prot": 22}, "did you mean 'port'"),
        ({"port": 0}, "at least 1"),
        ({"host_keys": "accept-new"}, "needs known_hosts"),
        ({"host_keys": "off", "host_key": "SHA256:" + "x" * 43}, "one of them"),
        ({"host_key": "AAAA"}, "of a public key"),
    ],
)
def test_wrong_options_are_refused(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_options(SshOptions, raw)


def test_a_secret_itself_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_options(SshOptions, {"password": "hunter2"})
    assert "env:NAME" in str(caught.value)
    assert "hunter2" not in str(caught.value)


# Host keys


async def test_an_unknown_host_is_refused(server: Server, tmp_path: Path) -> None:
    text = await refusal(server.options(known_hosts=tmp_path / "none"), HostKeyRefused)
    assert "'web'" in text
    assert f"no line for [{server.address}]:{server.port} in '{tmp_path}/none'" in text
    assert "accept-new" in text


async def test_a_changed_host_key_is_refused_with_file_and_line(server: Server, tmp_path: Path) -> None:
    other, known = write_key(tmp_path / "other"), tmp_path / "known"
    known.write_text(f"# ours\n[{server.address}]:{server.port} {other}\n")
    before = known.read_text()
    for how in ("verify", "accept-new"):
        text = await refusal(server.options(known_hosts=known, host_keys=how), HostKeyRefused)
        assert "has changed" in text
        assert f"'{known}' line 2 has ssh-ed25519 SHA256:" in text
    assert known.read_text() == before


async def test_hosts_that_changed_places_are_refused_each_with_its_line(
    servers: Fleet, server: Server, tmp_path: Path
) -> None:
    other = servers.server()
    places = [one.known_hosts.read_text().split(None, 1)[0] for one in (server, other)]
    keys = [one.known_hosts.read_text().split(None, 1)[1] for one in (other, server)]
    known = tmp_path / "known"
    known.write_text("".join(f"{place} {key}" for place, key in zip(places, keys, strict=True)))
    for number, one in enumerate((server, other), 1):
        text = await refusal(one.options(known_hosts=known), HostKeyRefused)
        assert "has changed" in text
        assert f"'{known}' line {number} has" in text


async def test_a_key_of_another_type_is_a_changed_key(server: Server, tmp_path: Path) -> None:
    public = asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_public_key().decode()
    known = tmp_path / "known"
    known.write_text(f"[{server.address}]:{server.port} {public}")
    text = await refusal(server.options(known_hosts=known), HostKeyRefused)
    assert f"'{known}' line 1 has ecdsa-sha2-nistp256" in text


async def test_a_revoked_key_is_refused(server: Server, tmp_path: Path) -> None:
    known = tmp_path / "known"
    known.write_text(server.known_hosts.read_text() + "@revoked " + server.known_hosts.read_text())
    text = await refusal(server.options(known_hosts=known), HostKeyRefused)
    assert f"'{known}' line 2 revokes" in text


async def test_a_pinned_key_needs_no_file(server: Server, tmp_path: Path) -> None:
    public = server.known_hosts.read_text().split(None, 1)[1].strip()
    fingerprint = asyncssh.import_public_key(public).get_fingerprint()
    for pin in (public, fingerprint):
        assert await echo(server.options(known_hosts="", host_key=pin)) == "hello\n"
    other = write_key(tmp_path / "other")
    text = await refusal(server.options(host_key=other), HostKeyRefused)
    assert "pinned" in text
    assert fingerprint in text


async def test_accept_new_writes_a_project_file_once(servers: Fleet, tmp_path: Path) -> None:
    known = tmp_path / "project" / "known_hosts"
    several = [servers.server() for _ in range(2)]
    hosts = {
        f"{name}{number}": server.options(known_hosts=known, host_keys="accept-new")
        for number, server in enumerate(several)
        for name in ("a", "b")
    }

    async def visit(service: SshService, name: str) -> None:
        async with service.session(name):
            pass

    async with SshService(hosts=hosts) as service, anyio.create_task_group() as group:
        for name in hosts:
            group.start_soon(visit, service, name)
    lines = await anyio.Path(known).read_text()
    assert sorted(lines.splitlines()) == sorted(s.known_hosts.read_text().strip() for s in several)
    assert await echo(several[0].options(known_hosts=known)) == "hello\n"


async def test_accept_new_repairs_a_torn_last_line(server: Server, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    known.write_text("# no line end")
    assert await echo(server.options(known_hosts=known, host_keys="accept-new")) == "hello\n"
    assert known.read_text() == "# no line end\n" + server.known_hosts.read_text()


async def test_turning_the_check_off_warns_once(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "windtunnel"):
        assert await echo(server.options(known_hosts="/nowhere", host_keys="off")) == "hello\n"
    assert ["not verified" in record.message for record in caplog.records] == [True]


async def test_a_known_hosts_line_that_makes_no_sense_is_named(server: Server, tmp_path: Path) -> None:
    known = tmp_path / "known"
    known.write_text("\n@what host key\n")
    assert f"{known}:2" in await refusal(server.options(known_hosts=known), ConfigError)


# Keys and logins


async def test_a_wrong_key_is_refused(server: Server, tmp_path: Path) -> None:
    write_key(tmp_path / "key")
    text = await refusal(server.options(key=tmp_path / "key", username="root"), LoginRefused)
    assert "'web'" in text
    assert "'root'" in text


async def test_an_encrypted_key_asks_for_its_passphrase(
    servers: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_key(tmp_path / "key", format_name="pkcs8-pem", passphrase="hunter2")
    server = servers.server(AuthorizedKeysFile=f"{tmp_path}/key.pub")
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    monkeypatch.setenv("WRONG", "hunter3")
    assert await echo(server.options(key=tmp_path / "key", passphrase=f"file:{secret}")) == "hello\n"
    text = await refusal(server.options(key=tmp_path / "key"), LoginRefused)
    assert "give its passphrase" in text
    text = await refusal(server.options(key=tmp_path / "key", passphrase="env:WRONG"), LoginRefused)
    assert "passphrase is wrong" in text
    assert "hunter" not in text
    await refusal(server.options(key=tmp_path / "key", passphrase="env:NOT_SET"), ConfigError)
    text = await refusal(server.options(key=tmp_path / "nokey"), LoginRefused)
    assert "nokey" in text


@pytest.fixture
def agent(server: Server, tmp_path: Path) -> Iterator[Path]:
    """The socket of an agent that holds the servers' key."""
    if shutil.which("ssh-agent") is None:
        missing("NO AGENT IS ASKED: ssh-agent is not installed (apt-get install openssh-client)")
    socket = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()  # it listens
        added = ["ssh-add", "-q", str(server.key)]
        subprocess.run(added, env={**os.environ, "SSH_AUTH_SOCK": str(socket)}, check=True)
        yield socket
        running.terminate()


async def test_an_agent_is_asked_if_no_key_is_given(
    server: Server, agent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # without keys
    monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
    assert await echo(server.options(key="")) == "hello\n"
    text = await refusal(server.options(key="", agent=False), LoginRefused)
    assert "refuses the login" in text


class _PasswordServer(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return True

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return (username, password) == ("bench", "hunter2")


async def test_a_password_is_read_when_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    caplog.set_level(logging.DEBUG)
    async with asyncssh.listen("127.0.0.1", 0, server_factory=_PasswordServer, server_host_keys=[key]) as at:
        raw = {"hostname": "127.0.0.1", "port": at.get_port(), "username": "bench", "password": "env:SECRET"}
        raw |= {"host_key": key.get_fingerprint(), "ssh_config": False, "agent": False}
        options = SshOptions.model_validate(raw)
        monkeypatch.setenv("SECRET", "hunter3")
        await refusal(options, LoginRefused)
        monkeypatch.setenv("SECRET", "hunter2")
        # It lets us in, and runs nothing.
        text = await refusal(options, HostUnreachable)
        assert "lets us in" in text or "no channel" in text
    assert "hunter" not in caplog.text + repr(options)


async def test_the_users_configuration_file_is_read(server: Server, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        f"Host web\n  HostName {server.address}\n  Port {server.port}\n  IdentityFile {server.key}\n"
        f"  UserKnownHostsFile {server.known_hosts}\n"
    )
    assert await echo(SshOptions(ssh_config=config, agent=False)) == "hello\n"
    # It cannot turn the check of host keys off.
    config.write_text(config.read_text().replace(str(server.known_hosts), "none"))
    await refusal(SshOptions(ssh_config=config, agent=False), HostKeyRefused)


async def test_one_host_is_reached_through_another(servers: Fleet, server: Server, tmp_path: Path) -> None:
    inner = servers.server()
    known = tmp_path / "known"
    known.write_text(inner.known_hosts.read_text() + server.known_hosts.read_text())
    jump = f"{server.address}:{server.port}"
    through = inner.options(proxy_jump=jump, known_hosts=known)
    async with SshService(hosts={"a": through, "b": through}) as service:
        async with service.session("a") as a, service.session("b") as b:
            for session in (a, b):
                result = await session.run(["echo $SSH_CONNECTION"], env={})
                assert result.stdout.text.split()[2] == inner.address
        assert len({host.name for host in service._pool._hosts.values()}) == 3
    circle = {"a": inner.options(proxy_jump="b"), "b": inner.options(proxy_jump="a")}
    async with SshService(hosts=circle) as service:
        with pytest.raises(ConfigError, match="through itself"):
            async with service.session("a"):
                pass


async def test_the_way_through_another_host_may_stand_in_the_users_configuration_file(
    servers: Fleet, server: Server, tmp_path: Path
) -> None:
    inner, config, known = servers.server(), tmp_path / "config", tmp_path / "known"
    known.write_text(inner.known_hosts.read_text() + server.known_hosts.read_text())
    config.write_text(
        f"Host gate\n  HostName {server.address}\n  Port {server.port}\n"
        f"Host web\n  HostName {inner.address}\n  Port {inner.port}\n  ProxyJump gate\n"
        f"Host *\n  IdentityFile {server.key}\n  UserKnownHostsFile {known}\n"
    )
    async with SshService(hosts={"web": SshOptions(ssh_config=config, agent=False)}) as service:
        async with service.session("web") as session:
            result = await session.run(["echo $SSH_CONNECTION"], env={})
        assert len(service._pool._hosts) == 2, "the gate has a connection of its own"
    assert result.stdout.text.split()[2] == inner.address


# Hosts that are not there


async def test_a_name_that_nobody_knows_says_so() -> None:
    text = await refusal(
        SshOptions(hostname="no-such-host.invalid", ssh_config=False, attempts=1), HostUnreachable
    )
    assert "'web': cannot connect to no-such-host.invalid port 22" in text


async def test_a_host_nobody_named_is_a_mistake() -> None:
    async with SshService(hosts={"web": SshOptions()}) as service:
        with pytest.raises(ConfigError, match=r"'wed'.*did you mean 'web'"):
            async with service.session("wed"):
                pass


async def test_a_refused_connection_says_so(server: Server) -> None:
    text = await refusal(server.options(port=1, attempts=2), HostUnreachable)
    assert f"'web': cannot connect to {server.address} port 1" in text


async def test_a_dead_host_stalls_nobody(server: Server) -> None:
    """A host that accepts and then says nothing."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0) as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        dead = server.options(hostname="127.0.0.1", port=port, attempts=1, request_timeout="1500ms")
        hosts = {"web": server.options(), "dead": dead, "dead2": dead}
        failed: list[str] = []

        async def visit(name: str) -> None:
            with pytest.raises(HostUnreachable, match=r"did not answer within 1\.5 s"):
                async with service.session(name):
                    pass
            failed.append(name)

        # One connection is negotiated at a time, and three tasks wait for the dead hosts.
        async with (
            SshService(hosts=hosts, connects_at_once=1) as service,
            anyio.create_task_group() as group,
        ):
            for name in ("dead", "dead2", "dead"):
                group.start_soon(visit, name)
            await anyio.wait_all_tasks_blocked()
            async with service.session("web") as session:
                await session.run(["true"], env={})
            assert not failed
    assert sorted(failed) == ["dead", "dead", "dead2"]


async def test_a_server_that_drops_logins_is_tried_again(servers: Fleet) -> None:
    server = servers.server(MaxStartups=3)
    hosts = {f"h{n}": server.options(attempts=10) for n in range(8)}

    async def visit(service: SshService, name: str) -> None:
        async with service.session(name) as session:
            assert (await session.run(["echo hello"], env={})).stdout.text == "hello\n"

    async with SshService(hosts=hosts) as service, anyio.create_task_group() as group:
        for name in hosts:
            group.start_soon(visit, service, name)


@pytest.mark.parametrize("most", [2, 3])
async def test_a_server_that_refuses_channels_is_asked_for_fewer(servers: Fleet, most: int) -> None:
    server = servers.server(MaxSessions=most)
    done: list[int] = []
    async with (
        SshService(hosts={"web": server.options()}) as service,
        service.session("web") as session,
        anyio.create_task_group() as group,
    ):

        async def one(number: int) -> None:
            assert (await session.run(["sleep 0.02"], env={})).exit_status == 0
            done.append(number)

        for number in range(12):
            group.start_soon(one, number)
    assert sorted(done) == list(range(12))


async def test_a_server_that_grants_one_channel_only_is_no_use(servers: Fleet) -> None:
    server = servers.server(MaxSessions=1)
    async with SshService(hosts={"web": server.options()}) as service, service.session("web") as session:
        with pytest.raises(HostUnreachable, match="MaxSessions must be at least 2"):
            await session.run(["true"], env={})


async def test_one_connection_serves_all(server: Server) -> None:
    async with SshService(hosts={"web": server.options()}) as service:
        pids: list[str] = []

        async def visit() -> None:
            async with service.session("web") as session:
                result = await session.run(["cut -d ' ' -f 4 /proc/$PPID/stat"], env={})
                pids.append(result.stdout.text)

        async with anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(visit)
    assert len(pids) == 12
    assert len(set(pids)) == 1
    assert int(pids[0]) != os.getpid()
