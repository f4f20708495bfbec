"""Which host an environment is at work on, and the services that reach it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from windtunnel.errors import ConfigError, MissingService
from windtunnel.model import Value
from windtunnel.options import nearest
from windtunnel.protocols import Services

__all__ = ["THIS_MACHINE", "hosts_of", "remote_service"]

THIS_MACHINE = "localhost"
"""The ``host_address`` of a host that needs no connection."""

P = TypeVar("P")


def hosts_of(role: str, parameters: Mapping[str, Any]) -> list[dict[str, Value]]:
    """What an environment sees on each host of a role: ``host``, ``host_address`` and ``host_index``, from 0.

    :raises ConfigError: if a trial has no such role.
    """
    names = parameters.get(f"{role}_hosts")
    if not names:
        roles = {key.removesuffix("_hosts") for key in parameters if key.endswith("_hosts")}
        hint = nearest(role, roles) or "; hosts_per_trial says which roles there are"
        raise ConfigError(f"a trial has no hosts of the role {role!r}{hint}", path=("on",))
    hosts = str(names).split(",")
    addresses = str(parameters.get(f"{role}_addresses") or names).split(",")
    return [
        {"host": host, "host_address": address, "host_index": index}
        for index, (host, address) in enumerate(zip(hosts, addresses, strict=True))
    ]


def remote_service(services: Services, protocol: type[P], *, asker: str) -> P:
    """The service that implements ``protocol`` for other hosts.

    :param asker: the class that needs it, for the error.
    :raises MissingService: if there is none.
    """
    try:
        return services.get(protocol)
    except MissingService as exc:
        raise MissingService(
            f"{asker} works on other hosts, and hosts names none that is reached over SSH ({exc})"
        ) from None
