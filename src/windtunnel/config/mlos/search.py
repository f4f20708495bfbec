"""Where the files of a tree are found."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path

from windtunnel.config.mlos.builtin import BUILTIN
from windtunnel.config.mlos.nodes import Node, parse
from windtunnel.options import nearest
from windtunnel.texts import unreadable

__all__ = ["SearchPath"]


class SearchPath:
    """The folders in which files are looked for: the current one first, then those given, in their order.

    The sample configurations of mlos_bench come last, if it is installed, and then ``BUILTIN``.

    :ivar directory: the current folder.
    :ivar home: the folder of the description that is made, from which its paths begin.
    :ivar read: every file and text that was loaded, for the names in them.
    """

    def __init__(self, folders: Iterable[str], directory: Path, home: Path) -> None:
        self.directory = directory
        self.home = home
        wanted = [(directory / Path(folder).expanduser()).absolute() for folder in folders]
        samples = _samples()
        first = [] if directory in wanted else [directory]
        last = [] if samples is None else [samples]
        self.folders = list(dict.fromkeys([*first, *wanted, *last]))
        self.read: list[Node] = []

    def resolve(self, path: str) -> Path | None:
        """The first file or folder of this name; None if there is none."""
        if not path or "\0" in path:
            return None
        candidates = (folder / path for folder in self.folders)  # an absolute path is itself
        return next((found for found in candidates if _exists(found)), None)

    def load(self, named: Node) -> Node:
        """The JSON5 that a value names: a file's, or the value itself where it holds a bracket.

        :raises ConfigError: if there is no such file, or it is not valid.
        """
        text = named.text
        found = self.resolve(text)
        if found is None and ("{" in text or "[" in text):
            loaded = parse(text, named.place.source or "inline JSON")
        elif found is None and text in BUILTIN:
            loaded = parse(BUILTIN[text], f"built-in {text}")
        elif found is None:
            raise named.error(self._missing(text))
        else:
            loaded = parse(_read(found, named), self.shown(found))
        loaded = _without_schema(loaded)
        self.read.append(loaded)
        return loaded

    def shown(self, path: Path) -> str:
        """A path as people know it: relative, if it is below the current folder."""
        if path.is_relative_to(self.directory):
            return str(path.relative_to(self.directory))
        return str(path)

    def _missing(self, text: str) -> str:
        looked = ", ".join(self.shown(folder) for folder in self.folders)
        similar = {self.shown_below(path) for path in self._siblings(text)}
        hint = nearest(text, similar) if similar else ""
        meant = hint if "did you mean" in hint else ""
        return f"there is no file {text!r} in {looked}{meant}; see --config_path"

    def shown_below(self, path: Path) -> str:
        """A path relative to the folder of the search path it is in."""
        folder = next((one for one in self.folders if path.is_relative_to(one)), Path())
        return str(path.relative_to(folder))

    def _siblings(self, text: str) -> Iterator[Path]:
        for folder in self.folders:
            parent = (folder / text).parent
            if parent.is_dir():
                yield from (path for path in parent.iterdir() if path.is_file())


def _samples() -> Path | None:
    spec = importlib.util.find_spec("mlos_bench")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "config"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # too long for a name
        return False


def _read(path: Path, named: Node) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as exc:
        raise named.error(unreadable(path, exc)) from None


def _without_schema(node: Node) -> Node:
    if isinstance(node.value, dict) and "$schema" in node.value:
        return node.with_value({key: child for key, child in node.value.items() if key != "$schema"})
    return node
