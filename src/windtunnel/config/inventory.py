"""The hosts of an experiment: listed in its file, or in another file, which may be an Ansible inventory."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AliasChoices, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from windtunnel.config.ansible import AnsibleHost, parse_ini, parse_mapping
from windtunnel.config.expand import check_globals
from windtunnel.config.places import Place
from windtunnel.config.ranges import MOST_NAMES, expand_ranges
from windtunnel.config.roles import Labels
from windtunnel.errors import ConfigError
from windtunnel.options import REFERENCE, Count, Options, parse_options, shown
from windtunnel.scheduling.slots import Host
from windtunnel.services.ssh.options import HostOpsOptions, SshOptions
from windtunnel.texts import unreadable

__all__ = ["HostConfig", "HostsConfig", "find_hosts"]

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[\w:][\w.:%-]*")
_YAML = frozenset({".yaml", ".yml", ".json"})
_CONNECTION = {
    "address": ("ansible_host", "ansible_ssh_host"),
    "port": ("ansible_port", "ansible_ssh_port"),
    "user": ("ansible_user", "ansible_ssh_user"),
    "key": ("ansible_ssh_private_key_file", "ansible_private_key_file"),
}
_PASSWORDS = frozenset({"ansible_password", "ansible_ssh_pass", "ansible_ssh_password"})
_WAYS = ("ssh", "smart", "paramiko", "paramiko_ssh", "ansible.builtin.ssh")
_JUMP = re.compile(r"(?:-J\s*|ProxyJump[= ]\s*)([^\s'\"]+)")


class _PoolOptions(SshOptions):
    """What can be said of one host or of many; how to connect is said as in ``SshOptions``."""

    slots: Annotated[Count, Field(le=MOST_NAMES)] = Field(default=1, description="trials at once; default 1")
    labels: Labels = Field(default=(), description="by which trials find it; default none")
    proxy_jump: str | None = Field(
        default=None,
        validation_alias=AliasChoices("jump", "proxy_jump"),
        description="[user@]host[:port] to go through, several with commas",
    )
    power: HostOpsOptions | None = Field(default=None, description="how it is started and stopped")
    vars: dict[str, Any] = Field(default_factory=dict, description="name → value, for $name; default none")


class HostConfig(_PoolOptions):
    """A host, or as many as the ranges in its name and address give: ``node[01-64]``, ``10.0.0.[1-64]``."""

    name: str = Field(min_length=1, description="under which trials are kept")


class _Import(_PoolOptions):
    """Another file with hosts, and what counts where that file is silent."""

    ansible: Path = Field(description="an Ansible inventory, INI or YAML, or a list of hosts in YAML")

    @model_validator(mode="after")
    def _without_address(self) -> _Import:
        if self.hostname is not None:
            raise ValueError("an address belongs to one host; it cannot be given for all")
        return self


class HostsConfig(Options):
    """A list of hosts, or a file that has them: its path, or ``ansible`` and what else counts for all."""

    listed: tuple[HostConfig, ...] = ()
    imported: _Import | None = None

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        properties = handler.resolve_ref_schema(handler(core))["properties"]
        listed, (imported, _null) = properties["listed"], properties["imported"]["anyOf"]
        path = {"type": "string", "minLength": 1, "description": "path of an inventory"}
        return {"anyOf": [{"type": "array", "items": listed["items"], "minItems": 1}, path, imported]}

    @model_validator(mode="before")
    @classmethod
    def _of_either_kind(cls, value: object) -> object:
        if isinstance(value, str | Path):
            return {"imported": {"ansible": value}}
        if isinstance(value, Mapping):
            return {"imported": value}
        if not isinstance(value, list | tuple) or not value:
            raise ValueError(f"expected a list of hosts or the path of an inventory, found {shown(value)}")
        return {"listed": value}


def find_hosts(config: HostsConfig, directory: Path) -> tuple[Host, ...]:
    """All hosts, in the order in which they are written; reads the file that is imported.

    :param directory: where relative paths start; those in an imported file start where it is.
    :raises ConfigError: with the path below ``hosts``, or the other file and its line, for a host that stands
        twice, ranges that do not fit each other, or a file that cannot be used.
    """
    if config.imported is not None:
        return _without_doubles(_imported(config.imported, directory))
    found = [
        host
        for index, entry in enumerate(config.listed)
        for host in _hosts_of(entry, _connection(entry, directory), _Where(("hosts", index)))
    ]
    return _without_doubles(found)


class _Where(NamedTuple):
    """Where a host is described: a path in the experiment's file, or a line in another."""

    path: tuple[str | int, ...]
    source: str | None = None
    line: int | None = None

    def error(self, message: str, *keys: str) -> ConfigError:
        return ConfigError(message, path=(*self.path, *keys), source=self.source, line=self.line)

    def __str__(self) -> str:
        return f"in line {self.line}" if self.line else ".".join(map(str, self.path))


class _Found(NamedTuple):
    host: Host
    where: _Where


def _without_doubles(found: Sequence[_Found]) -> tuple[Host, ...]:
    names: dict[str, _Where] = {}
    addresses: dict[object, str] = {}
    for host, where in found:
        first = names.setdefault(host.name, where)
        if first is not where:
            raise where.error(f"host {host.name!r} stands twice, first {first}", "name")
        jump = host.options.proxy_jump if isinstance(host.options, SshOptions) else None
        other = addresses.setdefault((host.address, host.port or 22, jump), host.name)
        if other != host.name:
            at = "this machine" if host.address is None else f"{host.address}:{host.port or 22}"
            raise where.error(
                f"hosts {other!r} and {host.name!r} are one machine, {at}; give it slots", "name"
            )
        if len(names) > MOST_NAMES:
            raise where.error(f"expected at most {MOST_NAMES} hosts")
    return tuple(host for host, _ in found)


