"""SQLite: reads in threads, several at once; writes in one thread. Each is one closure.

So a group of statements costs one hop to a thread, not one each, and rows become values there. A database in
memory is the writer's connection, so its reads go there too.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import Connection, Engine, create_engine, event, exc
from sqlalchemy.pool import Pool, QueuePool, StaticPool

from windtunnel.errors import NotFound, StorageUnavailable
from windtunnel.storage.errors import Locked, translated
from windtunnel.storage.urls import MEMORY, Target

__all__ = ["SqliteChannel"]

T = TypeVar("T")

_BUSY_S = 5.0
"""SQLite itself waits for a lock this long before it says so; then it is our turn to ask again."""
_TRY_S = 0.01
"""Likewise for a heartbeat: it asks often, or programs that write without a pause would always be faster."""
_READERS = 4


class SqliteChannel:
    """Runs queries on one SQLite database; see ``Channel``.

    :param target: looked at when it is made: make it in a thread.
    """

    def __init__(self, target: Target, *, patience_s: float) -> None:
        name = str(target.url.database)
        busy_s = min(_BUSY_S, patience_s)
        self._readers: Engine | None = None
        if name != MEMORY:
            # Absolute from here on: connections are opened later too, and the program may change its folder.
            name = str(_checked_path(target.place, name))
            self._readers = _readers(name, busy_s)
        self._name = name
        self._place = target.place
        self._writer = _writer(name, busy_s)
        self._is_closed = False
        self._identity: tuple[int, int] | None = None
        self._thread = anyio.CapacityLimiter(1)
        self._threads = anyio.CapacityLimiter(_READERS)
        # A task that is cancelled by asyncio itself lets go of the limiter while its thread goes on.
        self._writing = threading.Lock()
        self._reading = threading.BoundedSemaphore(_READERS)
        # Who is about to write passes here. Heartbeats stay in the door until they are done: SQLite hands its
        # lock to anybody, and a writer with much to do would have it again and again.
        self._door = threading.Lock()

    @property
    def in_use(self) -> int:
        pool: Any = None if self._readers is None else self._readers.pool
        return int(self._writing.locked()) + (pool.checkedout() if pool is not None else 0)

    async def read(self, query: Callable[[Connection], T]) -> T:
        if self._readers is None:
            return await self.write(query)
        # Only the time limit cancels it; what the thread still reads then is for nobody.
        return await anyio.to_thread.run_sync(
            self._read_here, self._readers, query, limiter=self._threads, abandon_on_cancel=True
        )

    def _read_here(self, readers: Engine, query: Callable[[Connection], T]) -> T:
        with self._reading:
            self._check_open()
            with readers.connect() as connection:
                return query(connection)

    def line(self) -> _FileLine | _MemoryLine:
        if self._readers is None:
            return _MemoryLine(self._writer, self._writing, self._door, self._place)
        return _FileLine(self._name, self._door, self._place)

    async def write(self, query: Callable[[Connection], T]) -> T:
        return await anyio.to_thread.run_sync(self._write_here, query, limiter=self._thread)

    def _write_here(self, query: Callable[[Connection], T]) -> T:
        with self._door:
            self._writing.acquire()
        try:
            self._check_open()
            result = _write_on(self._writer, query)
            self._check_identity()
            return result
        finally:
            self._writing.release()

    def _check_open(self) -> None:
        if self._is_closed:
            raise StorageUnavailable(f"{self._place} is closed; open the storage again")

    def _check_identity(self) -> None:
        """Nothing tells SQLite that its file was removed: it would go on writing what nobody can read."""
        if self._readers is None:
            return
        try:
            found = Path(self._name).stat()
        except FileNotFoundError:
            found = None
        identity = None if found is None else (found.st_dev, found.st_ino)
        self._identity = self._identity or identity
        if identity is None or identity != self._identity:
            raise StorageUnavailable(f"{self._place}: the file was removed or replaced while it was in use")

    async def close(self) -> None:
        await anyio.to_thread.run_sync(self._dispose)

    def _dispose(self) -> None:
        # A task that was cancelled by asyncio has left a thread that still reads or writes.
        for _ in range(_READERS):
            self._reading.acquire()
        with self._writing:
            self._is_closed = True
            self._writer.dispose()
            if self._readers is not None:
                self._readers.dispose()
        self._reading.release(_READERS)  # for whoever comes too late, to be told


class _FileLine:
    """A connection of its own to the file; see ``Line``."""

    def __init__(self, path: str, door: threading.Lock, place: str) -> None:
        self._path = path
        self._door = door
        self._place = place
        self._engine: Engine | None = None
        self._is_interrupted = False

    def run(self, query: Callable[[Connection], T], *, limit_s: float) -> T:
        until = time.monotonic() + limit_s
        if self._engine is None:
            # A lease need not outlast a power cut, which ends its holder too: not a wait for the disk.
            self._engine = _writer(self._path, _TRY_S, synchronous="NORMAL")
        with _taken(self._door, limit_s, self._place):
            while True:
                try:
                    return _write_on(self._engine, query)
                except exc.DBAPIError as error:
                    if not isinstance(translated(error, self._place), Locked):
                        self._engine.dispose()
                        raise
                    if self._is_interrupted or time.monotonic() >= until:
                        raise

    def interrupt(self) -> None:
        self._is_interrupted = True

    def close(self) -> None:
        if self._engine is not None:
            self._engine.dispose()


class _MemoryLine:
    """The writer's connection, since there is no other to a database in memory; see ``Line``."""

    def __init__(self, engine: Engine, writing: threading.Lock, door: threading.Lock, place: str) -> None:
        self._engine = engine
        self._writing = writing
        self._door = door
        self._place = place

    def run(self, query: Callable[[Connection], T], *, limit_s: float) -> T:
        with _taken(self._door, limit_s, self._place), _taken(self._writing, limit_s, self._place):
            return _write_on(self._engine, query)

    def interrupt(self) -> None:
        """Nothing: the writer is never waited for longer than it writes."""

    def close(self) -> None:
        """Nothing: it is the writer's."""


