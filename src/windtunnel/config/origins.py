"""What a description amounts to, and where each value of it comes from; without secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from windtunnel.config.document import Document
from windtunnel.config.expand import Names
from windtunnel.config.load import OVERRIDABLE, LoadedConfig, Origin, expanded, names_of
from windtunnel.options import Options

__all__ = ["Entry", "Taken", "entries"]

_Steps = tuple[str | int, ...]
_SECRET_KEY = re.compile(r"pass(word|phrase|wd)?$|secret|token|api_?key|credential", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(://[^/@:\s]*:)[^@/\s]+(?=@)")
_MASK = "***"
_OPEN, _CLOSE = "\ue000", "\ue001"
"""Around the name of what is not shown, while names are replaced: no dollar sign may come of that."""


class Taken(NamedTuple):
    """A name that a value takes.

    :ivar source: ``-g``, ``environment``, ``file``, ``built in`` or, for globals, where they are written.
    """

    name: str
    source: str


class Entry(NamedTuple):
    """One value.

    :ivar source: the file, an option of the command line, or ``default``.
    :ivar line: in the file; likewise ``column``.
    :ivar names: what it takes from elsewhere.
    """

    path: _Steps
    value: Any
    source: str
    line: int | None = None
    column: int | None = None
    names: tuple[Taken, ...] = ()


def entries(loaded: LoadedConfig, document: Document) -> list[Entry]:
    """Every value of a description that was loaded, the defaults at the end of their section.

    What comes from the operating system's environment or from a file is shown as its reference. What looks
    like a password is not shown.
    """
    taken: dict[_Steps, list[Taken]] = {}
    names = _Masked.of(loaded.origin)
    names.used = lambda name, path: taken.setdefault(path, []).append(_taken(name, names, document))
    data = expanded(loaded.origin, names)
    data["globals"] = {**data.get("globals", {}), **loaded.origin.given}
    written = [_written(path, value, loaded.origin, document, taken) for path, value in _leaves(data, ())]
    hide = loaded.secrets.hide  # a name may be made of another value
    defaults = [
        Entry(path, hide(value) if isinstance(value, str) else value, "default")
        for path, value in _defaults(loaded.config, ())
    ]
    return [*written, *(one for one in defaults if not _is_written(one.path, data))]


class _Masked(Names):
    """Names whose values are not looked up where these may be secret."""

    @classmethod
    def of(cls, origin: Origin) -> _Masked:
        plain = names_of(origin)
        return cls(given=plain.given, written=plain.written, builtin=plain.builtin, system=_System())

    def file(self, name: str, path: _Steps) -> str:
        return f"{_OPEN}file:{name}{_CLOSE}"


class _System(dict[str, str]):
    """The operating system's environment, with each name for its value."""

    def __init__(self) -> None:
        super().__init__({name: f"{_OPEN}{name}{_CLOSE}" for name in os.environ})


def _taken(name: str, names: Names, document: Document) -> Taken:
    if name.startswith("file:"):
        return Taken(f"${{{name}}}", "file")
    if name not in names:
        return Taken(f"${name}", "default")
    match names.origin(name):
        case "given":
            return Taken(f"${name}", "-g")
        case "globals":
            place = document.places().find(("globals", name))
            return Taken(f"${name}", f"{place.source or document.source}:{place.line}")
        case "system":
            return Taken(f"${name}", "environment")
    return Taken(f"${name}", "built in")


def _leaves(value: Any, path: _Steps) -> Iterator[tuple[_Steps, Any]]:
    """Each value that holds no others, with its path."""
    inner: Any = ()
    if isinstance(value, Mapping):
        inner = value.items()
    elif isinstance(value, list | tuple):
        inner = enumerate(value)
    if not inner or not value:
        yield path, value
    for key, one in inner:
        yield from _leaves(one, (*path, key))


def _written(
    path: _Steps, value: Any, origin: Origin, document: Document, taken: Mapping[_Steps, list[Taken]]
) -> Entry:
    names = tuple(dict.fromkeys(taken.get(path, ())))
    value = _shown(path, value)
    for option, overridden in OVERRIDABLE.items():
        if path == overridden and option in origin.changes:
            return Entry(path, value, f"--{option}")
    if path[0] == "globals" and path[-1] in origin.given:
        return Entry(path, value, "-g")
    place = document.places().find(path)
    return Entry(path, value, place.source or document.source, place.line, place.column, names)


def _shown(path: _Steps, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    whole = value.startswith(_OPEN) and value.endswith(_CLOSE) and value.count(_OPEN) == 1
    key = next((step for step in reversed(path) if isinstance(step, str)), "")
    if _SECRET_KEY.search(key) and not whole and not value.startswith(("env:", "file:", "$")):
        return _MASK
    return _URL_PASSWORD.sub(rf"\g<1>{_MASK}", value.replace(_OPEN, "${").replace(_CLOSE, "}"))


def _defaults(config: Options, path: _Steps) -> Iterator[tuple[_Steps, Any]]:
    for name, field in type(config).model_fields.items():
        value, place = getattr(config, name), (*path, field.alias or name)
        if isinstance(value, Options):
            yield from _defaults(value, place)
        elif isinstance(value, timedelta):
            yield place, f"{value.total_seconds():g}s"
        elif value is None or isinstance(value, bool | int | float | str):
            yield place, value


def _is_written(path: _Steps, data: Any) -> bool:
    """Whether the path, or a short form that stands for its beginning, is there."""
    for step in path:
        if not isinstance(data, Mapping):
            return True
        if step not in data:
            return False
        data = data[step]
    return True