# One entry


def _hosts_of(entry: HostConfig, connection: Mapping[str, object], where: _Where) -> Iterator[_Found]:
    names = _expanded(entry.name, where, "name")
    addresses = names if entry.hostname is None else _expanded(entry.hostname, where, "address")
    if len(addresses) != len(names):
        raise where.error(
            f"expected as many addresses as names, found {len(addresses)} for {len(names)}", "address"
        )
    try:
        variables = check_globals(entry.vars, path=("vars",))
        options = parse_options(SshOptions, connection)
    except ConfigError as exc:
        raise where.error(exc.message, *map(str, exc.path)) from None
    for name, address in zip(names, addresses, strict=True):
        host = Host(
            name=name,
            address=address,
            port=options.port,
            user=options.username,
            slots=entry.slots,
            labels=frozenset(entry.labels),
            options=options.model_copy(update={"hostname": address}),
            power=entry.power,
            variables=variables,
        )
        yield _Found(host, where)


def _expanded(pattern: str, where: _Where, key: str) -> list[str]:
    try:
        words = expand_ranges(pattern)
    except ConfigError as exc:
        raise where.error(exc.message, key) from None
    if not _NAME.fullmatch(words[0]):
        raise where.error(f"expected letters, digits, '.', ':', '_' and '-', found {shown(words[0])}", key)
    return words


def _connection(entry: _PoolOptions, directory: Path) -> dict[str, Any]:
    """What the entry says of the connection, with paths that do not depend on where we are."""
    said = {name: getattr(entry, name) for name in SshOptions.model_fields if name in entry.model_fields_set}
    for name in ("key", "known_hosts"):
        if name in said:
            said[name] = tuple(directory / path.expanduser() for path in said[name])
    if isinstance(said.get("ssh_config"), Path):
        said["ssh_config"] = directory / said["ssh_config"].expanduser()
    for name in ("password", "passphrase"):
        kind, _, place = (said.get(name) or "").partition(":")
        if kind == "file":
            said[name] = f"file:{directory / Path(place).expanduser()}"
    return said


# Other files


def _imported(config: _Import, directory: Path) -> list[_Found]:
    path = directory / config.ansible.expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(unreadable(path, exc, "inventory"), path=("hosts",)) from None
    everywhere = _connection(config, directory)
    try:
        found = [
            host
            for entry, line in _entries(text, path)
            for host in _hosts_of(
                _with_defaults(entry, config),
                {**everywhere, **_connection(entry, path.parent)},
                _Where((), str(path), line),
            )
        ]
    except ConfigError as exc:
        exc.source = str(path)
        raise
    if not found:
        raise ConfigError("there is no host in this inventory", source=str(path))
    return found


def _with_defaults(entry: HostConfig, defaults: _Import) -> HostConfig:
    slots = entry.slots if "slots" in entry.model_fields_set else defaults.slots
    labels = (*defaults.labels, *entry.labels)
    return entry.model_copy(
        update={
            "slots": slots,
            "labels": labels,
            "power": entry.power or defaults.power,
            "vars": {**defaults.vars, **entry.vars},
        }
    )


def _entries(text: str, path: Path) -> Iterator[tuple[HostConfig, int]]:
    """What the file says of each host, and in which line."""
    if path.suffix.lower() not in _YAML:
        yield from _from_ansible(parse_ini(text), path)
        return
    from windtunnel.config import yaml_syntax  # takes its time to load

    data, places = yaml_syntax.parse(text)
    if isinstance(data, list):
        for index, raw in enumerate(data):
            place = places().find((index,))
            with _in_line(place):
                entry = parse_options(HostConfig, raw)
            yield entry, place.line
    else:
        yield from _from_ansible(parse_mapping(data, places()), path)


@contextmanager
def _in_line(place: Place) -> Iterator[None]:
    try:
        yield
    except ConfigError as exc:
        exc.line = exc.line or place.find(exc.path).line
        raise


def _from_ansible(found: Iterable[AnsibleHost], path: Path) -> Iterator[tuple[HostConfig, int]]:
    for one in found:
        for name in _PASSWORDS & one.variables.keys():
            logger.warning(
                "%s:%d: %s of %s is not read; give hosts.password as env:NAME or file:PATH",
                path,
                one.line,
                name,
                one.name,
            )
        with _in_line(Place(one.line)):
            entry = parse_options(HostConfig, _translated(one))
        yield entry, one.line


def _translated(one: AnsibleHost) -> dict[str, object]:
    raw: dict[str, object] = {"name": one.name, "labels": sorted(one.groups)}
    for key, names in _CONNECTION.items():
        for name in names:
            if name in one.variables:
                raw[key] = _plain(name, one.variables[name])
                break
    way = one.variables.get("ansible_connection", "ssh")
    if way not in _WAYS:
        raise ConfigError(f"host {one.name!r} is reached by {shown(way)}, and only ssh can be used here")
    arguments = str(one.variables.get("ansible_ssh_common_args", ""))
    if jump := _JUMP.search(arguments):
        raw["jump"] = _plain("ansible_ssh_common_args", jump[1])
    raw["vars"] = {name: value for name, value in one.variables.items() if _is_for_scripts(name, value)}
    return raw


def _plain(name: str, value: object) -> object:
    if isinstance(value, str) and "{{" in value:
        raise ConfigError(f"{name} is a template, {shown(value)}, which only Ansible can fill in")
    return int(value) if isinstance(value, str) and name.endswith("port") and value.isdecimal() else value


def _is_for_scripts(name: str, value: object) -> bool:
    is_name = REFERENCE.fullmatch(f"${name}") is not None and not name.startswith("ansible_")
    return is_name and isinstance(value, str | int | float) and "{{" not in str(value)
