"""What the shell completes: ids of experiments, read from an SQLite file without loading the program."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import typer

from windtunnel.cli import DEFAULT_STORAGE

__all__ = ["experiment_ids"]

_PREFIX = "sqlite:///"
_MOST = 100
_PATIENCE_S = 0.2


def experiment_ids(ctx: typer.Context, incomplete: str) -> list[str]:
    """The ids that begin with what is typed, the newest first; none if the database is no SQLite file."""
    url = str(ctx.params.get("storage") or DEFAULT_STORAGE)
    file = Path(url.removeprefix(_PREFIX))
    if not url.startswith(_PREFIX) or not file.is_file():
        return []
    try:
        with closing(
            sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, timeout=_PATIENCE_S)
        ) as opened:
            rows = opened.execute(
                "SELECT name FROM experiment WHERE substr(name, 1, ?) = ? ORDER BY id DESC LIMIT ?",
                (len(incomplete), incomplete, _MOST),
            )
            return [name for (name,) in rows]
    except sqlite3.Error:
        return []  # there is nobody to tell
