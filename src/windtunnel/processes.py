"""Names for processes that tell, after their end too, which one was meant."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["Process"]


class Process(NamedTuple):
    """A process of this or another machine.

    :ivar boot: the boot of the machine, as far as process ids are shared: containers have their own.
    :ivar started: when it started, in the kernel's ticks: tells a reused number apart.
    """

    boot: str
    pid: int
    started: str

    @classmethod
    def this(cls) -> Process:
        pid = os.getpid()
        return cls(_boot(), pid, _started(pid))

    @property
    def is_certainly_dead(self) -> bool:
        """Whether it ran here and is gone. One that ran elsewhere may be alive."""
        return self.boot == _boot() and _started(self.pid) != self.started


@cache
def _boot() -> str:
    try:
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        namespace = ""
    return f"{_read('/proc/sys/kernel/random/boot_id')[:8]}:{namespace}"


def _started(pid: int) -> str:
    """Empty if it is gone."""
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
