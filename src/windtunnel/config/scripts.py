"""Script lines that cannot work, as far as that can be seen without a shell."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from windtunnel.options import REFERENCE

__all__ = ["broken_files"]

_NOTHING: Mapping[str, str] = MappingProxyType({})
_COMMAND_START = re.compile(r"^|[;&|({]\s*|\b(?:then|do|else|exec|nohup|time|sudo|env|!)\s+")
_ASSIGNMENTS = r"(?:[A-Za-z_]\w*=\S*\s+)*"
_INTERPRETER = r"(?:(?:\S*/)?(?:sh|bash|dash|zsh|ksh|python[\d.]*|perl|ruby|node|lua)\s+(?:-\w+\s+)*)?"
_PART = r"(?:[^\s\"';&|<>(){}$*?\[`\\]|\$\w+|\$\{\w+\})"
_FILE = rf"(?P<quote>[\"']?)(?P<path>{_PART}*/{_PART}+|{_PART}+\.\w+)(?P=quote)"
_STARTED = re.compile(rf"\s*{_ASSIGNMENTS}(?P<interpreter>{_INTERPRETER}){_FILE}(?=[\s;&|)]|$)")


def broken_files(
    line: str, directory: Path, *, names: Mapping[str, str] = _NOTHING, others: Sequence[str] = ()
) -> Iterator[str]:
    """What is wrong with the files that a shell line starts: its commands, and what it gives interpreters.

    Looked at are absolute paths, those that begin with ``~`` or with a name that is known, and relative ones
    if there is such a file beside the description: the shell looks for it in the trial's own folder.

    :param directory: what ``$config_dir`` stands for.
    :param names: further names that the shell knows, with their values.
    :param others: the lines of all steps; what one of them sets or makes is left alone.
    """
    known = {"config_dir": str(directory), **names}
    known = {name: value for name, value in known.items() if not _is_set(name, others)}
    for start in _COMMAND_START.finditer(line):
        if (match := _STARTED.match(line, start.end())) is None:
            continue
        path = _resolved(match["path"], known, is_literal=match["quote"] == "'")
        if path is None:
            continue
        if not path.is_absolute():
            if (match["interpreter"] or "/" in match["path"]) and _is_beside(path, directory, line, others):
                yield (
                    f"{match['path']!r} is looked for in the trial's own folder; that beside this file is "
                    f"'$config_dir/{path}'"
                )
        elif not path.exists():
            yield f"there is no file {str(path)!r}"
        elif path.is_file() and not match["interpreter"] and not os.access(path, os.X_OK):
            yield f"{str(path)!r} is not executable; chmod +x it, or name what runs it"


def _resolved(text: str, names: Mapping[str, str], *, is_literal: bool) -> Path | None:
    """The path as the shell would see it; None if it has a name that is not known."""
    found = [match["name"] for match in REFERENCE.finditer(text)]
    if is_literal or any(name not in names for name in found):
        return None if found else Path(text)
    expanded = REFERENCE.sub(lambda match: names[match["name"]], text)
    return Path(expanded).expanduser() if text.startswith("~/") else Path(expanded)


def _is_set(name: str, lines: Sequence[str]) -> bool:
    """Whether a script gives the name another value."""
    return any(re.search(rf"(?<![\w$]){name}=|\b(?:for|read)\s+(?:-\w+\s+)*{name}\b", line) for line in lines)


def _is_beside(path: Path, directory: Path, line: str, others: Sequence[str]) -> bool:
    """Whether the file is beside the description, and no other line seems to bring it to the trial."""
    mentions = sum(one.count(path.name) for one in others)
    return mentions <= line.count(path.name) and ".." not in path.parts and (directory / path).is_file()
