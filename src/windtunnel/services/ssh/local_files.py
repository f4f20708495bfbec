"""This side of a transfer, for worker threads: reading, checking and putting files into place.

What is not complete yet stands beside its target, under a name as on the other side (see ``programs``).
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

__all__ = ["CHUNK", "Digests", "Parts", "Source", "checksum", "hashed", "part_id", "permissions", "remove"]

CHUNK = 256 * 1024
_MOST_KNOWN = 10_000


def part_id(name: str) -> str:
    """What the names of incomplete files have of the name of their target."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def permissions(mode: int) -> int:
    """What of a mode is kept; nobody gets more rights by a copy."""
    return stat.S_IMODE(mode) & 0o777


def hashed(path: Path, size: int | None = None, stop: Callable[[], bool] = lambda: False) -> hashlib._Hash:
    """The SHA-256 of a file, or of its beginning.

    :param stop: asked again and again whether nobody wants it any more.
    """
    digest = hashlib.sha256()
    left = -1 if size is None else size
    with path.open("rb", buffering=0) as file:
        while left and not stop() and (chunk := file.read(4 * CHUNK if left < 0 else min(left, 4 * CHUNK))):
            digest.update(chunk)
            left -= len(chunk) if left > 0 else 0
    return digest


def checksum(path: Path, size: int | None = None, stop: Callable[[], bool] = lambda: False) -> str:
    """The same as text."""
    return hashed(path, size, stop).hexdigest()


@dataclass(frozen=True, slots=True)
class Source:
    """A file that is to be sent."""

    path: Path
    size: int
    mode: int
    digest: str
    content: bytes | None
    """All of it, if that is little."""


class Digests:
    """The checksums of files, computed again only when a file has changed. For any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: dict[Path, tuple[tuple[int, ...], str]] = {}

    def source(self, path: Path, stop: Callable[[], bool]) -> Source:
        """:raises OSError: if it cannot be read, or is no file."""
        with path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise OSError("it is neither a file nor a directory")
            content = file.read() if status.st_size <= 4 * CHUNK else None
        if content is not None and len(content) != status.st_size:
            raise OSError("it changed while it was read")
        digest = self._digest(path, status, content, stop)
        return Source(path, status.st_size, permissions(status.st_mode), digest, content)

    def _digest(
        self, path: Path, status: os.stat_result, content: bytes | None, stop: Callable[[], bool]
    ) -> str:
        stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)
        with self._lock:
            if len(self._known) > _MOST_KNOWN:
                self._known.clear()
            known = self._known.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        if content is None:
            digest = checksum(path, stop=stop)
            if stop():
                return digest
        else:
            digest = hashlib.sha256(content).hexdigest()
        with self._lock:
            self._known[path] = stamp, digest
        return digest


class Parts:
    """Names for what is not complete yet, and what earlier attempts have left of it. For any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._numbers = itertools.count(1)
        self._in_use: set[Path] = set()

    def begin(self, target: Path, *, resume: bool) -> Path:
        """A name that nobody else uses.

        :param resume: if a file was left, it has this name now. Whatever else was left is removed.
        :raises OSError: if the directory cannot be made or read.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".windtunnel-{part_id(target.name)}-{socket.gethostname()}-"
        with self._lock:
            part = target.parent / f"{prefix}{os.getpid()}.{next(self._numbers)}"
            for old in self._left(target.parent, prefix):
                if resume and old.is_file() and not part.exists():
                    old.rename(part)
                else:
                    remove(old)
            self._in_use.add(part)
        return part

    def _left(self, folder: Path, prefix: str) -> Iterator[Path]:
        for name in sorted(os.listdir(folder)):
            pid, _, number = name.removeprefix(prefix).partition(".")
            if not (name.startswith(prefix) and pid.isdecimal() and number.isdecimal()):
                continue
            path = folder / name
            if path.is_symlink() or path.lstat().st_uid != os.geteuid() or path in self._in_use:
                continue
            if int(pid) == os.getpid() or not _is_alive(int(pid)):
                yield path

    def end(self, part: Path, *, keep: bool = False) -> None:
        """It has another name now, or is removed, or is left to the next attempt."""
        with self._lock:
            self._in_use.discard(part)
        if not keep:
            remove(part)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def remove(path: Path) -> None:
    """Remove a file or a whole directory, whatever its permissions; nothing else if it is not there."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    for folder, _, _ in os.walk(path):  # it does not follow links
        os.chmod(folder, 0o700)
    shutil.rmtree(path)
