"""How to reach, start and stop a host: what a configuration may say, and where secrets are read from."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, model_validator

from windtunnel.errors import ConfigError
from windtunnel.options import ONE_OR_MORE, Count, Duration, Options, shown

__all__ = ["HostOpsOptions", "SecretReference", "SshOptions", "read_secret"]

_SECRET = re.compile(r"(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)")


def _check_secret(value: str) -> str:
    if not _SECRET.fullmatch(value):
        # What stands here may be the secret itself: it is not shown.
        raise ValueError("expected a reference to the secret, env:NAME or file:PATH, not the secret itself")
    return value


def read_secret(reference: str) -> str:
    """What ``env:NAME`` or ``file:PATH`` refers to, without the line end; reads a file.

    :raises ConfigError: if there is no such variable or file.
    """
    kind, _, place = reference.partition(":")
    if kind == "env":
        if place not in os.environ:
            raise ConfigError(
                f"the environment variable {place} is not set, and a secret is to be read from it"
            )
        return os.environ[place]
    try:
        return Path(place).expanduser().read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"cannot read a secret from {place!r}: {exc}") from exc


def _as_several(value: object) -> object:
    if value is None or value == "":
        return ()
    return (value,) if isinstance(value, str | Path) else value


def _check_pin(value: str) -> str:
    if not re.fullmatch(r"SHA256:[A-Za-z0-9+/]{43}=?|[a-z0-9@.-]+ [A-Za-z0-9+/]+=*( .*)?", value):
        raise ValueError(f"expected 'TYPE BASE64' of a public key or 'SHA256:…', found {shown(value)}")
    return value


SecretReference = Annotated[str, AfterValidator(_check_secret)]
Paths = Annotated[tuple[Path, ...], BeforeValidator(_as_several), ONE_OR_MORE]
Pins = Annotated[
    tuple[Annotated[str, AfterValidator(_check_pin)], ...], BeforeValidator(_as_several), ONE_OR_MORE
]


def _named(*names: str, **more: Any) -> Any:
    return Field(validation_alias=AliasChoices(*names), **more)


class SshOptions(Options):
    """How to connect to a host. What is not given is taken from the user's SSH configuration file."""

    hostname: str | None = _named(
        "hostname", "ssh_hostname", "address", default=None, description="name or address; default its name"
    )
    port: Annotated[int, Field(ge=1, le=65535)] | None = _named(
        "port", "ssh_port", default=None, description="default 22"
    )
    username: str | None = _named(
        "username", "ssh_username", "user", default=None, description="default the user who runs this"
    )
    key: Paths = _named(
        "key",
        "ssh_priv_key_path",
        default=(),
        description="private key files; default the agent's and ~/.ssh",
    )
    passphrase: SecretReference | None = Field(default=None, description="of the keys: env:NAME or file:PATH")
    password: SecretReference | None = Field(default=None, description="env:NAME or file:PATH")
    agent: bool = Field(default=True, description="use the SSH agent if no key is given; default true")
    ssh_config: Path | Literal[False] | None = Field(
        default=None, description="SSH configuration file, or false for none; default ~/.ssh/config"
    )
    known_hosts: Paths = _named(
        "known_hosts",
        "ssh_known_hosts_path",
        default=(),
        description="files; default the user's and the system's",
    )
    host_key: Pins = Field(
        default=(), description="the host's public key or its SHA256 fingerprint; no file is read"
    )
    host_keys: Literal["verify", "accept-new", "off"] = Field(
        default="verify",
        description="accept-new adds the keys of unknown hosts to known_hosts; default verify",
    )
    proxy_jump: str | None = Field(
        default=None, description="[user@]host[:port] to go through, several with commas"
    )
    keepalive_interval: Duration = _named(
        "keepalive_interval",
        "ssh_keepalive_interval",
        default=timedelta(seconds=5),
        description="how often a silent host is asked whether it lives; default 5s",
    )
    keepalive_count: Count = Field(
        default=3, description="unanswered questions after which it is lost; default 3"
    )
    request_timeout: Duration = _named(
        "request_timeout",
        "ssh_request_timeout",
        default=timedelta(seconds=30),
        description="limit of connecting and of every answer, not of scripts; default 30s",
    )
    attempts: Count = Field(default=4, description="how often to try to connect; default 4")
    channels: Count = Field(
        default=8,
        description="scripts at once over the connection; OpenSSH allows 10 less 2 for us; default 8",
    )
    temp_dir: str | None = Field(default=None, description="on the host; default its $TMPDIR or /tmp")

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, raw: Any) -> Any:
        """Null is the default, as it was for the predecessor."""
        if not isinstance(raw, Mapping):
            return raw
        return {key: value for key, value in raw.items() if value is not None}

    @model_validator(mode="after")
    def _check_together(self) -> SshOptions:
        if self.host_keys == "accept-new" and not self.known_hosts:
            raise ValueError("host_keys: accept-new needs known_hosts, the file to add new keys to")
        if self.host_keys != "verify" and self.host_key:
            raise ValueError(f"host_key pins the key, host_keys: {self.host_keys} does not; give one of them")
        return self

    @property
    def silence_s(self) -> float:
        """Seconds after which a host that has become silent is lost."""
        return self.keepalive_interval.total_seconds() * (self.keepalive_count + 1)


class HostOpsOptions(Options):
    """How to start and stop a host. The commands are for a POSIX shell, with its name in ``$HOST``."""

    start_command: str | None = Field(
        default=None, description="run on this machine, such as ipmitool or wakeonlan"
    )
    stop_command: str = Field(default="", description="run on the host; default shutdown -h now, as root")
    reboot_command: str = Field(default="", description="run on the host; default shutdown -r now, as root")
    boot_id_path: str = Field(
        default="/proc/sys/kernel/random/boot_id", description="a file there that changes with every boot"
    )
    boot_timeout: Duration = Field(
        default=timedelta(minutes=10), description="limit of starting, stopping and rebooting; default 10m"
    )
