"""The option that says which hosts one trial takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, StringConstraints, model_validator
from pydantic.json_schema import JsonSchemaValue

from windtunnel.errors import ConfigError
from windtunnel.options import ONE_OR_MORE, Count, Options
from windtunnel.scheduling.requests import MOST_ROLES, Request, Role, shortage
from windtunnel.scheduling.slots import Host
from windtunnel.texts import many

__all__ = ["HostsPerTrial", "Labels", "RoleConfig", "as_request", "check_hosts"]


def _listed(value: object) -> object:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else value


Label = Annotated[str, StringConstraints(pattern=r"^[\w.:-]+$")]
Labels = Annotated[tuple[Label, ...], BeforeValidator(_listed), ONE_OR_MORE]
"""A label or a list of them."""


class RoleConfig(Options):
    """Hosts that do the same thing in a trial. A number is short for ``count``."""

    count: Annotated[Count, Field(le=1000)] = Field(default=1, description="how many; default 1")
    labels: Labels = Field(default=(), description="all of which each has; default any host will do")

    short_form: ClassVar[JsonSchemaValue | None] = {
        "anyOf": [{"type": "integer", "minimum": 1, "maximum": 1000}, {"type": "null"}]
    }

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: object) -> object:
        if value is None:
            return {}
        return {"count": value} if isinstance(value, int) and not isinstance(value, bool) else value


RoleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
HostsPerTrial = Annotated[dict[RoleName, RoleConfig], Field(min_length=1, max_length=MOST_ROLES)]
"""Role → its hosts; each host of a trial is another one."""


def as_request(roles: Mapping[str, RoleConfig] | None) -> Request | None:
    """The same, as the engine takes it; None if a trial takes any one host."""
    if roles is None:
        return None
    return Request({name: Role(role.count, frozenset(role.labels)) for name, role in roles.items()})


def check_hosts(request: Request, hosts: Sequence[Host]) -> None:
    """:raises ConfigError: if there are not enough hosts for a single trial."""
    lack = shortage(request, ((host.labels, host.slots) for host in hosts))
    if lack is None:
        return
    names, found = lack
    roles = [request.roles[name] for name in names]
    needed = sum(role.count for role in roles)
    kinds = [" and ".join(sorted(role.labels)) for role in roles]
    which = f" labelled {' or '.join(dict.fromkeys(kinds))}" if all(kinds) else ""
    message = f"expected {many(needed, 'host')}{which}"
    if len(names) == 1:
        raise ConfigError(f"{message}, found {found} among hosts", path=("hosts_per_trial", *names))
    together = f"{message} for {' and '.join(names)} together"
    raise ConfigError(f"{together}, found {found} among hosts", path=("hosts_per_trial",))
