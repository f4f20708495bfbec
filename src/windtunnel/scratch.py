"""Directories of this process, and what such have left that were killed.

A process that ends in an orderly way removes its own. One that is killed cannot: the next one of the same
user on the same machine does.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path

from windtunnel.processes import Process

__all__ = ["make_scratch"]

_NAME = re.compile(r"windtunnel-(?P<pid>\d+)-(?P<started>\w+)-(?P<boot>\w*-\w*)-\w+")


def make_scratch() -> Path:
    """A new directory in the system's place for such, named after this process.

    :raises OSError: if it cannot be made.
    """
    _sweep(tempfile.gettempdir())
    boot, pid, started = Process.this()
    return Path(tempfile.mkdtemp(prefix=f"windtunnel-{pid}-{started}-{boot.replace(':', '-')}-"))


@cache
def _sweep(folder: str) -> None:
    """Remove what killed processes of this user have left; once is enough for a process."""
    try:
        left = [Path(one.path) for one in os.scandir(folder) if _is_left(one)]
    except OSError:  # making a directory there will say what is wrong
        return
    for directory in left:
        shutil.rmtree(directory, ignore_errors=True)


def _is_left(entry: os.DirEntry[str]) -> bool:
    found = _NAME.fullmatch(entry.name)
    if found is None or not entry.is_dir(follow_symlinks=False):
        return False
    owner = Process(found["boot"].replace("-", ":"), int(found["pid"]), found["started"])
    return entry.stat(follow_symlinks=False).st_uid == os.geteuid() and owner.is_certainly_dead
