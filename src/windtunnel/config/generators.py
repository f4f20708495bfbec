"""The hosts from which a load test is run: named like those of an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from windtunnel.config.fleet import fleet_of, services_of
from windtunnel.config.inventory import HostsConfig, find_hosts
from windtunnel.loadgen.generator import Place, ThisMachine
from windtunnel.loadgen.remote import OtherHost
from windtunnel.options import Options, parse_options
from windtunnel.services.ssh import SshService

__all__ = ["Generators", "find_generators"]


class _GeneratorsConfig(Options):
    generators: HostsConfig = Field(description="a list of hosts, or the path of an inventory")


class Generators(NamedTuple):
    """Where the generators of a load test are.

    :ivar ssh: reaches those on other hosts, once it is entered; None if there are none.
    """

    places: Sequence[Place]
    ssh: SshService | None = None


def find_generators(hosts: object, directory: Path) -> Generators:
    """The places that a list of hosts or the path of an inventory names; reads files.

    :param directory: where relative paths start.
    :raises ConfigError: with the path below ``generators``, or the other file and its line.
    """
    config = parse_options(_GeneratorsConfig, {"generators": hosts})
    fleet = fleet_of(find_hosts(config.generators, directory))
    services = services_of(fleet)
    places = [
        ThisMachine() if host.address is None else OtherHost(host.name, services) for host in fleet.hosts
    ]
    return Generators(places, fleet.ssh)
