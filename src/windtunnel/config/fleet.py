"""Where trials run: the hosts of a description, the services that reach them, and the environments there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from windtunnel.config.inventory import find_hosts
from windtunnel.config.load import LoadedConfig
from windtunnel.config.ranges import chosen_names
from windtunnel.config.roles import as_request, check_hosts
from windtunnel.environments import Environment
from windtunnel.errors import ConfigError
from windtunnel.protocols import FileShare, HostOps, LocalExec, RemoteExec, RemotePipes, Services
from windtunnel.scheduling.hosts import Host, Placement, Request
from windtunnel.services.local_exec import LocalExecService
from windtunnel.services.ssh.options import HostOpsOptions, SshOptions

if TYPE_CHECKING:
    from windtunnel.services.ssh.hosts import SshHostOps
    from windtunnel.services.ssh.remote_exec import SshService

__all__ = ["EnvironmentMaker", "Fleet", "find_fleet", "fleet_of", "services_of"]


class Fleet(NamedTuple):
    """The hosts of an experiment.

    :ivar request: which of them one trial takes; None for any one.
    :ivar ssh: reaches those that are other machines, once it is entered; None if none are.
    :ivar operations: starts and stops them; None likewise.
    """

    hosts: tuple[Host, ...]
    request: Request | None
    ssh: SshService | None
    operations: SshHostOps | None


def find_fleet(loaded: LoadedConfig, *, here: str, only: str | None = None) -> Fleet:
    """The hosts that the description names, or this machine. Reads inventories: call it in a thread.

    :param here: the name under which this machine is kept with the trials.
    :param only: patterns of the names of those to use; see ``chosen_names``. Default all.
    :raises ConfigError: if an inventory cannot be used, or has not enough hosts for a single trial.
    """
    config = loaded.config
    if config.hosts is None:
        if only is not None:
            raise ConfigError("--hosts chooses among hosts, and the experiment has none")
        return Fleet((Host(name=here, slots=config.concurrency),), None, None, None)
    hosts = find_hosts(config.hosts, loaded.origin.directory)
    if only is not None:
        names = chosen_names(only, [host.name for host in hosts])
        hosts = tuple(host for host in hosts if host.name in names)
    request = as_request(config.hosts_per_trial)
    if request is not None:
        check_hosts(request, hosts)
    return fleet_of(hosts, request)


def fleet_of(hosts: tuple[Host, ...], request: Request | None = None) -> Fleet:
    """These hosts with what reaches them."""
    ssh = _ssh(hosts)
    return Fleet(hosts, request, ssh, None if ssh is None else _operations(ssh, hosts))


def _ssh(hosts: Sequence[Host]) -> SshService | None:
    elsewhere = {
        host.name: host.options
        for host in hosts
        if host.address is not None and isinstance(host.options, SshOptions)
    }
    if not elsewhere:
        return None
    from windtunnel.services.ssh.remote_exec import SshService  # it takes a while to load

    return SshService(hosts=elsewhere)


def _operations(ssh: SshService, hosts: Sequence[Host]) -> SshHostOps:
    from windtunnel.services.ssh.hosts import SshHostOps

    power = {host.name: host.power for host in hosts if isinstance(host.power, HostOpsOptions)}
    return SshHostOps(ssh, LocalExecService(), hosts=power)


class EnvironmentMaker:
    """Makes the environment that a description names, for a host or for the hosts of one trial."""

    def __init__(self, loaded: LoadedConfig, fleet: Fleet) -> None:
        self._loaded = loaded
        self._request = fleet.request
        self._services = services_of(fleet)

    def for_host(self, host: Host, runner_id: int) -> Environment:
        """The environment of a slot.

        :raises ConfigError: if the description is wrong.
        """
        roles = {} if self._request is None else _role_names({role: [host] for role in self._request.roles})
        return self._make({**host.variables, **_names_of(host), **roles, "trial_runner_id": runner_id})

    def for_placement(self, placement: Placement) -> Environment:
        """The environment of a trial with several hosts: each role has its hosts' names and addresses.

        ``$server_host`` and ``$server_address`` are those of the first host of the role ``server``,
        ``$server_hosts`` and ``$server_addresses`` those of all, with commas between them.

        :raises ConfigError: if the description is wrong.
        """
        names = {**_names_of(placement.host), "trial_runner_id": placement.runner_id}
        return self._make({**names, **_role_names(placement.hosts)})

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


def services_of(fleet: Fleet) -> Services:
    """What environments may ask of these hosts."""
    services: dict[type[object], object] = {LocalExec: LocalExecService()}
    if fleet.ssh is not None and fleet.operations is not None:
        from windtunnel.services.ssh.files import SshFiles
        from windtunnel.services.ssh.pipes import SshPipes

        services |= {
            RemoteExec: fleet.ssh,
            RemotePipes: SshPipes(fleet.ssh),
            FileShare: SshFiles(fleet.ssh),
            HostOps: fleet.operations,
        }
    return Services(services)


def _names_of(host: Host) -> dict[str, object]:
    return {"host": host.name, "host_address": host.address or "localhost"}


def _role_names(roles: Mapping[str, Sequence[Host]]) -> dict[str, object]:
    names: dict[str, object] = {}
    for role, hosts in roles.items():
        addresses = [host.address or "localhost" for host in hosts]
        names[f"{role}_host"], names[f"{role}_address"] = hosts[0].name, addresses[0]
        names[f"{role}_hosts"] = ",".join(host.name for host in hosts)
        names[f"{role}_addresses"] = ",".join(addresses)
    return names
