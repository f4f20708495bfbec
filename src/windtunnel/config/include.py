"""Files that include others: what is written in several, put together.

``include`` names one file or several. It may stand at the top of a file, in any of its sections, and in an
environment, also one of ``children``; the file it names says what could be written there. What is written
beside ``include`` wins over what is included, and of several files the later one wins. Mappings are put
together key by key, everything else is replaced.

A file is looked for beside the one that names it, then in the folders of ``config_path``: those of the
caller, of that file, and of the files that include it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from windtunnel.config.document import Document, read_document
from windtunnel.config.expand import Names, check_globals, expand_text
from windtunnel.config.places import Place
from windtunnel.errors import ConfigError
from windtunnel.options import nearest, shown

__all__ = ["read_with_includes"]

_INCLUDE = "include"
_CONFIG_PATH = "config_path"
_FOR_EDITORS = "$schema"
_Steps = tuple[str | int, ...]


def read_with_includes(
    path: str | PathLike[str],
    *,
    names: Names,
    config_path: Sequence[str | PathLike[str]] = (),
    globals_files: Sequence[str | PathLike[str]] = (),
) -> Document:
    """Read a file, what it includes, and files of globals, which win over the ``globals`` that are written.

    :param names: what ``$name`` means in the names of files.
    :param config_path: folders to look in before those that are written.
    :param globals_files: each holds names and values; the later one wins.
    :raises ConfigError: with file, line and column, if one of them cannot be used.
    """
    folders = tuple(Path(folder).absolute() for folder in config_path)
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"there is no folder {str(folder)!r}", path=(_CONFIG_PATH,))
    document = read_document(path)
    reader = _Reader(names, folders)
    extra = [read_document(file) for file in globals_files]
    if not extra and not _mentions(document.data):
        return document
    whole = reader.resolved(document, ())
    for one in extra:
        whole = _over(_as_globals(one), whole)
    return Document(data=whole.data, source=str(path), places=lambda: whole.place)


def _mentions(data: Mapping[str, Any]) -> bool:
    """Whether anything is to be done; otherwise places are found only when they are needed."""
    return any(key in data for key in (_INCLUDE, _CONFIG_PATH, _FOR_EDITORS)) or any(
        _has_include(value) for value in data.values()
    )


def _has_include(value: object) -> bool:
    if isinstance(value, Mapping):
        return _INCLUDE in value or any(map(_has_include, value.values()))
    return isinstance(value, list) and any(map(_has_include, value))


class _Part(NamedTuple):
    """A value and where it was written; the places name their files."""

    data: Any
    place: Place


def _as_globals(document: Document) -> _Part:
    try:
        check_globals(document.data, path=())
    except ConfigError as exc:
        raise document.locate(exc) from None
    place = document.places()
    return _Part(
        {"globals": document.data}, Place(1, None, {"globals": _stamped(place, document.source)}, None)
    )


def _stamped(place: Place, source: str) -> Place:
    inside = {key: _stamped(inner, source) for key, inner in place.inside.items()}
    return Place(place.line, place.column, inside, source)


def _over(upper: _Part, lower: _Part) -> _Part:
    """What both say; where they differ, what ``upper`` says."""
    if not (isinstance(upper.data, Mapping) and isinstance(lower.data, Mapping)):
        return upper
    data, inside = dict(lower.data), dict(lower.place.inside)
    for key, value in upper.data.items():
        one = _Part(value, upper.place.find((key,)))
        if key in data:
            one = _over(one, _Part(data[key], lower.place.find((key,))))
        data[key], inside[key] = one
    return _Part(data, Place(upper.place.line, upper.place.column, inside, upper.place.source))


class _Reader:
    """Puts files together.

    :param folders: the search path of the caller.
    """

    def __init__(self, names: Names, folders: tuple[Path, ...]) -> None:
        self._names = names
        self._folders = folders
        self._open: list[Path] = []

    def resolved(self, document: Document, path: _Steps) -> _Part:
        """What a file says that stands at ``path``, with all that it includes."""
        self._open.append(Path(document.source).absolute())
        before = self._folders
        try:
            whole = _Part(document.data, _stamped(document.places(), document.source))
            if path == ():
                self._folders = (*self._folders, *self._own_folders(whole))
                whole = _without(whole, (_CONFIG_PATH, _FOR_EDITORS))
            return self._value(whole, path)
        finally:
            self._folders = before
            self._open.pop()

    def _own_folders(self, whole: _Part) -> list[Path]:
        folders = []
        for text, place in self._texts(whole, _CONFIG_PATH):
            folder = self._open[-1].parent / Path(text).expanduser()
            if not folder.is_dir():
                raise _error(f"there is no folder {str(folder)!r}", place, _CONFIG_PATH)
            folders.append(folder)
        return folders

    def _value(self, part: _Part, path: _Steps) -> _Part:
        data, place = part
        if isinstance(data, list):
            items = [self._value(_Part(one, place.find((i,))), (*path, i)) for i, one in enumerate(data)]
            inside = {index: item.place for index, item in enumerate(items)}
            return _Part([item.data for item in items], Place(place.line, place.column, inside, place.source))
        if not isinstance(data, Mapping):
            return part
        takes = _takes_include(path) and _INCLUDE in data
        own = _without(part, (_INCLUDE,)) if takes else part
        inner = {
            key: self._value(_Part(one, own.place.find((key,))), (*path, key))
            for key, one in own.data.items()
        }
        whole = _Part(
            {key: one.data for key, one in inner.items()},
            Place(place.line, place.column, {key: one.place for key, one in inner.items()}, place.source),
        )
        if takes:
            for text, where in reversed(self._texts(part, _INCLUDE)):
                whole = _over(whole, self._included(text, where, path))
        return whole

    def _included(self, text: str, where: Place, path: _Steps) -> _Part:
        file = self._found(text, where)
        if file.resolve() in [one.resolve() for one in self._open]:
            circle = " → ".join(one.name for one in (*self._open, file))
            raise _error(f"the files include each other in a circle: {circle}", where, _INCLUDE)
        return self.resolved(read_document(file), path)

    def _found(self, text: str, where: Place) -> Path:
        name = Path(text).expanduser()
        folders = [Path(where.source or "").parent, *self._folders]
        for folder in folders:
            if (folder / name).is_file():
                return folder / name
        beside = {file.name for folder in folders if folder.is_dir() for file in folder.iterdir()}
        hint = nearest(name.name, beside)
        searched = ", ".join(str(folder) for folder in folders)
        raise _error(
            f"there is no file {text!r} in {searched}{hint if 'did you mean' in hint else ''}",
            where,
            _INCLUDE,
        )

    def _texts(self, part: _Part, key: str) -> list[tuple[str, Place]]:
        """The texts of ``include`` or ``config_path``, each with its place; ``$name`` is expanded."""
        value, place = part.data.get(key, []), part.place.find((key,))
        several = value if isinstance(value, list) else [value]
        texts = []
        for index, one in enumerate(several):
            where = place.find((index,)) if isinstance(value, list) else place
            if not isinstance(one, str) or not one:
                raise _error(f"expected the path of a file or a list of them, found {shown(one)}", where, key)
            text = str(expand_text(one, self._names, ()))
            if self._names.mistakes:
                raise _error(self._names.mistakes[0].message, where, key)
            texts.append((text, where))
        return texts


def _takes_include(path: _Steps) -> bool:
    return len(path) <= 1 or (path[0] == "environment" and path[-2] == "children")


def _without(part: _Part, keys: Sequence[str]) -> _Part:
    return part._replace(data={key: value for key, value in part.data.items() if key not in keys})


def _error(message: str, place: Place, key: str) -> ConfigError:
    return ConfigError(message, path=(key,), source=place.source, line=place.line, column=place.column)
