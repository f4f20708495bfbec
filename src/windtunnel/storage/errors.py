"""The one place where the database's errors become ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc

from windtunnel.errors import NotADatabase, StorageError, StorageUnavailable

__all__ = ["Locked", "mapped_errors"]


class Locked(StorageUnavailable):
    """Another program holds a lock: the same may succeed a moment later."""


# What SQLite says → our class and what to do. Matched in this order, on the lower-case message.
_SQLITE = (
    ("file is not a database", NotADatabase, "it is not an SQLite database; choose another file"),
    ("malformed", NotADatabase, "it is damaged; restore a copy, or run 'PRAGMA integrity_check' on it"),
    ("locked", Locked, "another program holds a lock on it; close that program and run again"),
    (
        "disk is full",
        StorageUnavailable,
        "the disk is full; what was finished is safe, make room and run again",
    ),
    ("readonly", StorageUnavailable, "it is read-only; change its permissions or choose another file"),
    ("read-only", StorageUnavailable, "it is read-only; change its permissions or choose another file"),
    (
        "unable to open",
        StorageUnavailable,
        "it cannot be opened; check that the folder exists and may be written",
    ),
    ("disk i/o error", StorageUnavailable, "the disk reports an error; check the device and its free space"),
)


@contextmanager
def mapped_errors(place: str) -> Iterator[None]:
    """Raise what SQLAlchemy raises inside the block as a StorageError.

    :param place: the database, as people know it and without its password.
    """
    try:
        yield
    except (
        exc.SQLAlchemyError,
        sqlite3.Error,
    ) as error:  # the bare driver speaks while a connection is set up
        raise _as_storage_error(error, place) from error


def _as_storage_error(error: Exception, place: str) -> StorageError:
    said = str(error.orig) if isinstance(error, exc.DBAPIError) else str(error)
    if isinstance(error, exc.DatabaseError | sqlite3.DatabaseError):
        for fragment, kind, advice in _SQLITE:
            if fragment in said.lower():
                return kind(f"{place}: {said}: {advice}")
    if isinstance(error, exc.TimeoutError):
        return StorageUnavailable(f"{place}: no connection became free in time: {said}")
    return StorageError(f"{place}: {said}")
