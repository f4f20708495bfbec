"""Real OpenSSH servers for tests: on loopback addresses, or behind a link that can be cut.

Where sshd is not installed ``standin.py`` takes its place for those tests that need no setting of it; the
others are skipped. CI skips nothing: see ``missing``.

They are no children of the test process, whose children are checked after every test. A shell that reads from
us ends each of them when we end, however we do.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import asyncssh
import pytest

from windtunnel.services.ssh import SshOptions

__all__ = ["NEEDS_OPENSSH", "NO_SSHD", "Fleet", "Server", "find_sshd", "missing"]

NO_SSHD = "WINDTUNNEL_TEST_WITHOUT_SSHD"
"""Set to 1 in the environment, tests do as if sshd were not installed."""

NEEDS_OPENSSH = "NOT TESTED: it takes OpenSSH's sshd (apt-get install openssh-server)"

_START_S = 10.0
_STAND_IN = Path(__file__).with_name("standin.py")
_LEASHED = """\
exec 3<&0
(
    "$@" 3<&- </dev/null >/dev/null 2>&1 &
    echo $!
    exec >/dev/null 2>&1
    read -r _ <&3
    kill $!
) &
"""
_CONFIG = """\
HostKey {host_key}
AuthorizedKeysFile {authorized}
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication yes
PermitRootLogin yes
Subsystem sftp internal-sftp
MaxStartups 100
SetEnv SHLVL=2
"""


def find_sshd() -> str | None:
    """The server's program, if it is installed; CI installs it."""
    if os.environ.get(NO_SSHD):
        return None
    return shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")


def missing(what: str) -> NoReturn:
    """Skip a test for lack of something that can be installed, loudly; in CI fail it."""
    if os.environ.get("WINDTUNNEL_CI"):
        pytest.fail(f"{what}; CI has to have it")
    pytest.skip(what)


@dataclass
class Server:
    """A running server.

    :ivar known_hosts: a file with its key, and nothing else.
    """

    address: str
    port: int
    folder: Path
    key: Path
    known_hosts: Path
    pid: int
    leash: subprocess.Popen[bytes]
    link: str | None = None

    def options(self, **more: Any) -> SshOptions:
        """How to reach it, as fast as can be."""
        given = {
            "hostname": self.address,
            "port": self.port,
            "key": self.key,
            "known_hosts": self.known_hosts,
            "ssh_config": False,
            **more,
        }
        return SshOptions.model_validate({k: v for k, v in given.items() if v != ""})

    def cut(self) -> None:
        """Let every packet to it vanish."""
        assert self.link is not None, "it is on the loopback"
        subprocess.run(["ip", "link", "set", self.link, "down"], check=True)

    def mend(self) -> None:
        assert self.link is not None, "it is on the loopback"
        subprocess.run(["ip", "link", "set", self.link, "up"], check=True)

    def sessions(self) -> list[int]:
        """The server's own processes for its connections, one or two for each."""
        ps = subprocess.run(["ps", "-eo", "pid,ppid,comm"], capture_output=True, text=True, check=True)
        children: dict[int, list[int]] = {}
        for line in ps.stdout.splitlines()[1:]:
            pid, parent, command = line.split(None, 2)
            if command.startswith("sshd"):
                children.setdefault(int(parent), []).append(int(pid))
        found = [self.pid]
        for one in found:
            found += children.get(one, [])
        return found[1:]

    def stop(self) -> None:
        assert self.leash.stdin is not None
        self.leash.stdin.close()


