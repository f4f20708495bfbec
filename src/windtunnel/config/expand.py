"""What ``$name`` means in a configuration file, and the data with every name replaced.

A name is looked up in the globals given by the caller, the file's ``globals``, ``config_dir`` and
``experiment_id``, then the operating system's environment; ``${name:-default}`` does without. Inside
``environment`` a name that only a trial can know is left for the environment, which expands once more when
the trial begins. ``${file:PATH}`` is what a file holds, for secrets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from windtunnel.environments.base import TRIAL_PARAMETERS
from windtunnel.errors import ConfigError
from windtunnel.options import REFERENCE, as_text, nearest, referenced, shown
from windtunnel.texts import Secrets
from windtunnel.tunables import TunableGroups

__all__ = ["Names", "check_globals", "expand_document", "expand_text"]

Path = tuple[str | int, ...]

_SCRIPTS = frozenset({"setup", "run", "abort", "teardown"})
_SHELL = frozenset({"get", "set"})
"""Below ``commands``: these are for the shell, too."""
_POWER = frozenset({"start_command", "stop_command", "reboot_command"})
"""Below ``power`` of hosts: likewise."""
_WITH_FILES = re.compile(rf"\$\{{file:(?P<file>[^${{}}]+)\}}|{REFERENCE.pattern}", re.ASCII)
_LONGEST_SECRET = 64 * 1024
_OF_ROLE = ("host", "hosts", "address", "addresses")


@dataclass(slots=True, kw_only=True)
class Names:
    """The names a file may use, and their values.

    :ivar given: globals from the caller; taken as they are.
    :ivar written: the file's globals; their values may name others.
    :ivar builtin: what is known without being given; ``config_dir`` is where paths of files begin.
    :ivar system: the operating system's environment; taken as it is, and never listed or kept.
    :ivar used: called with each name that a value takes, or ``file:PATH``, and the path of that value.
    :ivar secrets: what was taken from the environment and from files.
    :ivar mistakes: names that are not known, and the like.
    """

    given: Mapping[str, object]
    written: Mapping[str, object]
    builtin: Mapping[str, object]
    system: Mapping[str, str]
    used: Callable[[str, Path], None] = lambda _name, _path: None
    secrets: Secrets = field(default_factory=Secrets)
    mistakes: list[ConfigError] = field(default_factory=list)
    _open: list[str] = field(default_factory=list)

    def __contains__(self, name: object) -> bool:
        return self.is_global(name) or name in self.builtin or name in self.system

    def __getitem__(self, name: str) -> object:
        """The value of ``name``; raises KeyError for one that is not known."""
        if name in self.given:
            return self.given[name]
        if name in self.written:
            return self._written(name)
        if name in self.builtin:
            return self.builtin[name]
        self.secrets.add(self.system[name], f"${name}")
        return self.system[name]

    def file(self, name: str, path: Path) -> str:
        """What the file ``name`` holds, without the line end.

        :raises ConfigError: if it cannot be read.
        """
        place = FilePath(str(self.builtin.get("config_dir", "."))) / FilePath(name).expanduser()
        try:
            secret = _read_secret(place)
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
            raise ConfigError(f"cannot read the file of ${{file:{name}}}: {reason}", path=path) from None
        self.secrets.add(secret, f"${{file:{name}}}")
        return secret

    def origin(self, name: str) -> str:
        """Where a known name's value is from: ``given``, ``globals``, ``builtin`` or ``system``."""
        if self.is_global(name):
            return "given" if name in self.given else "globals"
        return "builtin" if name in self.builtin else "system"

    def is_global(self, name: object) -> bool:
        """Whether a global of this name was given or written."""
        return name in self.given or name in self.written

    def unknown(self, name: str, path: Path) -> ConfigError:
        """The error for a name that nobody knows."""
        if name in TRIAL_PARAMETERS:
            return ConfigError(f"${name} is only known to a trial; use it inside environment", path=path)
        # The system's names stay out of the hint: there are dozens, and they are nobody's business.
        hint = nearest(name, {*self.given, *self.written, *self.builtin})
        return ConfigError(f"${name} is not defined; give it with -g {name}=VALUE{hint}", path=path)

    def _written(self, name: str) -> object:
        path: Path = ("globals", name)
        if name in self._open:
            circle = " → ".join([*self._open[self._open.index(name) :], name])
            raise _Circle(f"the globals name each other in a circle: {circle}", path=path)
        self._open.append(name)
        try:
            return _expand_data(self.written[name], _Pass(self), path)
        finally:
            self._open.pop()


