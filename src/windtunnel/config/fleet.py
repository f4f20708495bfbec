"""Where trials run: the hosts of a description, the services that reach them, and the environments there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from windtunnel.config.inventory import find_hosts
from windtunnel.config.load import LoadedConfig
from windtunnel.config.roles import as_request, check_hosts
from windtunnel.environments import Environment
from windtunnel.errors import ConfigError
from windtunnel.protocols import LocalExec, RemoteExec, Services
from windtunnel.scheduling.hosts import Host, Placement, Request
from windtunnel.services.local_exec import LocalExecService
from windtunnel.services.ssh.options import SshOptions

if TYPE_CHECKING:
    from windtunnel.services.ssh.remote_exec import SshService

__all__ = ["EnvironmentMaker", "Fleet", "find_fleet"]


class Fleet(NamedTuple):
    """The hosts of an experiment.

    :ivar request: which of them one trial takes; None for any one.
    :ivar ssh: reaches those that are other machines, once it is entered; None if none are.
    """

    hosts: tuple[Host, ...]
    request: Request | None
    ssh: SshService | None


def find_fleet(loaded: LoadedConfig, *, here: str) -> Fleet:
    """The hosts that the description names, or this machine. Reads inventories: call it in a thread.

    :param here: the name under which this machine is kept with the trials.
    :raises ConfigError: if an inventory cannot be used, or has not enough hosts for a single trial.
    """
    config = loaded.config
    if config.hosts is None:
        return Fleet((Host(name=here, slots=config.concurrency),), None, None)
    hosts = find_hosts(config.hosts, loaded.origin.directory)
    request = as_request(config.hosts_per_trial)
    if request is not None:
        check_hosts(request, hosts)
    return Fleet(hosts, request, _ssh(hosts))


def _ssh(hosts: tuple[Host, ...]) -> SshService | None:
    elsewhere = {
        host.name: host.options
        for host in hosts
        if host.address is not None and isinstance(host.options, SshOptions)
    }
    if not elsewhere:
        return None
    from windtunnel.services.ssh.remote_exec import SshService  # it takes a while to load

    return SshService(hosts=elsewhere)


class EnvironmentMaker:
    """Makes the environment that a description names, for a host or for the hosts of one trial."""

    def __init__(self, loaded: LoadedConfig, fleet: Fleet) -> None:
        self._loaded = loaded
        services: dict[type[object], object] = {LocalExec: LocalExecService()}
        if fleet.ssh is not None:
            services[RemoteExec] = fleet.ssh
        self._services = Services(services)

    def for_host(self, host: Host, runner_id: int) -> Environment:
        """The environment of a slot.

        :raises ConfigError: if the description is wrong.
        """
        return self._make({**host.variables, **_names_of(host), "trial_runner_id": runner_id})

    def for_placement(self, placement: Placement) -> Environment:
        """The environment of a trial with several hosts: each role has its hosts' names and addresses.

        ``$server_host`` and ``$server_address`` are those of the first host of the role ``server``,
        ``$server_hosts`` and ``$server_addresses`` those of all, with commas between them.

        :raises ConfigError: if the description is wrong.
        """
        names: dict[str, object] = {**_names_of(placement.host), "trial_runner_id": placement.runner_id}
        for role, hosts in placement.hosts.items():
            told = [_names_of(host) for host in hosts]
            names |= {f"{role}_{name}": value for name, value in _named(told[0]).items()}
            names[f"{role}_hosts"] = ",".join(str(one["host"]) for one in told)
            names[f"{role}_addresses"] = ",".join(str(one["host_address"]) for one in told)
        return self._make(names)

    def _make(self, names: Mapping[str, object]) -> Environment:
        described = self._loaded.config.environment
        try:
            return Environment.new(
                env_name=described.name,
                class_name=described.class_name,
                config=described.config,
                global_config={**self._loaded.globals, **names},
                tunables=self._loaded.config.tunables,
                service=self._services,
            )
        except ConfigError as exc:
            raise exc.within("environment") from None


def _names_of(host: Host) -> dict[str, object]:
    return {"host": host.name, "host_address": host.address or "localhost"}


def _named(names: Mapping[str, object]) -> dict[str, object]:
    return {name.removeprefix("host_"): value for name, value in names.items()}
