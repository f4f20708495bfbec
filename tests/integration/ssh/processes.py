"""What scripts leave behind, and waiting for things."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import anyio
import psutil

__all__ = ["alive", "directories", "find", "gone", "until"]


async def alive(marker: str) -> list[psutil.Process]:
    """The processes that carry the marker in their environment and have not ended."""
    return await anyio.to_thread.run_sync(find, marker)


def find(marker: str) -> list[psutil.Process]:
    """The processes that carry the marker in their environment and have not ended."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MARKER") == marker and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def directories(inside: Path) -> list[str]:
    """What is left of sessions there."""
    return [name for name in os.listdir(inside) if name.startswith("windtunnel-")]


async def until(condition: Callable[[], object], limit_s: float = 10) -> None:
    with anyio.fail_after(limit_s):
        while not await anyio.to_thread.run_sync(condition):
            await anyio.sleep(0.01)