class _Circle(ConfigError):
    """Globals that name each other: there is nothing to go on with."""


def _read_secret(path: FilePath) -> str:
    with path.open(encoding="utf-8") as file:
        return file.read(_LONGEST_SECRET).rstrip("\r\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Late:
    """Names that belong to the environments.

    :ivar trial: a trial's own values, which win over globals.
    :ivar declared: how many environments declare a parameter, which is overridden by a global.
    """

    trial: frozenset[str] = frozenset()
    declared: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Pass:
    """One way of going through the data.

    :ivar late: names to be left as they stand.
    :ivar again: the environment expands the result once more, whether or not a name was left.
    :ivar within: the parameter being defined; its own definition is no answer to ``$name``.
    """

    names: Names
    late: _Late = field(default_factory=_Late)
    again: bool = False
    within: str | None = None

    def leaves(self, name: str) -> bool:
        if name in self.late.trial:
            return True
        if self.names.is_global(name):
            return False
        if name == self.within:
            return name not in self.names and self.late.declared.get(name, 0) > 1
        return name in self.late.declared


def expand_document(data: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """``data`` with every ``$name`` in its string values replaced, except in scripts and regular expressions.

    A value that is exactly one name takes that name's value with its type. Mistakes are added to those of
    ``names``, and what they are about stays as it is.

    :raises ConfigError: if globals name each other in a circle.
    """
    # Globals first: what is wrong with one is told where it is written, not where it is used.
    expanded: dict[str, Any] = {"globals": {name: names[name] for name in names.written}}
    late = _late_names(data)
    for key, value in data.items():
        if key == "environment":
            expanded[key] = _expand_environment(value, _Pass(names, late), (key,))
        elif key == "hosts":
            expanded[key] = _expand_hosts(value, _Pass(names), (key,))
        elif isinstance(value, TunableGroups):
            expanded[key] = value
        elif key != "globals":
            expanded[key] = _expand_data(value, _Pass(names), (key,))
    return {key: expanded[key] for key in data}


def _late_names(data: Mapping[str, Any]) -> _Late:
    declared: dict[str, int] = {}
    for config in _configs(data.get("environment")):
        required = config.get("required_args")
        for name in {*_mapping(config.get("const_args")), *(required if isinstance(required, list) else ())}:
            declared[name] = declared.get(name, 0) + 1
    # The experiment's id is a parameter of every trial as well, but it is known from the start.
    trial = (TRIAL_PARAMETERS - {"experiment_id"}) | _tunable_names(data.get("tunables"))
    return _Late(trial=trial | _role_names(data.get("hosts_per_trial")), declared=declared)


def _role_names(roles: object) -> set[str]:
    """What a trial over several hosts knows of them."""
    names = {f"{role}_{what}" for role in _mapping(roles) for what in _OF_ROLE}
    return names | {"host_index"} if names else names


def _tunable_names(tunables: object) -> set[str]:
    if isinstance(tunables, TunableGroups):
        return set(tunables)
    groups = _mapping(tunables).values()
    return {name for group in groups for name in _mapping(_mapping(group).get("params"))}


def _configs(environment: object) -> Iterator[Mapping[str, Any]]:
    config = _mapping(_mapping(environment).get("config"))
    yield config
    children = config.get("children")
    for child in children if isinstance(children, list) else ():
        yield from _configs(child)


def _mapping(value: object) -> Mapping[str, Any]:
    """``value`` if it is a mapping; what is of the wrong type is told later, by the schema."""
    return value if isinstance(value, Mapping) else {}


def _expand_hosts(value: object, how: _Pass, path: Path) -> object:
    if isinstance(value, list | tuple):
        return [_expand_hosts(one, how, (*path, index)) for index, one in enumerate(value)]
    if not isinstance(value, Mapping):
        return _expand_data(value, how, path)
    return {
        key: _expand_except(_POWER, inner, how, (*path, key))
        if key == "power"
        else _expand_data(inner, how, (*path, key))
        for key, inner in value.items()
    }


def _expand_environment(value: object, how: _Pass, path: Path) -> object:
    if not isinstance(value, Mapping):
        return _expand_data(value, how, path)
    return {
        key: _expand_config(inner, how, (*path, key))
        if key == "config" and isinstance(inner, Mapping)
        else _expand_data(inner, how, (*path, key))
        for key, inner in value.items()
    }


def _expand_config(config: Mapping[str, Any], how: _Pass, path: Path) -> dict[str, Any]:
    return {key: _expand_option(key, value, how, (*path, key)) for key, value in config.items()}


def _expand_option(key: str, value: object, how: _Pass, path: Path) -> object:
    if key in _SCRIPTS or key.endswith("_pattern"):
        return value
    if key == "children" and isinstance(value, list):
        return [_expand_environment(child, how, (*path, index)) for index, child in enumerate(value)]
    if key in ("upload", "download"):  # files may be named from the trial's directory, $PWD
        return _expand_data(value, _Pass(how.names, _with(how.late, "PWD")), path)
    if key == "commands" and isinstance(value, Mapping):
        return {name: _expand_except(_SHELL, one, how, (*path, name)) for name, one in value.items()}
    if key == "const_args" and isinstance(value, Mapping):
        return {
            name: _expand_data(arg, _Pass(how.names, how.late, again=True, within=name), (*path, name))
            for name, arg in value.items()
        }
    return _expand_data(value, how, path)


def _with(late: _Late, name: str) -> _Late:
    return _Late(trial=late.trial | {name}, declared=late.declared)


def _expand_except(shell: Collection[str], value: object, how: _Pass, path: Path) -> object:
    """Leave alone what is for the shell."""
    if not isinstance(value, Mapping):
        return _expand_data(value, how, path)
    return {
        key: inner if key in shell else _expand_data(inner, how, (*path, key)) for key, inner in value.items()
    }


def _expand_data(value: object, how: _Pass, path: Path) -> Any:
    if isinstance(value, str):
        return _expand_text(value, how, path)
    if isinstance(value, Mapping):
        return {key: _expand_data(inner, how, (*path, key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_expand_data(inner, how, (*path, index)) for index, inner in enumerate(value)]
    return value


def expand_text(text: str, names: Names, path: Path) -> object:
    """One value that is outside ``environment``, as ``expand_document`` expands it."""
    return _expand_text(text, _Pass(names), path)


def _expand_text(text: str, how: _Pass, path: Path) -> object:
    if "$" not in text:
        return text
    found = list(_WITH_FILES.finditer(text))
    left = {match["name"] for match in found if match["name"] and how.leaves(match["name"])}
    # What is expanded again must come out of that as it went in: each dollar sign is doubled.
    dollar = "$$" if how.again or left else "$"

    def replacement(match: re.Match[str]) -> str:
        if match["name"] in left:
            return match[0]
        return as_text(_value(match, how.names, path)).replace("$", dollar) if _names(match) else dollar

    whole = found[0] if len(found) == 1 and found[0][0] == text else None
    if whole is None or not _names(whole) or whole["name"] in left:
        return _WITH_FILES.sub(replacement, text)
    value = _value(whole, how.names, path)
    return value.replace("$", dollar) if isinstance(value, str) else value


def _names(match: re.Match[str]) -> bool:
    """Whether it names something; ``$$`` does not."""
    return match["name"] is not None or match["file"] is not None


def _value(match: re.Match[str], names: Names, path: Path) -> object:
    """What a reference stands for. It stays as it is if nobody knows, which is noted."""
    name, file = match["name"], match["file"]
    try:
        if file is not None:
            names.used(f"file:{file}", path)
            return names.file(file, path)
        if name not in names and match["default"] is None:
            raise names.unknown(name, path)
        names.used(name, path)
        return referenced(match, names)
    except _Circle:
        raise
    except ConfigError as exc:
        names.mistakes.append(exc)
        return match[0]


def check_globals(values: object, *, path: Path = ("globals",)) -> Mapping[str, object]:
    """``values`` as globals: names that ``$name`` can reach, and strings, numbers, true or false.

    :raises ConfigError: if they are not.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"expected a mapping of names to values, found {shown(values)}", path=path)
    for name, value in values.items():
        if not REFERENCE.fullmatch(f"${name}"):
            wanted = "a name of letters, digits and underscores"
            raise ConfigError(f"expected {wanted}, found {shown(name)}", path=(*path, name))
        if not isinstance(value, str | int | float):
            wanted = "a string, a number, true or false"
            raise ConfigError(f"expected {wanted}, found {shown(value)}", path=(*path, name))
    return values
