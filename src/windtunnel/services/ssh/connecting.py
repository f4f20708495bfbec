"""Opening one connection: sockets, keys, logins, and what their failures mean."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import asyncssh
from anyio import to_thread

from windtunnel.errors import ConfigError, HostFailed, HostKeyRefused, HostUnreachable, LoginRefused
from windtunnel.services.ssh.host_keys import (
    HostKeyCheck,
    KnownHosts,
    KnownHostsFiles,
    Refusal,
    record,
    why_refused,
)
from windtunnel.services.ssh.options import SshOptions, read_secret
from windtunnel.services.ssh.wire import Wire

__all__ = ["Connector", "Keys"]

# Half the processor time of the others here: one call into OpenSSL for each packet instead of a dozen.
_CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
_THREADS = 4  # to read small files with: more of them only wait for each other
_DEFAULT_CONFIG = Path("~/.ssh/config")
_DEFAULT_KNOWN_HOSTS = (Path("~/.ssh/known_hosts"), Path("/etc/ssh/ssh_known_hosts"))


class Keys:
    """Private keys, each read and decrypted once."""

    def __init__(self) -> None:
        self._read: dict[tuple[Path, str | None], list[object]] = {}
        self._lock = anyio.Lock()

    async def load(self, host: str, options: SshOptions) -> list[object]:
        """:raises LoginRefused: if one cannot be read or decrypted."""
        found: list[object] = []
        for path in options.key:
            place = path.expanduser(), options.passphrase
            async with self._lock:
                if place not in self._read:
                    self._read[place] = await to_thread.run_sync(_read_key, host, *place)
            found += self._read[place]
        return found


def _read_key(host: str, path: Path, passphrase: str | None) -> list[object]:
    try:
        key = asyncssh.read_private_key(path, None if passphrase is None else read_secret(passphrase))
        beside = path.with_name(path.name + "-cert.pub")
        # With its certificate first, as OpenSSH does.
        return [(key, asyncssh.read_certificate(beside)), key] if beside.exists() else [key]
    except (OSError, asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as exc:
        raise LoginRefused(
            host, f"the key {str(path)!r} cannot be read: {exc}{_advice(str(exc), passphrase)}"
        ) from exc


def _advice(why: str, passphrase: str | None) -> str:
    if "passphrase" not in why.lower() and "decrypt" not in why.lower():
        return ""
    return "; its passphrase is wrong" if passphrase else "; give its passphrase: env:NAME or file:PATH"


class Connector:
    """Makes connections; knows nothing of who shares them.

    :param at_once: how many may negotiate at once. Hosts that do not answer are not among them.
    """

    def __init__(self, *, at_once: int) -> None:
        self._negotiating = anyio.CapacityLimiter(at_once)
        self._threads = anyio.CapacityLimiter(_THREADS)
        self._known_hosts = KnownHostsFiles(self._threads)
        self._keys = Keys()

    async def settings(self, host: str, options: SshOptions) -> asyncssh.SSHClientConnectionOptions:
        """What the options and the user's SSH configuration file say together.

        :raises ConfigError: if they cannot be understood.
        :raises LoginRefused: if a key or password cannot be read.
        """
        given = await self._given(host, options)

        def prepare() -> asyncssh.SSHClientConnectionOptions:
            path = _DEFAULT_CONFIG if options.ssh_config is None else options.ssh_config
            path = path and path.expanduser()
            config = [str(path)] if path and (options.ssh_config or path.exists()) else None
            if config is None:  # which may choose others
                given["encryption_algs"] = _CIPHERS
            if options.password is not None:
                given["password"] = read_secret(options.password)
            return asyncssh.SSHClientConnectionOptions(config=config, host=options.hostname or host, **given)

        try:
            return await to_thread.run_sync(prepare, limiter=self._threads)
        except (asyncssh.ConfigParseError, ValueError, OSError) as exc:
            raise ConfigError(f"cannot set up the connection to host {host!r}: {exc}") from exc

    async def _given(self, host: str, options: SshOptions) -> dict[str, Any]:
        limit_s = options.request_timeout.total_seconds()
        given: dict[str, Any] = {
            "connect_timeout": limit_s,
            "login_timeout": limit_s,
            "keepalive_interval": options.keepalive_interval.total_seconds(),
            "keepalive_count_max": options.keepalive_count,
            # Looking for these on disk is most of the cost of a connection.
            "gss_host": None,
            "x509_trusted_certs": None,
            "x509_trusted_cert_paths": [],
        }
        if options.port is not None:
            given["port"] = options.port
        if options.username is not None:
            given["username"] = options.username
        if options.key:
            given["client_keys"] = await self._keys.load(host, options)
        if options.key or not options.agent:
            given["agent_path"] = None
        return given

    async def connect(
        self,
        host: str,
        options: SshOptions,
        settings: asyncssh.SSHClientConnectionOptions,
        *,
        tunnel: asyncssh.SSHClientConnection | None,
        on_lost: Callable[[Exception | None], None],
    ) -> asyncssh.SSHClientConnection:
        """One attempt.

        :raises HostFailed: if it does not succeed.
        """
        known = await self._known_hosts.load(_known_hosts_files(options, settings))
        check = HostKeyCheck(
            known,
            pins=options.host_key,
            accept_new=options.host_keys == "accept-new",
            on_lost=on_lost,
        )
        trusted: Any = known.table
        if options.host_key:
            trusted = asyncssh.SSHKnownHosts("")
        elif options.host_keys == "off":
            trusted = None
        more = {"options": settings, "known_hosts": trusted, "client_factory": lambda: check, "config": None}
        try:
            with anyio.fail_after(options.request_timeout.total_seconds()):
                connection = await self._open(settings, tunnel, known, more)
        except (OSError, asyncssh.Error) as exc:
            raise await self._meaning(host, options, settings, known, check, exc) from exc
        if check.accepted is not None:
            await self._remember(host, options, settings, check.accepted, connection)
        return connection

    async def _open(
        self,
        settings: asyncssh.SSHClientConnectionOptions,
        tunnel: asyncssh.SSHClientConnection | None,
        known: KnownHosts,
        more: Mapping[str, Any],
    ) -> asyncssh.SSHClientConnection:
        async with AsyncExitStack() as on_failure:
            way: dict[str, Any] = {"tunnel": tunnel}
            address = ""
            if tunnel is None and not settings.proxy_command:
                sock = await _greeted_socket(settings.host, settings.port)
                on_failure.callback(sock.close)
                way["tunnel"], address = Wire(sock), sock.getpeername()[0]
            name = settings.host_key_alias or settings.host
            way["server_host_key_algs"] = known.algorithms(name, address, settings.port)
            async with self._negotiating:
                connection = await asyncssh.connect(settings.host, settings.port, **way, **more)
            on_failure.pop_all()
        return connection

    async def _meaning(
        self,
        host: str,
        options: SshOptions,
        settings: asyncssh.SSHClientConnectionOptions,
        known: KnownHosts,
        check: HostKeyCheck,
        exc: Exception,
    ) -> HostFailed:
        if isinstance(exc, asyncssh.HostKeyNotVerifiable):
            name = settings.host_key_alias or settings.host

            def explain() -> Refusal:
                return why_refused(known, name, settings.port, offered=check.offered, pins=options.host_key)

            refusal = await to_thread.run_sync(explain)
            return HostKeyRefused(host, refusal.why, state=refusal.state)
        if isinstance(exc, asyncssh.PermissionDenied):
            return LoginRefused(host, f"it refuses the login of {settings.username!r}: {exc.reason}")
        place = f"{settings.host} port {settings.port}"
        if isinstance(exc, TimeoutError):
            limit_s = options.request_timeout.total_seconds()
            return HostUnreachable(host, f"{place} did not answer within {limit_s:g} s", passing=True)
        is_unknown = isinstance(exc, socket.gaierror) and exc.errno == socket.EAI_NONAME
        why = f"cannot connect to {place}: {str(exc) or type(exc).__name__}"
        return HostUnreachable(host, why, passing=not is_unknown)

    async def _remember(
        self,
        host: str,
        options: SshOptions,
        settings: asyncssh.SSHClientConnectionOptions,
        key: asyncssh.SSHKey,
        connection: asyncssh.SSHClientConnection,
    ) -> None:
        path, name = options.known_hosts[0], settings.host_key_alias or settings.host
        reason = "another host key was recorded for it while we connected"
        try:
            if await to_thread.run_sync(record, path, name, settings.port, key):
                return
        except OSError as exc:
            reason = f"its host key cannot be added to {str(path)!r}: {exc}"
        connection.abort()
        raise HostKeyRefused(host, reason)


def _known_hosts_files(
    options: SshOptions, settings: asyncssh.SSHClientConnectionOptions
) -> tuple[Path, ...]:
    # A configuration file can name files, but not turn the check off: that takes our own option.
    named = settings.known_hosts if isinstance(settings.known_hosts, list) else []
    return options.known_hosts or tuple(Path(str(path)) for path in named) or _DEFAULT_KNOWN_HOSTS


async def _greeted_socket(host: str, port: int) -> socket.socket:
    """A connected socket on which the server has said its first word."""
    problem: OSError = OSError(f"no address for {host!r}")
    for family, place in await _places(host, port):
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, place)
            await anyio.wait_readable(sock)
        except OSError as exc:
            sock.close()
            problem = exc
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise problem


async def _places(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [(family, place) for family, _, _, _, place in found]
    return [(socket.AF_INET if address.version == 4 else socket.AF_INET6, (host, port))]