@contextmanager
def _taken(lock: threading.Lock, limit_s: float, place: str) -> Iterator[None]:
    if not lock.acquire(timeout=limit_s):
        raise Locked(f"{place}: the writer did not let others write within {limit_s:g} s")
    try:
        yield
    finally:
        lock.release()


def _write_on(engine: Engine, query: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        return query(connection)


def _checked_path(place: str, name: str) -> Path:
    path = Path(name).absolute()
    if not path.parent.is_dir():
        raise NotFound("folder", str(path.parent), hint=f"create it first, {place} shall be in it")
    if path.is_dir():
        raise StorageUnavailable(f"{place}: {str(path)!r} is a folder; name a file")
    return path


def _readers(path: str, busy_s: float) -> Engine:
    return _engine(
        path,
        busy_s,
        QueuePool,
        begin="BEGIN",
        pragmas=("foreign_keys=ON",),
        pool_size=_READERS,
        max_overflow=0,
    )


def _writer(path: str, busy_s: float, *, synchronous: str = "FULL") -> Engine:
    pragmas = ("journal_mode=WAL", f"synchronous={synchronous}", "foreign_keys=ON")
    return _engine(path, busy_s, StaticPool, begin="BEGIN IMMEDIATE", pragmas=pragmas)


def _engine(
    path: str, busy_s: float, pool: type[Pool], *, begin: str, pragmas: tuple[str, ...], **options: int
) -> Engine:
    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, timeout=busy_s, check_same_thread=False)

    engine = create_engine("sqlite://", creator=connect, poolclass=pool, **options)
    _real_transactions(engine, begin=begin, pragmas=pragmas)
    return engine


def _real_transactions(engine: Engine, *, begin: str, pragmas: tuple[str, ...]) -> None:
    """SQLAlchemy's recipe: the driver begins nothing by itself, our ``begin`` does; so DDL rolls back too."""

    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        try:
            cursor = connection.cursor()
            for pragma in pragmas:
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()
        except BaseException:
            connection.close()  # the pool does not know it yet
            raise

    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", start)
