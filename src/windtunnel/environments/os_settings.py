"""Settings of the host's operating system, changed for a trial and changed back."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from windtunnel.environments.base import TRIAL_PARAMETERS, Environment
from windtunnel.environments.commands import Commands
from windtunnel.environments.hosts import THIS_MACHINE, remote_service
from windtunnel.environments.os_options import Described, OSOptions, described
from windtunnel.environments.os_program import GUARD, REBOOT, Setting, command
from windtunnel.environments.scripts import end_of
from windtunnel.environments.sites import LocalSite, RemoteSite, Site
from windtunnel.errors import ConfigError, EnvironmentFailed, TunableError
from windtunnel.model import RunResult, Status, utc_now
from windtunnel.options import REFERENCE, as_text, expand, nearest, shown
from windtunnel.protocols import HostOps, LocalExec, RemoteExec
from windtunnel.tunables import TunableGroups

__all__ = ["OSEnv"]

_PATIENCE_S = 5.0


class OSEnv(Environment):
    """Changes settings of an operating system and restores them at teardown.

    They are changed in the order sysctl, files, mounts, commands, and restored in reverse: all, even if one
    fails. The original values are kept on the host until then. If the trial cannot end, because this process
    or the connection is gone, the next set-up on the host restores them first. One trial at a time may use a
    host.

    Settings that take effect at boot are those that say so, and those that name a tunable of a group in
    ``reboot_groups``. The host is booted if it was not booted with their values. At teardown they are
    restored too, for the next boot, and the host is left running.

    A run of it does nothing.
    """

    options_class = OSOptions
    options: OSOptions

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._token = ""
        self._is_touched = False
        self._site: Site | None = None
        try:
            self._tunables.subgroup(self.options.reboot_groups)
        except TunableError as exc:
            raise exc.within("config", "reboot_groups") from None
        self._check_values()
        self._is_local = self._find_is_local()
        if self._is_local:
            self._services.get(LocalExec)  # type: ignore[type-abstract]  # a protocol is its own key
        else:
            remote_service(self._services, RemoteExec, asker="OSEnv")  # type: ignore[type-abstract]
            if any(map(self._is_booted, described(self.options))):
                remote_service(self._services, HostOps, asker="OSEnv")  # type: ignore[type-abstract]

    def commands(
        self, tunables: TunableGroups, global_config: Mapping[str, Any] | None = None
    ) -> list[Commands]:
        names = {**self._overlaid(global_config), **self.parameters_for(tunables, global_config)}
        settings = [f"{one.name} = {one.value}" for one in self._settings(names)]
        host = "" if self._is_local else expand(self.options.host, names, missing_ok=True)
        return [Commands(self.name, "setup", settings, {}, host)] if settings else []

    @property
    def metrics(self) -> frozenset[str] | None:
        return frozenset()

    async def _setup(self) -> None:
        self._token = secrets.token_hex(8)
        site = await self._open()
        self._is_touched = True
        settings = self._settings({**self._overlay, **self._params})
        if await self._program(site, "apply", settings) == REBOOT:
            await self._reboot(settings)
            await self._program(await self._open(), "resume", settings)

    async def _run(self) -> RunResult:
        return RunResult(Status.SUCCEEDED, utc_now(), {})

    async def _teardown(self) -> None:
        try:
            if self._is_touched:
                site = self._site if self._site and self._site.is_open else await self._open()
                await self._program(site, "restore", [])
                self._is_touched = False
        finally:
            await self._close()

    async def _open(self) -> Site:
        host = self._expand(self.options.host)
        self._site = LocalSite(self._services) if self._is_local else RemoteSite(self._services, host)
        await self._site.open()
        return self._site

    async def _close(self) -> None:
        site, self._site = self._site, None
        if site is not None:
            await site.close()

    async def _program(self, site: Site, verb: str, settings: list[Setting]) -> str:
        """The last line it printed."""
        line = command(
            verb,
            settings,
            state_dir=self.options.state_dir,
            token=self._token,
            whose=self._expand("trial $trial_id of $experiment_id"),
            digest=_digest(settings),
            patience_s=_PATIENCE_S,
            is_sudo=self.options.sudo,
        )
        result = await site.run([GUARD, line], env={})
        if result.exit_status != 0:
            said = end_of(result.stderr) or f"status {result.exit_status}"
            step = "restored" if verb == "restore" else "changed"
            host = self._expand(self.options.host)
            raise EnvironmentFailed(f"host {host!r}: its settings could not be {step}: {said}")
        return result.stdout.text.rstrip().rpartition("\n")[2]

    async def _reboot(self, settings: Sequence[Setting]) -> None:
        host = self._expand(self.options.host)
        if self._is_local:
            booted = ", ".join(setting.name for setting in settings if setting.is_booted)
            raise EnvironmentFailed(
                f"host {host!r} is this machine and would have to be booted to change {booted}; "
                f"boot it yourself with these values, or leave them alone"
            )
        await self._close()
        operations = remote_service(self._services, HostOps, asker="OSEnv")  # type: ignore[type-abstract]
        await operations.reboot(host)

    # What is to be changed

    def _settings(self, names: Mapping[str, Any]) -> list[Setting]:
        """Those of a trial that knows these names, in order.

        :raises ConfigError: if a value cannot be made.
        """
        found = []
        for one in described(self.options):
            value = self._value(one, names)
            if value is not None:
                found.append(one.setting._replace(value=value, is_booted=self._is_booted(one)))
        return found

    def _value(self, one: Described, names: Mapping[str, Any]) -> str | None:
        if not isinstance(one.value, str):
            return None if one.value is None else as_text(one.value)
        whole = REFERENCE.fullmatch(one.value)
        if whole and whole["name"] in names:
            value = names[whole["name"]]
            return None if value is None else as_text(value)
        try:
            return expand(one.value, names)
        except ConfigError as exc:
            raise exc.within("config", *one.path) from None

    def _is_booted(self, one: Described) -> bool:
        groups = self._tunables.groups
        at_boot = {
            tunable.name
            for name, group in groups.items()
            if name in self.options.reboot_groups or any(t.meta.get("reboot") for t in group.tunables)
            for tunable in group.tunables
        }
        return one.setting.is_booted or not at_boot.isdisjoint(one.references)

    def _check_values(self) -> None:
        """:raises ConfigError: if a value can never be made."""
        known = {*self._params, *self._globals, *TRIAL_PARAMETERS}
        for one in described(self.options):
            if isinstance(one.value, list | dict):
                raise ConfigError(
                    f"expected a number or a text, found {shown(one.value)}", path=("config", *one.path)
                )
            for name in sorted(one.references - known):
                message = f"${name} is not defined{nearest(name, known)}; $$ is a dollar sign"
                raise ConfigError(message, path=("config", *one.path))

    def _find_is_local(self) -> bool:
        if self.options.local is not None:
            return self.options.local
        return str(self._globals.get("host_address", THIS_MACHINE)) == THIS_MACHINE


def _digest(settings: Sequence[Setting]) -> str:
    """Of what the host is to be booted with; empty if nothing is."""
    booted = [(setting.name, setting.value) for setting in settings if setting.is_booted]
    return hashlib.sha256(json.dumps(booted).encode()).hexdigest() if booted else ""
