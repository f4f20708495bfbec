"""Hosts of a tree: there each environment says its own, here the experiment has a list of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from windtunnel.config.mlos.names import escaped, references, substituted
from windtunnel.config.mlos.nodes import Node, made
from windtunnel.config.mlos.remarks import Remarks

__all__ = ["SSH_PARAMETERS", "Hosts"]

SSH_PARAMETERS = ("ssh_hostname", "ssh_port", "ssh_username", "ssh_priv_key_path")
"""Parameters of an environment that say how its host is reached."""

_OPTIONS = {
    "ssh_port": "port",
    "ssh_username": "user",
    "ssh_priv_key_path": "key",
    "ssh_known_hosts_path": "known_hosts",
    "ssh_known_hosts_file": "known_hosts",
    "ssh_keepalive_interval": "keepalive_interval",
    "ssh_request_timeout": "request_timeout",
}
_NO_HOST = "ssh_hostname is not given; name the host in const_args or with --ssh_hostname NAME"
_UNVERIFIED = "the keys of hosts are not verified, as ssh_known_hosts_path: null asks"


@dataclass(slots=True)
class _Kind:
    """Hosts that are reached in one way: one, or one for each runner.

    :ivar at: an environment that uses it.
    :ivar used_by: the configs of all of them.
    """

    hostname: str
    options: dict[str, Any]
    at: Node
    used_by: list[Node] = field(default_factory=list)


class Hosts:
    """Collects the hosts of environments.

    :param runners: how many trials run at once.
    """

    def __init__(self, runners: int, remarks: Remarks) -> None:
        self._runners = runners
        self._remarks = remarks
        self._kinds: list[_Kind] = []

    def use(self, config: Node, parameters: Mapping[str, Any], service: Node | None) -> None:
        """An environment works on the host that its parameters name.

        :param config: its config in our format, which is told the host when all are known.
        :param service: what the SSH services say; without one, our own error comes later.
        """
        if service is None:
            return
        hostname = parameters.get("ssh_hostname")
        if not hostname:
            self._remarks.refuse(config, _NO_HOST)
            return
        given = {name: parameters[name] for name in SSH_PARAMETERS[1:] if name in parameters}
        options = self._options(service, given)
        for kind in self._kinds:
            if (kind.hostname, kind.options) == (hostname, options):
                break
        else:
            kind = _Kind(str(hostname), options, config)
            self._kinds.append(kind)
        kind.used_by.append(config)

    def described(self) -> dict[str, Node]:
        """The sections ``hosts`` and ``hosts_per_trial``; tells the environments their hosts."""
        if not self._kinds:
            return {}
        at = self._kinds[0].at
        if len(self._kinds) == 1:
            return {"hosts": at.with_value(self._listed(self._kinds[0], None))}
        roles = {f"host{number}": kind for number, kind in enumerate(self._kinds, 1)}
        for role, kind in roles.items():
            for config in kind.used_by:
                config.value["host"] = config.with_value(f"${role}_host")
        hosts = [host for role, kind in roles.items() for host in self._listed(kind, role)]
        per_trial = made({role: {"labels": [role]} for role in roles}, at.place)
        return {"hosts": at.with_value(hosts), "hosts_per_trial": per_trial}

    def _listed(self, kind: _Kind, role: str | None) -> list[Node]:
        is_many = "trial_runner_id" in references(kind.hostname)
        count = self._runners if is_many else 1
        listed = []
        for number in range(1, count + 1):
            address = str(substituted(kind.hostname, {"trial_runner_id": number}.get))
            host: dict[str, Any] = {"name": self._name(kind, address), "address": address, **kind.options}
            if not is_many and self._runners > 1:
                host["slots"] = self._runners
            if role is not None:
                host["labels"] = [role]
            listed.append(made(escaped(host), kind.at.place))
        return listed

    def _name(self, kind: _Kind, address: str) -> str:
        """The address, with the port where several hosts have the address."""
        same = [other for other in self._kinds if other.hostname == kind.hostname]
        return f"{address}-{kind.options.get('port', 22)}" if len(same) > 1 else address

    def _options(self, service: Node, parameters: Mapping[str, Any]) -> dict[str, Any]:
        options: dict[str, Any] = {}
        for name, node in service.entries.items():
            if name == "ssh_known_hosts_path" and node.value is None:
                options["host_keys"] = "off"
                self._remarks.note(node, _UNVERIFIED)
            elif name in _OPTIONS and node.value is not None:
                options[_OPTIONS[name]] = node.plain()
            elif name == "ssh_shell" and node.value is not None:
                self._remarks.note(node, "ssh_shell is not used, there as here; scripts are run by /bin/sh")
            elif name not in _OPTIONS and node.value is not None:
                self._remarks.refuse(node, f"no SSH service has an option {name!r}")
        return {**options, **{_OPTIONS[name]: value for name, value in parameters.items()}}
