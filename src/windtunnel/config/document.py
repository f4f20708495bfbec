"""A configuration file as plain data, with the way back from a value to its line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from windtunnel.config.places import Place
from windtunnel.errors import ConfigError
from windtunnel.options import shown

__all__ = ["FORMATS", "Document", "read_document"]

FORMATS = (".yaml", ".yml", ".json5", ".json", ".jsonc", ".toml")
"""The file name extensions that are understood."""


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file.

    :ivar data: what it says, as mappings with string keys, lists and scalars; nothing is expanded yet.
    :ivar source: the file's name as the user gave it.
    :ivar places: finds the lines; only called when one is asked for. They name the file where several were
        put together.
    """

    data: Mapping[str, Any]
    source: str
    places: Callable[[], Place]

    def locate(self, error: ConfigError) -> ConfigError:
        """The same error, naming the file, line and column of its path; one that has a file keeps it."""
        for mistake in error.all:
            if mistake.source is None:
                mistake.path = self._written(mistake.path)
                place = self.places().find(mistake.path)
                mistake.source = place.source or self.source
                mistake.line, mistake.column = place.line, place.column
        return error

    def _written(self, path: tuple[str | int, ...]) -> tuple[str | int, ...]:
        """``path`` as far as it can be followed: a single value may stand where a mapping could."""
        here: Any = self.data
        for depth, step in enumerate(path):
            inside: Any = dict(enumerate(here)) if isinstance(here, list) else here
            if not isinstance(inside, Mapping):
                return path[:depth]
            here = inside.get(step, {})
        return path


def read_document(path: str | PathLike[str]) -> Document:
    """Read and parse a file; its extension says the format.

    :raises ConfigError: if it cannot be read, is not valid, is empty, or is no mapping.
    """
    try:
        data, places = _parse(_read(Path(path)), _format(Path(path)))
        return Document(data=_mapping(data, places), source=str(path), places=places)
    except ConfigError as exc:
        exc.source = str(path)
        raise
    except RecursionError:
        raise ConfigError("nested too deeply", source=str(path)) from None


def _format(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ConfigError(f"unknown format {suffix!r}; the name of the file must end in {', '.join(FORMATS)}")
    return suffix


def _mapping(data: object, places: Callable[[], Place]) -> dict[str, Any]:
    if data is None or data == {}:
        raise ConfigError("the file says nothing")
    if not isinstance(data, dict):
        raise ConfigError(f"expected a mapping of options, found {shown(data)}", line=places().line)
    return data


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError("there is no such file") from None
    except IsADirectoryError:
        raise ConfigError(
            f"expected a file, found a directory; name one of the {'|'.join(FORMATS)} files in it"
        ) from None
    except UnicodeDecodeError as exc:
        line = exc.object.count(b"\n", 0, exc.start) + 1
        raise ConfigError(
            f"expected UTF-8 text, found byte 0x{exc.object[exc.start]:02x}", line=line
        ) from None
    except OSError as exc:
        raise ConfigError(f"cannot be read: {exc.strerror or exc}") from None


def _parse(text: str, suffix: str) -> tuple[Any, Callable[[], Place]]:
    # Each parser is loaded when its format is met: together they take as long as the rest of the package.
    if not text.strip():
        return None, lambda: Place(1)
    if suffix in {".yaml", ".yml"}:
        from windtunnel.config import yaml_syntax

        return yaml_syntax.parse(text)
    if suffix == ".toml":
        from windtunnel.config import toml_syntax

        return toml_syntax.parse(text)
    from windtunnel.config import json5_syntax

    return json5_syntax.parse(text)