@dataclass
class Fleet:
    """Starts servers; all accept one key."""

    folder: Path
    key: Path = field(init=False)
    servers: list[Server] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(2))

    def __post_init__(self) -> None:
        self.key = self.folder / "key"
        write_key(self.key)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)

    def server(self, *, behind_a_link: bool = False, **settings: object) -> Server:
        """Start one.

        :param settings: lines of its configuration.
        """
        if behind_a_link and os.geteuid() != 0:
            pytest.skip("NO LINK IS CUT: that takes root")
        if behind_a_link and shutil.which("ip") is None:
            missing("NO LINK IS CUT: that takes iproute2")
        sshd = find_sshd()
        if sshd is None and (behind_a_link or settings):
            missing(NEEDS_OPENSSH)
        number = next(self._numbers)
        folder = self.folder / f"server{number}"
        folder.mkdir()
        host_key = write_key(folder / "host_key")
        address = f"10.213.{os.getpid() % 256}.{number * 4 + 2}" if behind_a_link else f"127.0.0.{number}"
        port = 2222 if behind_a_link else _free_port(address)
        known_hosts = folder / "known_hosts"
        known_hosts.write_text(f"[{address}]:{port} {host_key}\n")
        program: list[str | Path]
        if sshd is None:
            program = [sys.executable, _STAND_IN, address, str(port), folder / "host_key", f"{self.key}.pub"]
        else:
            config = self._configured(sshd, folder, address, port, behind_a_link=behind_a_link, **settings)
            program = [sshd, "-D", "-f", config, "-E", folder / "log"]
        around = ["unshare", "-n"] if behind_a_link else []
        leash = subprocess.Popen(
            ["sh", "-c", _LEASHED, "sh", *around, *program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert leash.stdout is not None
        pid = int(leash.stdout.readline())
        leash.stdout.close()
        leash.wait()
        server = Server(address, port, folder, self.key, known_hosts, pid, leash)
        if behind_a_link:
            server.link = _link(pid, number, address)
        _wait_listening(server)
        self.servers.append(server)
        return server

    def _configured(
        self, sshd: str, folder: Path, address: str, port: int, *, behind_a_link: bool, **settings: object
    ) -> Path:
        config = folder / "config"
        lines = [f"ListenAddress {'0.0.0.0' if behind_a_link else address}:{port}\n"]
        # What stands first counts.
        lines += [f"{name} {value}\n" for name, value in settings.items()]
        lines += [_CONFIG.format(host_key=folder / "host_key", authorized=f"{self.key}.pub")]
        config.write_text("".join(lines))
        subprocess.run([sshd, "-t", "-f", config], check=True)
        if _penalises(sshd, folder):
            config.write_text("".join([*lines, "PerSourcePenalties no\n"]))
        return config

    def stop(self) -> None:
        for server in self.servers:
            server.stop()


@contextmanager
def fleet(folder: Path) -> Iterator[Fleet]:
    servers = Fleet(folder)
    try:
        yield servers
    finally:
        servers.stop()


def write_key(path: Path, **more: Any) -> str:
    """Make a key pair.

    :returns: the public key, as files have it.
    """
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(path, **more)
    path.chmod(0o600)
    key.write_public_key(f"{path}.pub")
    return " ".join(Path(f"{path}.pub").read_text().split()[:2])


def kill(*pids: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _penalises(sshd: str, folder: Path) -> bool:
    """Whether this server knows the setting; all tests come from one address."""
    trial = folder / "trial"
    trial.write_text((folder / "config").read_text() + "PerSourcePenalties no\n")
    return subprocess.run([sshd, "-t", "-f", trial], capture_output=True, check=False).returncode == 0


def _free_port(address: str) -> int:
    with socket.socket() as sock:
        sock.bind((address, 0))
        port: int = sock.getsockname()[1]
        return port


def _link(pid: int, number: int, address: str) -> str:
    """A link to the network namespace of a process; it vanishes with it."""
    name, there = f"wt{os.getpid()}n{number}"[-15:], "wt0"
    ours = address.rpartition(".")[0] + f".{int(address.rpartition('.')[2]) - 1}"
    deadline = time.monotonic() + _START_S
    while os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net"):
        assert time.monotonic() < deadline, "the namespace was not made"
        time.sleep(0.005)
    inside = ["nsenter", "-t", str(pid), "-n"]
    for command in (
        ["ip", "link", "add", name, "type", "veth", "peer", "name", there, "netns", str(pid)],
        ["ip", "addr", "add", f"{ours}/30", "dev", name],
        ["ip", "link", "set", name, "up"],
        [*inside, "ip", "addr", "add", f"{address}/30", "dev", there],
        [*inside, "ip", "link", "set", there, "up"],
    ):
        subprocess.run(command, check=True)
    return name


def _wait_listening(server: Server) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        with suppress(OSError), socket.create_connection((server.address, server.port), timeout=1) as sock:
            sock.recv(1)
            return
        log = server.folder / "log"
        assert time.monotonic() < deadline, log.read_text() if log.exists() else "it does not listen"
        time.sleep(0.01)
