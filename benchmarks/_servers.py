"""The database servers that the benchmarks measure: those that the tests start, see ``tests/servers.py``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a benchmark is run by its path

from tests.servers import postgresql

__all__ = ["address", "postgresql"]


def address(url: str) -> dict[str, Any]:
    """What bare ``asyncpg.connect`` takes for ``url``, one that ``postgresql`` gave."""
    parts = urlsplit(url)
    return {
        "user": parts.username,
        "database": parts.path.lstrip("/"),
        "host": parse_qs(parts.query)["host"][0],
    }


if __name__ == "__main__":
    sys.exit("this module is shared by the benchmarks; run one of those")
