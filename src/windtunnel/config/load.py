"""From a file or a mapping to a checked description of an experiment."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

from windtunnel.config.document import Document
from windtunnel.config.expand import Names, check_globals, expand_document
from windtunnel.config.include import read_with_includes
from windtunnel.config.schema import ExperimentConfig, children_of, optimizer_section
from windtunnel.environments.composite import ChildOptions
from windtunnel.errors import ConfigError
from windtunnel.options import nearest, parse_options, parse_value, shown
from windtunnel.texts import Secrets

__all__ = [
    "OVERRIDABLE",
    "LoadedConfig",
    "Origin",
    "compose",
    "expanded",
    "from_mapping",
    "load",
    "names_of",
    "parse_global",
    "read",
    "without_secrets",
]

logger = logging.getLogger(__name__)

_NOTHING: Mapping[str, object] = MappingProxyType({})
OVERRIDABLE: Mapping[str, tuple[str, ...]] = {
    "storage": ("storage",),
    "trials": ("trials",),
    "concurrency": ("concurrency",),
    "seed": ("optimizer", "seed"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a description is composed from; here nothing is expanded yet.

    :ivar data: what was written, in the file and in those it includes.
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
    :ivar secrets: what was taken from the operating system's environment and from files.
    """

    config: ExperimentConfig
    document: Document | None
    globals: Mapping[str, object]
    origin: Origin
    secrets: Secrets

    def locate(self, error: ConfigError) -> ConfigError:
        """The same error without secrets, naming file, line and column if there is a file."""
        error = without_secrets(error, self.secrets)
        if self.document is not None:
            return self.document.locate(error)
        for mistake in error.all:
            mistake.source = mistake.source or self.origin.source or None
        return error


def load(
    path: str | PathLike[str],
    *,
    overrides: Mapping[str, object] = _NOTHING,
    globals: Mapping[str, object] = _NOTHING,  # noqa: A002 - the name users know
    globals_files: Sequence[str | PathLike[str]] = (),
    config_path: Sequence[str | PathLike[str]] = (),
) -> LoadedConfig:
    """Read a YAML, JSON5 or TOML file that describes an experiment, and what it includes.

    :param overrides: ``storage``, ``trials``, ``concurrency`` and ``seed`` that win over the file's; None is
        the same as not given.
    :param globals: values for ``$name`` that win over all others.
    :param globals_files: files of names and values that win over the file's ``globals``; the later one wins.
    :param config_path: folders to look in for included files, before the file's ``config_path``.
    :raises ConfigError: with file, line and column, if the file cannot be used; without, if an override
        cannot. All other mistakes that were found come with it.
    """
    origin, document = read(
        path, overrides=overrides, globals=globals, globals_files=globals_files, config_path=config_path
    )
    _warn_of_unused(origin.given, document)
    return compose(origin, document)


def read(
    path: str | PathLike[str],
    *,
    overrides: Mapping[str, object] = _NOTHING,
    globals: Mapping[str, object] = _NOTHING,  # noqa: A002 - the name users know
    globals_files: Sequence[str | PathLike[str]] = (),
    config_path: Sequence[str | PathLike[str]] = (),
) -> tuple[Origin, Document]:
    """What ``load`` composes, neither expanded nor checked; its parameters are those of ``load``.

    :raises ConfigError: if a file cannot be read.
    """
    directory, given = Path(path).absolute().parent, check_globals(globals)
    names = Names(given=given, written={}, builtin={"config_dir": str(directory)}, system=os.environ)
    document = read_with_includes(path, names=names, globals_files=globals_files, config_path=config_path)
    origin = Origin(
        data=document.data,
        directory=directory,
        given=given,
        changes=_checked(overrides),
        source=document.source,
    )
    return origin, document


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

    :param document: the file it comes from, for errors that are found here or later.
    :raises ConfigError: for all mistakes that can be told without making the parts of the experiment.
    """
    names: Names | None = None
    try:
        names = names_of(origin)
        data = expanded(origin, names)
        config = _parsed(data, origin, names)
    except ConfigError as exc:
        raise _told(exc, origin, document, names) from None
    everything = MappingProxyType({**names.builtin, **config.globals, **origin.given})
    return LoadedConfig(
        config=config, document=document, globals=everything, origin=origin, secrets=names.secrets
    )


def names_of(origin: Origin) -> Names:
    """What ``$name`` means in it; the experiment's id is added by ``expanded``.

    :raises ConfigError: if the globals that are written are wrong.
    """
    return Names(
        given=origin.given,
        written=check_globals(origin.data.get("globals", {})),
        builtin={"config_dir": str(origin.directory)},
        system=os.environ,
    )


def expanded(origin: Origin, names: Names) -> dict[str, Any]:
    """What was written with all names replaced and all overrides made; mistakes are noted in ``names``."""
    data = origin.data
    # The id may use the globals, and everything else may use the id.
    if "experiment" in data:
        found = expand_document({"experiment": data["experiment"]}, names)["experiment"]
        names.builtin = {**names.builtin, "experiment_id": found}
        names.mistakes.clear()  # it is expanded once more below
    whole = expand_document({key: value for key, value in data.items() if key not in origin.changes}, names)
    return _changed(whole, origin.changes)


def _parsed(data: Mapping[str, Any], origin: Origin, names: Names) -> ExperimentConfig:
    mistakes = list(names.mistakes)
    try:
        config = parse_options(ExperimentConfig, data)
        _check_children(config.environment.config, ("environment", "config"))
    except ConfigError as exc:
        # A name that is not known stands where its value would be, which is no mistake of its own.
        unknown = {mistake.path for mistake in mistakes}
        mistakes += [one for one in exc.all if one.path not in unknown]
    if mistakes:
        raise ConfigError.of(mistakes)
    return config


def _told(error: ConfigError, origin: Origin, document: Document | None, names: Names | None) -> ConfigError:
    """The error with file, line and column, but for those of overrides, and without secrets."""
    if names is not None:
        error = without_secrets(error, names.secrets)
    if document is None:
        return error
    overridden = {OVERRIDABLE[name] for name in origin.changes}
    mistakes = [one if one.path in overridden else document.locate(one) for one in error.all]
    return ConfigError.of(mistakes)


def without_secrets(error: ConfigError, secrets: Secrets) -> ConfigError:
    """The same error, with references instead of what they refer to."""
    for mistake in error.all:
        mistake.message = secrets.hide(mistake.message)
    return error


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


def parse_global(text: str) -> tuple[str, object]:
    """A global from ``NAME=VALUE``; see ``parse_value``.

    :raises ConfigError: if it has another form.
    """
    name, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ConfigError(f"expected a global as NAME=VALUE, found {shown(name if equals else text)}")
    return name, parse_value(value)


def _checked(overrides: Mapping[str, object]) -> dict[str, object]:
    for name in overrides:
        if name not in OVERRIDABLE:
            raise ConfigError(f"unknown override {name!r}{nearest(name, OVERRIDABLE)}")
    return {name: value for name, value in overrides.items() if value is not None}


def _changed(data: Mapping[str, Any], changes: Mapping[str, object]) -> dict[str, Any]:
    changed = {**data, **changes}
    if "seed" in changes:
        seed = changed.pop("seed")
        optimizer = optimizer_section(data.get("optimizer", {}))
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
