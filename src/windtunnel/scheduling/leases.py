"""Who holds a trial, and how others can tell that it never will again."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

__all__ = ["certainly_dead", "new_owner"]


def new_owner() -> str:
    """A name for this worker that no other ever has: machine, process and a random part."""
    pid = os.getpid()
    return f"{_machine()}/{pid}/{_started(pid)}/{uuid.uuid4().hex[:12]}"


def certainly_dead(owner: str) -> bool:
    """Whether the worker named ``owner`` ran on this machine and its process is gone.

    A worker on another machine, or one whose name cannot be read, may be alive: only its lease can tell.
    """
    machine, _, rest = owner.rpartition("/")[0].rpartition("/")[0].rpartition("/")
    parts = owner.split("/")
    if len(parts) < 4 or not rest.isdecimal() or machine != _machine():
        return False
    return _started(int(rest)) != parts[-2]


def _machine() -> str:
    """This boot of this machine, as far as process ids are shared: containers have their own."""
    return f"{socket.gethostname()}:{_read('/proc/sys/kernel/random/boot_id')[:8]}:{_pid_namespace()}"


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When the process started, in the kernel's ticks: tells a reused number apart. Empty if it is gone."""
    stat = _read(f"/proc/{pid}/stat")
    if stat:
        fields = stat.rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)  # no /proc: only whether it lives
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "alive"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
