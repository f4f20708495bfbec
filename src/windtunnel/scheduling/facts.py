"""What to remember of where and with what trials were run. Blocking: call it in a thread."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["gather"]

_GIT_LIMIT_S = 5.0


def gather(config_file: str | None = None) -> dict[str, Any]:
    """Facts about this machine and these programs, and about the version of ``config_file``.

    What cannot be found out is left out. Nothing is taken from the environment's variables.
    """
    facts: dict[str, Any] = {
        "hostname": platform.node(),
        "system": f"{platform.system()} {platform.release()}",
        "cpus": os.cpu_count(),
        "cpu_model": _cpu_model(),
        "memory_mib": _memory_mib(),
        "python": platform.python_version(),
        "windtunnel": importlib.metadata.version("windtunnel"),
    }
    if config_file:
        facts["config"] = config_file
        facts["git"] = _git(Path(config_file).absolute().parent)
    return {name: fact for name, fact in facts.items() if fact}


def _cpu_model() -> str | None:
    for line in _lines("/proc/cpuinfo"):
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "Hardware"):
            return value.strip()
    return platform.processor() or None


def _memory_mib() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    except (ValueError, OSError, AttributeError):
        return None


def _git(folder: Path) -> dict[str, Any] | None:
    """The repository that holds ``folder``, its commit, and whether the folder differs from it."""
    commit = _ask_git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    remote = _ask_git(folder, "config", "--get", "remote.origin.url") or ""
    top = _ask_git(folder, "rev-parse", "--show-toplevel")
    return {
        "repository": _without_login(remote) or top,
        "commit": commit,
        "dirty": bool(_ask_git(folder, "status", "--porcelain", "--", ".")),
    }


def _without_login(url: str) -> str:
    """``url`` without a name and a password."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else url


def _ask_git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=_GIT_LIMIT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
