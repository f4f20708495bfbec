"""From a file or a mapping to a checked description of an experiment."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

from windtunnel.config.document import Document, read_document
from windtunnel.config.expand import Names, check_globals, expand_document
from windtunnel.config.schema import ExperimentConfig, children_of
from windtunnel.environments.composite import ChildOptions
from windtunnel.errors import ConfigError
from windtunnel.options import nearest, parse_options, shown

__all__ = ["LoadedConfig", "Origin", "compose", "from_mapping", "load", "parse_global"]

logger = logging.getLogger(__name__)

_NOTHING: Mapping[str, object] = MappingProxyType({})
_OVERRIDABLE: Mapping[str, tuple[str, ...]] = {
    "storage": ("storage",),
    "trials": ("trials",),
    "concurrency": ("concurrency",),
    "seed": ("optimizer", "seed"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a description is composed from; here nothing is expanded yet.

    :ivar data: what was written.
    :ivar directory: what ``$config_dir`` stands for.
    :ivar given: globals that win over those written.
    :ivar changes: overrides that win over what was written; see ``load``.
    :ivar source: the file's name as the user gave it; empty for a mapping built in code.
    """

    data: Mapping[str, Any]
    directory: Path
    given: Mapping[str, object]
    changes: Mapping[str, object]
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedConfig:
    """A description of an experiment and where it came from.

    :ivar document: the file, to find the line of an error; None if there is none at hand.
    :ivar globals: what every environment gets as ``global_config``.
    """

    config: ExperimentConfig
    document: Document | None
    globals: Mapping[str, object]
    origin: Origin

    def locate(self, error: ConfigError) -> ConfigError:
        """The same error, naming the file and line its path leads to, if there is a file."""
        if self.document is not None:
            return self.document.locate(error)
        error.source = error.source or self.origin.source or None
        return error


def load(
    path: str | PathLike[str],
    *,
    overrides: Mapping[str, object] = _NOTHING,
    globals: Mapping[str, object] = _NOTHING,  # noqa: A002 - the name users know
) -> LoadedConfig:
    """Read a YAML, JSON5 or TOML file that describes an experiment.

    :param overrides: ``storage``, ``trials``, ``concurrency`` and ``seed`` that win over the file's; None is
        the same as not given.
    :param globals: values for ``$name`` that win over the file's ``globals``.
    :raises ConfigError: with file and line, if the file cannot be used; without, if an override cannot.
    """
    document = read_document(path)
    origin = Origin(
        data=document.data,
        directory=Path(path).absolute().parent,
        given=check_globals(globals),
        changes=_checked(overrides),
        source=document.source,
    )
    _warn_of_unused(origin.given, document)
    try:
        return compose(origin, document)
    except ConfigError as exc:
        if exc.path in {_OVERRIDABLE[name] for name in origin.changes}:
            raise
        raise document.locate(exc) from None


def from_mapping(
    mapping: Mapping[str, Any],
    *,
    overrides: Mapping[str, object] = _NOTHING,
    globals: Mapping[str, object] = _NOTHING,  # noqa: A002 - the name users know
    directory: str | PathLike[str] = ".",
) -> LoadedConfig:
    """The same for a mapping built in code.

    :param directory: what ``$config_dir`` stands for; default the current directory.
    :raises ConfigError: with the path of the value, if the mapping cannot be used.
    """
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"expected a mapping of options, found {shown(mapping)}")
    return compose(
        Origin(
            data=mapping,
            directory=Path(directory).absolute(),
            given=check_globals(globals),
            changes=_checked(overrides),
        )
    )


def compose(origin: Origin, document: Document | None = None) -> LoadedConfig:
    """Expand what was written and check it.

    :param document: the file it comes from, for errors that are found later.
    :raises ConfigError: with the path of the value that is wrong.
    """
    data, given, changes = origin.data, origin.given, origin.changes
    written = check_globals(data.get("globals", {}))
    builtin: dict[str, object] = {"config_dir": str(origin.directory)}
    names = Names(given=given, written=written, builtin=builtin, system=os.environ)
    # The id may use the globals, and everything else may use the id.
    if "experiment" in data:
        builtin["experiment_id"] = expand_document({"experiment": data["experiment"]}, names)["experiment"]
    expanded = expand_document({key: value for key, value in data.items() if key not in changes}, names)
    config = parse_options(ExperimentConfig, _changed(expanded, changes))
    _check_children(config.environment.config, ("environment", "config"))
    everything = MappingProxyType({**builtin, **config.globals, **given})
    return LoadedConfig(config=config, document=document, globals=everything, origin=origin)


def _warn_of_unused(given: Mapping[str, object], document: Document) -> None:
    """A global that the file does not name is misspelt, or for a class of the user's own to know."""
    words = set(_words(document.data))
    for name in sorted(given.keys() - words):
        hint = nearest(name, words)
        logger.warning(
            "%s names no global %r%s", document.source, name, hint if "did you mean" in hint else ""
        )


def _words(value: object) -> Iterator[str]:
    """Every word in the keys and texts of ``value``."""
    if isinstance(value, str):
        yield from re.findall(r"[A-Za-z_]\w*", value)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from (*_words(key), *_words(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from _words(inner)


_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_BOOLEANS = {"true": True, "false": False}


def parse_global(text: str) -> tuple[str, object]:
    """A global from ``NAME=VALUE``: an integer, a number, true, false, or else a string.

    ``007`` and ``1_000`` are strings: a number is only what would be written back the same way.

    :raises ConfigError: if it has another form.
    """
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ConfigError(f"expected a global as NAME=VALUE, found {shown(name if equals else text)}")
    if value in _BOOLEANS:
        return name, _BOOLEANS[value]
    try:
        if _INTEGER.fullmatch(value):
            return name, int(value)
        return name, float(value) if _NUMBER.fullmatch(value) else value
    except ValueError:  # thousands of digits
        return name, value


def _checked(overrides: Mapping[str, object]) -> dict[str, object]:
    for name in overrides:
        if name not in _OVERRIDABLE:
            raise ConfigError(f"unknown override {name!r}{nearest(name, _OVERRIDABLE)}")
    return {name: value for name, value in overrides.items() if value is not None}


def _changed(data: Mapping[str, Any], changes: Mapping[str, object]) -> dict[str, Any]:
    changed = {**data, **changes}
    if "seed" in changes:
        seed = changed.pop("seed")
        optimizer = data.get("optimizer", {})
        optimizer = {"name": optimizer} if isinstance(optimizer, str) else optimizer
        changed["optimizer"] = {**optimizer, "seed": seed} if isinstance(optimizer, Mapping) else optimizer
    return changed


def _check_children(config: Mapping[str, Any], path: tuple[str | int, ...]) -> None:
    """Check the form of a composite's children; what their own ``config`` may hold, they check themselves."""
    try:
        children = children_of(config)
    except ConfigError as exc:
        raise exc.within(*path) from None
    for index, child in enumerate(children):
        place = (*path, "children", index)
        _check_children(parse_options(ChildOptions, child, path=place).config, (*place, "config"))
