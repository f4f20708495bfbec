"""Whether a host is the one we know: known_hosts files, pinned keys, keys accepted when first seen."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import anyio
import asyncssh
from anyio import to_thread
from asyncssh import SSHKey, SSHKnownHosts
from asyncssh.public_key import get_default_certificate_algs, get_default_public_key_algs

from windtunnel.errors import ConfigError

__all__ = ["HostKeyCheck", "KnownHosts", "KnownHostsFiles", "Refusal", "record", "why_refused"]


@dataclass(frozen=True)
class KnownHosts:
    """What some known_hosts files say.

    :ivar paths: the files, also those that do not exist.
    """

    paths: tuple[Path, ...]
    table: SSHKnownHosts

    def knows(self, host: str, address: str, port: int) -> bool:
        """Whether there is any line about this host, be it to refuse it."""
        found = self.table.match(host, address, port if port != 22 else None)
        return any(found[:3]) or any(self.table.match(_entry_name(host, port), "", None)[:3])

    def algorithms(self, host: str, address: str, port: int) -> list[str]:
        """What to ask the host to prove itself with: first what is known of it.

        Not only that, or a host with a key of another type could not be told from one that is broken.
        """
        keys, authorities, *_ = self.table.match(host, address, port if port != 22 else None)
        known = [name for key in keys for name in key.sig_algorithms]
        certified = get_default_certificate_algs() if authorities else []
        every = dict.fromkeys([*certified, *known, *get_default_public_key_algs()])
        return [name.decode("ascii") for name in every]

    def entries(self, host: str, port: int) -> list[tuple[str, SSHKey, bool]]:
        """Place, key and whether it is revoked, of each line about this host; reads the files again."""
        # Lines for any port count only if there is none for this one.
        for name in dict.fromkeys((_entry_name(host, port), host)):
            if found := list(self._about(name)):
                return found
        return []

    def _about(self, name: str) -> Iterator[tuple[str, SSHKey, bool]]:
        for path in self.paths:
            for number, line in enumerate(_lines(path), 1):
                keys, authorities, revoked, *_ = SSHKnownHosts(line).match(name, "", None)
                for key in (*keys, *authorities, *revoked):
                    yield f"{str(path)!r} line {number}", key, key in revoked


class KnownHostsFiles:
    """Reads known_hosts files, each state of them once.

    :param threads: how many of them are read at once.
    """

    def __init__(self, threads: anyio.CapacityLimiter) -> None:
        self._threads = threads
        self._read: dict[tuple[Path, ...], tuple[object, KnownHosts]] = {}

    async def load(self, paths: Sequence[Path]) -> KnownHosts:
        """:raises ConfigError: if a file cannot be read or a line in it not be understood."""
        places = tuple(path.expanduser() for path in paths)
        return await to_thread.run_sync(self._load, places, limiter=self._threads)

    def _load(self, paths: tuple[Path, ...]) -> KnownHosts:
        state = [_state(path) for path in paths]
        before, known = self._read.get(paths, (None, None))
        if known is None or before != state:
            known = KnownHosts(paths, _parse(paths))
            self._read[paths] = (state, known)
        return known


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise ConfigError(f"cannot read the known_hosts file {str(path)!r}: {exc}") from exc


def _parse(paths: Sequence[Path]) -> SSHKnownHosts:
    table = SSHKnownHosts("")
    for path in paths:
        for number, line in enumerate(_lines(path), 1):
            try:
                table.load(line)
            except ValueError as exc:
                raise ConfigError(str(exc), source=str(path), line=number) from exc
    return table


class HostKeyCheck(asyncssh.SSHClient):
    """Judges the key that a host shows, and tells when the connection is gone.

    :param pins: public keys or fingerprints, one of which it must be; then the files do not count.
    :param accept_new: let in a host that no file says anything about; ``accepted`` is its key then.
    """

    def __init__(
        self,
        known: KnownHosts,
        *,
        pins: Sequence[str],
        accept_new: bool,
        on_lost: Callable[[Exception | None], None],
    ) -> None:
        self._known = known
        self._pins = pins
        self._accept_new = accept_new
        self._on_lost = on_lost
        self.offered: SSHKey | None = None
        self.accepted: SSHKey | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: SSHKey) -> bool:
        """Asked about keys that the files do not vouch for."""
        self.offered = key
        if self._pins:
            return any(_is_pinned(key, pin) for pin in self._pins)
        if self._accept_new and not self._known.knows(host, addr, port):
            self.accepted = key
            return True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost(exc)


def _is_pinned(key: SSHKey, pin: str) -> bool:
    if pin.startswith("SHA256:"):
        return key.get_fingerprint("sha256") == pin.rstrip("=")
    return _public(key) == " ".join(pin.split()[:2])


def _public(key: SSHKey) -> str:
    """Type and base64, as files have it."""
    return " ".join(key.export_public_key("openssh").decode().split()[:2])


def _shown(key: SSHKey) -> str:
    return f"{key.get_algorithm()} {key.get_fingerprint('sha256')}"


def _entry_name(host: str, port: int) -> str:
    return host if port == 22 else f"[{host}]:{port}"


class Refusal(NamedTuple):
    """Why a key is refused: in a word, and in full."""

    state: str
    why: str


def why_refused(
    known: KnownHosts, host: str, port: int, *, offered: SSHKey | None, pins: Sequence[str]
) -> Refusal:
    """What a person needs to know and do about a refused key; reads files."""
    shows = "it shows none we may judge" if offered is None else f"it shows {_shown(offered)}"
    if pins:
        wanted = " or ".join(pins)
        return Refusal(
            "changed", f"its host key is not the one pinned in host_key: {shows}, expected {wanted}"
        )
    entries = known.entries(host, port)
    for place, key, is_revoked in entries:
        if is_revoked and offered in (key, None):
            return Refusal("revoked", f"its host key was revoked: {place} revokes {_shown(key)}")
    files = ", ".join(repr(str(path)) for path in known.paths)
    if not entries:
        return Refusal(
            "unknown",
            f"its host key is not known: {shows}, and there is no line for {_entry_name(host, port)} "
            f"in {files}; add it there once you have checked it, pin it with host_key, "
            "or set host_keys: accept-new",
        )
    has = "; ".join(f"{place} has {_shown(key)}" for place, key, _ in entries)
    return Refusal(
        "changed",
        f"its host key has changed, so it may be another machine: {shows}, but {has}; "
        "if it was installed anew, remove that line",
    )


def record(path: Path, host: str, port: int, key: SSHKey) -> bool:
    """Add a line for a host seen first, safe against other processes that do the same; reads and writes.

    :returns: False if another key was recorded for the host meanwhile.
    """
    path = path.expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        entries = KnownHosts((path,), SSHKnownHosts("")).entries(host, port)
        if entries:
            return any(known == key and not is_revoked for _, known, is_revoked in entries)
        size = os.fstat(fd).st_size
        is_torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        line = f"{_entry_name(host, port)} {_public(key)}\n".encode()
        # One write: a reader sees the whole line or nothing of it.
        os.write(fd, b"\n" * is_torn + line)
        os.fsync(fd)
    finally:
        os.close(fd)
    return True
