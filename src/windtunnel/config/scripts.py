"""Script lines that cannot work, as far as that can be seen without a shell."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["broken_files"]

_COMMAND_START = re.compile(r"^|[;&|({]\s*|\b(?:then|do|else|exec|nohup|time|sudo|env|!)\s+")
_ASSIGNMENTS = r"(?:[A-Za-z_]\w*=\S*\s+)*"
_INTERPRETER = r"(?:(?:\S*/)?(?:sh|bash|dash|zsh|ksh|python[\d.]*|perl|ruby|node|lua)\s+(?:-\w+\s+)*)?"
_FILE = r"(?P<quote>[\"']?)(?P<path>(?:\$config_dir|\$\{config_dir\})?/[^\s\"';&|<>(){}$*?\[`\\]+)(?P=quote)"
_STARTED = re.compile(rf"\s*{_ASSIGNMENTS}(?P<interpreter>{_INTERPRETER}){_FILE}(?=[\s;&|)]|$)")
_CONFIG_DIR = re.compile(r"\$config_dir|\$\{config_dir\}")


def broken_files(line: str, directory: Path) -> Iterator[str]:
    """What is wrong with the files that a shell line starts: its commands, and what it gives interpreters.

    Only absolute paths and those that begin with ``$config_dir`` are looked at: the others depend on the
    trial's directory and on the search path.

    :param directory: what ``$config_dir`` stands for.
    """
    for start in _COMMAND_START.finditer(line):
        if (match := _STARTED.match(line, start.end())) is None:
            continue
        path = Path(_CONFIG_DIR.sub(lambda _: str(directory), match["path"]))
        if not path.exists():
            yield f"there is no file {str(path)!r}"
        elif path.is_file() and not match["interpreter"] and not os.access(path, os.X_OK):
            yield f"{str(path)!r} is not executable; chmod +x it, or name what runs it"
