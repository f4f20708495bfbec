"""Which settings of an operating system an environment changes, and the commands that do it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from shlex import quote
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, ConfigDict, Field

from windtunnel.environments.base import CommonOptions
from windtunnel.environments.os_program import Setting
from windtunnel.options import REFERENCE, Options

__all__ = ["CommandSetting", "Described", "OSOptions", "described"]

_PLAIN_MOUNT = "rw,suid,dev,exec,async,atime,diratime"
_KEY = re.compile(r"[A-Za-z0-9_][\w./:@-]*", re.ASCII)


def _check_key(key: str) -> str:
    if not _KEY.fullmatch(key) or ".." in key or "//" in key:
        raise ValueError(f"expected a key such as vm.swappiness, found {key!r}")
    return key


def _check_path(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise ValueError(f"expected an absolute path, found {path!r}")
    return path


Key = Annotated[str, AfterValidator(_check_key)]
Path = Annotated[str, AfterValidator(_check_path)]


class CommandSetting(Options):
    """A setting that two shell commands read and write, such as the parameters a kernel is booted with."""

    get: str = Field(min_length=1, description="prints what it is")
    set: str = Field(min_length=1, description="makes it $value; also used to restore it")
    value: Any = Field(description="what it is to be; $name expands")
    reboot: bool = Field(default=False, description="takes effect when the host boots; default false")


class OSOptions(CommonOptions):
    """The ``config`` of an OSEnv. In values ``$name`` expands; what is null then is left as it is."""

    model_config = ConfigDict(extra="forbid")

    host: str = Field(default="$host", min_length=1, description="which one; default $host, the trial's")
    sysctl: dict[Key, Any] = Field(default_factory=dict, description="key → value; default none")
    files: dict[Path, Any] = Field(
        default_factory=dict,
        description="path → content, of files in /proc, /sys (also cgroups) or elsewhere; default none",
    )
    mounts: dict[Path, Any] = Field(
        default_factory=dict, description="mount point → options, comma-separated; default none"
    )
    commands: dict[str, CommandSetting] = Field(
        default_factory=dict, description="name → commands that read and write a setting; default none"
    )
    reboot_groups: tuple[str, ...] = Field(
        default=(),
        description="tunable groups whose settings take effect at boot; default those with meta reboot: true",
    )
    local: bool | None = Field(
        default=None, description="the host is this machine; default if $host_address is localhost"
    )
    sudo: bool = Field(default=False, description="change them through sudo, without password; default false")
    state_dir: Path | None = Field(
        default=None,
        description="on the host, where the original values are kept; default /var/lib/windtunnel for root",
    )


class Described(NamedTuple):
    """A setting as it was described.

    :ivar path: leads to it in the config.
    :ivar setting: without its value.
    :ivar value: a text in which ``$name`` expands, a number, or None.
    """

    path: tuple[str, ...]
    setting: Setting
    value: Any

    @property
    def references(self) -> set[str]:
        """The names in its value."""
        found = REFERENCE.finditer(self.value) if isinstance(self.value, str) else ()
        return {match["name"] for match in found if match["name"]}


def described(options: OSOptions) -> Iterator[Described]:
    """All settings, in the order in which they are changed."""
    for key, value in options.sysctl.items():
        yield Described(("sysctl", key), _pseudo_file(f"sysctl {key}", _sysctl_path(key)), value)
    for path, value in options.files.items():
        make = _pseudo_file if path.startswith(("/proc/", "/sys/")) else _file
        yield Described(("files", path), make(path, path), value)
    for path, value in options.mounts.items():
        yield Described(("mounts", path), _mount(path), value)
    for name, one in options.commands.items():
        setting = _commands(name, one.get, one.set)._replace(is_booted=one.reboot)
        yield Described(("commands", name, "value"), setting, one.value)


def _sysctl_path(key: str) -> str:
    """As sysctl reads keys: what comes first, dot or slash, separates, and the other then is itself."""
    if key.find("/") > -1 and not 0 < key.find(".") < key.find("/"):
        return f"/proc/sys/{key}"
    return f"/proc/sys/{key.translate(str.maketrans('./', '/.'))}"


def _pseudo_file(name: str, path: str) -> Setting:
    """A file that is a variable of the kernel."""
    file = quote(path)
    return Setting(
        name, f"chosen {file}", f'printf "%s\\n" "$value" >{file}', f'cat "$saved/value" >{file}', ""
    )


def _file(name: str, path: str) -> Setting:
    """A file, which may not be there."""
    file = quote(path)
    return Setting(
        name,
        f'if [ -e {file} ]; then cat -- {file}; else : >"$saved/absent"; fi',
        f'printf "%s\\n" "$value" >{file}',
        f'if [ -e "$saved/absent" ]; then rm -f -- {file}; else cat "$saved/value" >{file}; fi',
        "",
    )


def _mount(path: str) -> Setting:
    # As it stands in /proc/self/mounts.
    listed = re.sub(r"[ \t\n\\]", lambda match: f"\\{ord(match[0]):03o}", path.rstrip("/") or "/")
    setting = _commands(
        f"mount {path}", f"mounted {quote(listed)}", f'mount -o "remount,$value" {quote(path)}'
    )
    # A remount adds to the options there are: noatime and the like have to be taken back.
    return setting._replace(
        undo=f'mount -o "remount,{_PLAIN_MOUNT},$(cat "$saved/value")" {quote(path)}',
    )


def _commands(name: str, read: str, write: str) -> Setting:
    return Setting(name, read, write, f'value=$(cat "$saved/value"); export value\n{write}', "")
