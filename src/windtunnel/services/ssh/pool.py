"""The connections to all hosts: one each, made when somebody needs it."""

from __future__ import annotations

import hashlib
import random
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio
import asyncssh

from windtunnel.errors import ConfigError, HostFailed, HostLost, HostUnreachable
from windtunnel.options import nearest
from windtunnel.services.ssh.connecting import Connector
from windtunnel.services.ssh.connection import Connection
from windtunnel.services.ssh.options import SshOptions

__all__ = ["Pool"]

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0


@dataclass
class _Host:
    """What the pool knows of a host. The lock is held while connecting to it, and to it only."""

    name: str
    options: SshOptions
    lock: anyio.Lock = field(default_factory=anyio.Lock)
    connection: Connection | None = None
    connections: int = 0
    failures: int = 0
    failure: HostFailed | None = None


class Pool:
    """One connection for each host, shared by all who ask for it.

    :param default: how to reach a host that is not in ``hosts``; without it there are no others.
    :param at_once: how many connections are negotiated at once.
    """

    def __init__(self, default: SshOptions | None, hosts: Mapping[str, SshOptions], *, at_once: int) -> None:
        self._default = default
        self._known = dict(hosts)
        self._hosts: dict[str, _Host] = {}
        self._connector = Connector(at_once=at_once)
        self._id = uuid.uuid4().hex[:12]

    async def connection(self, name: str) -> Connection:
        """The connection to a host; connects if there is none.

        :raises HostFailed: if that does not succeed. Those who waited for the same attempt share its failure.
        :raises ConfigError: if there is no such host.
        """
        return await self._connection(self._hosts.get(name) or self._host(name), ())

    def connected(self, name: str) -> Connection | None:
        """The connection to a host if there is one now."""
        host = self._hosts.get(name)
        connection = None if host is None else host.connection
        return None if connection is None or connection.is_lost else connection

    def _host(self, name: str) -> _Host:
        options = self._known.get(name, self._default)
        if options is None:
            raise ConfigError(f"there is no host {name!r}{nearest(name, self._known)}")
        return self._hosts.setdefault(name, _Host(name, options))

    async def _connection(self, host: _Host, on_the_way: tuple[str, ...]) -> Connection:
        if host.name in on_the_way:
            raise ConfigError(f"host {host.name!r} is reached through itself: {' → '.join(on_the_way)}")
        if host.connection is not None and not host.connection.is_lost:
            return host.connection
        failures = host.failures
        async with host.lock:
            if host.connection is not None and not host.connection.is_lost:
                return host.connection
            if host.failures != failures and host.failure is not None:
                raise host.failure
            if host.connection is not None:
                await host.connection.close()
            try:
                host.connection = await self._connect(host, on_the_way)
            except HostFailed as exc:
                host.failures += 1
                host.failure = exc
                raise
            return host.connection

    async def _connect(self, host: _Host, on_the_way: tuple[str, ...]) -> Connection:
        settings = await self._connector.settings(host.name, host.options)
        attempt = 1
        while True:
            try:
                return await self._attempt(host, settings, on_the_way)
            except HostUnreachable as exc:
                if not exc.passing or attempt == host.options.attempts:
                    raise
            # Not all at the same moment again: a server that was overrun refuses logins at random.
            longest = min(_FIRST_PAUSE_S * 2 ** (attempt - 1), _LONGEST_PAUSE_S)
            await anyio.sleep(longest * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            attempt += 1

    async def _attempt(
        self, host: _Host, settings: asyncssh.SSHClientConnectionOptions, on_the_way: tuple[str, ...]
    ) -> Connection:
        tunnel = None
        jump = host.options.proxy_jump or (settings.tunnel if isinstance(settings.tunnel, str) else "")
        if jump and jump != "none":
            try:
                hop = await self._connection(self._hop(host, jump), (*on_the_way, host.name))
            except HostLost as exc:
                raise HostUnreachable(host.name, str(exc), passing=True) from exc
            tunnel = hop.ssh
        host.connections += 1
        digest = hashlib.sha256(host.name.encode()).hexdigest()[:8]
        connection = Connection(host.name, host.options, owner=f"{self._id}{digest}", serial=host.connections)
        connection.made(
            await self._connector.connect(
                host.name, host.options, settings, tunnel=tunnel, on_lost=connection.lost
            )
        )
        return connection

    def _hop(self, host: _Host, jump: str) -> _Host:
        """The last host on the way to this one; it is reached through those before it."""
        before, _, last = jump.rpartition(",")
        if last in self._known:
            return self._hosts.get(last) or self._host(last)
        match = re.fullmatch(r"(?:(.+)@)?(\[[^]]+\]|[^:@]+)(?::(\d+))?", last.strip())
        if match is None:
            raise ConfigError(f"expected [user@]host[:port] to go through, found {last!r}")
        user, address, port = match.groups()
        update = {
            "hostname": address.strip("[]"),
            "port": int(port) if port else None,
            "username": user or host.options.username,
            "proxy_jump": before or None,
            "host_key": (),
        }
        options = host.options.model_copy(update=update)
        return self._hosts.setdefault(f"{jump} ", _Host(last, options))

    async def close(self) -> None:
        """Close all connections; those that others go through at last."""
        with anyio.CancelScope(shield=True):
            hosts, self._hosts = self._hosts, {}
            named = [host for key, host in hosts.items() if key == host.name]
            for group in (named, [host for host in hosts.values() if host not in named]):
                async with anyio.create_task_group() as closing:
                    for host in group:
                        if host.connection is not None:
                            closing.start_soon(host.connection.close, name=f"closing {host.name}")
