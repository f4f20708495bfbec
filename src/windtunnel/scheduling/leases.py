"""Who holds a trial, and how others can tell that it never will again."""

from __future__ import annotations

import socket
import uuid

from windtunnel.processes import Process

__all__ = ["certainly_dead", "new_owner"]


def new_owner() -> str:
    """A name for this worker that no other ever has: machine, process and a random part."""
    boot, pid, started = Process.this()
    return f"{socket.gethostname()}:{boot}/{pid}/{started}/{uuid.uuid4().hex[:12]}"


def certainly_dead(owner: str) -> bool:
    """Whether the worker named ``owner`` ran on this machine and its process is gone.

    A worker on another machine, or one whose name cannot be read, may be alive: only its lease can tell.
    """
    parts = owner.rsplit("/", maxsplit=3)
    if len(parts) < 4 or not parts[1].isdecimal():
        return False
    machine, pid, started, _ = parts
    name, _, boot = machine.partition(":")
    return name == socket.gethostname() and Process(boot, int(pid), started).is_certainly_dead
