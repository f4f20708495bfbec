"""Directories as tape archives, for worker threads: made here, and unpacked without trusting them."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import tarfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from windtunnel.services.ssh.local_files import CHUNK, checksum, permissions

__all__ = ["Entry", "Unpacked", "UnsafeArchive", "archive", "entries", "merge", "read_checksums", "unpack"]

logger = logging.getLogger(__name__)

_BLOCK = tarfile.BLOCKSIZE


class UnsafeArchive(Exception):
    """It would write outside the directory that it is unpacked into, or is damaged."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A directory, a file or a link of a tree.

    :ivar name: relative to the tree, empty for itself.
    :ivar link: where it leads, None for no link.
    """

    name: str
    status: os.stat_result
    link: str | None

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.status.st_mode)


def entries(root: Path) -> list[Entry]:
    """All of a tree, parents first.

    :raises OSError: if a part of it cannot be read.
    """
    found = [Entry("", root.stat(), None)]
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as scan:
            here = sorted(scan, key=lambda one: one.name)
        for one in here:
            name = f"{folder}/{one.name}" if folder else one.name
            status = one.stat(follow_symlinks=False)
            if one.is_symlink():
                found.append(Entry(name, status, os.readlink(one.path)))
            elif one.is_dir():
                found.append(Entry(name, status, None))
                folders.append(name)
            elif one.is_file():
                found.append(Entry(name, status, None))
            else:
                logger.warning("%r is neither file, directory nor link and is left out", one.path)
    return found


def archive(root: Path, chosen: Sequence[Entry], digests: dict[str, str]) -> Generator[bytes, None, None]:
    """The archive of these entries, in pieces.

    :param digests: gets the checksum of each file.
    :raises OSError: if a file cannot be read or changes meanwhile.
    """
    pending = bytearray()
    for entry in chosen:
        pending += _header(entry)
        if entry.is_file:
            for chunk in _content(root / entry.name, entry, digests):
                pending += chunk
                if len(pending) >= CHUNK:
                    yield bytes(pending)
                    pending.clear()
            pending += bytes(-entry.status.st_size % _BLOCK)
        elif len(pending) >= CHUNK:
            yield bytes(pending)
            pending.clear()
    pending += bytes(2 * _BLOCK)
    yield bytes(pending)


def _header(entry: Entry) -> bytes:
    info = tarfile.TarInfo(f"./{entry.name}")
    info.mode = permissions(entry.status.st_mode)
    info.mtime = int(entry.status.st_mtime)
    if entry.link is not None:
        info.type, info.linkname = tarfile.SYMTYPE, entry.link
    elif entry.is_file:
        info.size = entry.status.st_size
    else:
        info.type = tarfile.DIRTYPE
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _content(path: Path, entry: Entry, digests: dict[str, str]) -> Iterator[bytes]:
    digest, left = hashlib.sha256(), entry.status.st_size
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(handle, "rb", buffering=0) as file:
        while left:
            chunk = file.read(min(left, CHUNK))
            if not chunk:
                raise OSError(f"{entry.name!r} changed while it was read")
            left -= len(chunk)
            digest.update(chunk)
            yield chunk
    digests[entry.name] = digest.hexdigest()


@dataclass
class Unpacked:
    """What was in an archive.

    :ivar files: name → checksum.
    :ivar size: bytes of all files.
    """

    files: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)
    size: int = 0


def unpack(stream: IO[bytes], root: Path) -> Unpacked:
    """Unpack into an empty directory. Nothing outside is written, whatever the archive says.

    :raises UnsafeArchive: if it says so, or ends too early.
    :raises OSError: if that cannot be written.
    """
    done = Unpacked()
    try:
        with tarfile.open(
            fileobj=stream, mode="r|", encoding="utf-8", errors="surrogateescape", ignore_zeros=False
        ) as tape:
            for info in tape:
                _unpack_one(tape, info, root, done)
                tape.members = []  # type: ignore[attr-defined]  # it would keep all of them
    except (tarfile.TarError, EOFError) as exc:
        raise UnsafeArchive(f"the archive is damaged or ends too early: {exc}") from exc
    _make_links(root, done.links)
    return done


def read_checksums(stream: IO[bytes]) -> dict[str, str]:
    """The checksums of the files in an archive.

    :raises UnsafeArchive: if it is damaged.
    """
    found: dict[str, str] = {}
    try:
        with tarfile.open(fileobj=stream, mode="r|", encoding="utf-8", errors="surrogateescape") as tape:
            for info in tape:
                if content := tape.extractfile(info) if info.isreg() else None:
                    found[_safe(info.name)] = _hashed(content)
                elif info.islnk():
                    found[_safe(info.name)] = found.get(_safe(info.linkname), "")
                tape.members = []  # type: ignore[attr-defined]  # it would keep all of them
    except (tarfile.TarError, EOFError) as exc:
        raise UnsafeArchive(f"the archive is damaged or ends too early: {exc}") from exc
    return found


def _hashed(content: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := content.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _unpack_one(tape: tarfile.TarFile, info: tarfile.TarInfo, root: Path, done: Unpacked) -> None:
    name = _safe(info.name)
    path = root / name
    if info.isdir():
        _make_folders(root, name)
        done.modes[name] = permissions(info.mode)
        return
    if not name:
        raise UnsafeArchive("a file in the archive has no name")
    _make_folders(root, os.path.dirname(name))
    if info.issym():
        done.links[name] = info.linkname
    elif info.islnk():
        first = _safe(info.linkname)
        if first not in done.files:
            raise UnsafeArchive(f"{name!r} in the archive is another name of {first!r}, which is not there")
        os.link(root / first, path, follow_symlinks=False)
        done.files[name] = done.files[first]
    elif info.isreg():
        content = tape.extractfile(info)
        assert content is not None, "it is a file"  # noqa: S101
        done.files[name] = _write(content, path, permissions(info.mode))
        done.size += info.size
    else:
        logger.warning("%r on the host is neither file, directory nor link and is left out", name)


def _safe(name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise UnsafeArchive(f"the host sent the name {name!r}, which leads out of the directory; refused")
    return "/".join(parts)


def _make_folders(root: Path, name: str) -> None:
    # There are no links yet: they are made when all else is written.
    try:
        (root / name).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as exc:
        raise UnsafeArchive(f"{name!r} is a file and a directory in the archive") from exc


def _write(content: IO[bytes], path: Path, mode: int) -> str:
    digest = hashlib.sha256()
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except (FileExistsError, IsADirectoryError) as exc:
        raise UnsafeArchive(f"{path.name!r} is in the archive twice") from exc
    with os.fdopen(handle, "wb", buffering=0) as file:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
            file.write(chunk)
        os.fchmod(file.fileno(), mode)
    return digest.hexdigest()


def _make_links(root: Path, links: dict[str, str]) -> None:
    """Make the links, and take away those that lead out; one may do so only because of another."""
    for name, target in links.items():
        try:
            os.symlink(target, root / name)
        except FileExistsError as exc:
            raise UnsafeArchive(f"{name!r} is in the archive twice") from exc
    inside = os.path.realpath(root)
    outside = True
    while outside:
        outside = False
        for name in list(links):
            if not _is_inside(os.path.realpath(root / name), inside) or links[name].startswith("/"):
                logger.warning(
                    "the link %r → %r leads out of the directory and is left out", name, links[name]
                )
                os.unlink(root / name)
                del links[name]
                outside = True


def _is_inside(path: str, root: str) -> bool:
    return path == root or path.startswith(f"{root}/")


def merge(part: Path, target: Path, unpacked: Unpacked) -> int:
    """Give it its name, or move what is in it into the directory of that name.

    :returns: how many files were there already.
    :raises OSError: if that is not possible.
    """
    if not target.is_dir():
        _set_modes(part, unpacked.modes)
        part.rename(target)
        return 0
    made = {name: mode for name, mode in unpacked.modes.items() if _make_target_folder(target, name)}
    skipped = 0
    for name in (*unpacked.files, *unpacked.links):
        place = target / name
        if not place.parent.is_dir():
            _make_target_folder(target, os.path.dirname(name))
        if name in unpacked.files and _is_same(part / name, place, unpacked.files[name]):
            place.chmod((part / name).stat().st_mode)
            skipped += 1
        else:
            os.replace(part / name, place)
    _set_modes(target, made)
    return skipped


def _set_modes(root: Path, modes: dict[str, int]) -> None:
    for name, mode in reversed(modes.items()):  # parents at last
        os.chmod(root / name, mode)


def _make_target_folder(target: Path, name: str) -> bool:
    path, is_new = target, False
    if not name:
        return False
    for step in name.split("/"):
        path /= step
        if path.is_symlink() or (path.exists() and not path.is_dir()):
            raise NotADirectoryError(f"{str(path)!r} is there and no directory")
        is_new = not path.exists()
        if is_new:
            path.mkdir()
    return is_new


def _is_same(new: Path, old: Path, digest: str) -> bool:
    if old.is_symlink() or not old.is_file() or old.stat().st_size != new.stat().st_size:
        return False
    return checksum(old) == digest
