"""The one place where the database's errors become ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc

from windtunnel.errors import NotADatabase, StorageError, StorageUnavailable

__all__ = ["Disconnected", "Locked", "mapped_errors", "translated"]


class Locked(StorageUnavailable):
    """Somebody else holds a lock: the same may succeed a moment later."""


class Disconnected(StorageUnavailable):
    """The server cannot be reached, or went away: the same may succeed over a new connection."""


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


# What servers' drivers say, by SQLSTATE or MySQL's number, likewise.
_SERVER = (
    (("28P01", "28000", 1045, 1698), StorageUnavailable, "check the user and the password in the URL"),
    (("3D000", 1049), StorageUnavailable, "there is no such database; create it first"),
    (("42501", 1044, 1142), StorageUnavailable, "the user lacks a privilege; grant it"),
    (("40P01", "40001", "55P03", 1205, 1213), Locked, "others write the same rows"),
    (("53100", 1021, 1114), StorageUnavailable, "the server's disk is full; what was finished is safe"),
    (
        (
            "57P01",
            "57P02",
            "57P03",
            "08000",
            "08001",
            "08003",
            "08006",
            "53300",
            1040,
            1053,
            2003,
            2006,
            2013,
        ),
        Disconnected,
        "the server went away or takes no connections; is it running?",
    ),
)
_DRIVERS = ("asyncpg", "aiomysql", "pymysql")


@contextmanager
def mapped_errors(place: str) -> Iterator[None]:
    """Raise what the database layer raises inside the block as a StorageError.

    :param place: the database, as people know it and without its password.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        told = translated(error, place)
        if told is None:
            raise
        raise told from error


def translated(error: Exception, place: str) -> StorageError | None:
    """The StorageError that says what ``error`` means; None for what is not the database's."""
    if isinstance(error, exc.TimeoutError):
        return StorageUnavailable(f"{place}: no connection became free in time: {error}")
    original = error.orig if isinstance(error, exc.DBAPIError) else error
    said = str(original)
    if _is_sqlite(error):
        for fragment, kind, advice in _SQLITE:
            if fragment in said.lower():
                return kind(f"{place}: {said}: {advice}")
    for codes, kind, advice in _SERVER:
        if _codes(original) & set(codes):
            return kind(f"{place}: {said}: {advice}")
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return Disconnected(f"{place}: {said}: the connection was lost")
    if isinstance(original, OSError | TimeoutError | EOFError):
        return Disconnected(
            f"{place}: cannot be reached: {said or type(original).__name__}; is the server running?"
        )
    known = isinstance(error, exc.SQLAlchemyError | sqlite3.Error)
    if known or type(original).__module__.partition(".")[0] in _DRIVERS:
        return StorageError(f"{place}: {said}")
    return None


def _is_sqlite(error: Exception) -> bool:
    original = error.orig if isinstance(error, exc.DBAPIError) else error
    return isinstance(original, sqlite3.Error)


def _codes(original: object) -> set[object]:
    """The SQLSTATE or the MySQL number of a driver's error."""
    cause = getattr(original, "__cause__", None)  # the driver's own error, below SQLAlchemy's wrapper of it
    found = {getattr(one, "sqlstate", None) or getattr(one, "pgcode", None) for one in (original, cause)}
    found |= {one.args[0] for one in (original, cause) if isinstance(one, Exception) and one.args[:1]}
    return {code for code in found if isinstance(code, str | int)}
