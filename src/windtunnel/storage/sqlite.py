"""SQLite: reads through the async driver, several at once; writes, as one closure, in one thread.

A group of statements costs one hop to that thread, not one each. A database in memory is the writer's
connection, so its reads go there too, where no cancellation can make a driver drop it.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, StaticPool

from windtunnel.errors import StorageUnavailable
from windtunnel.storage.urls import MEMORY, Target

__all__ = ["SqliteChannel"]

T = TypeVar("T")

_BUSY_S = 5.0
"""SQLite itself waits for a lock this long before it says so; then it is our turn to ask again."""
_READERS = 4
_POOL_S = 60.0


class SqliteChannel:
    """Runs queries on one SQLite database; see ``Channel``.

    :param target: looked at when it is made: make it in a thread.
    """

    def __init__(self, target: Target, *, patience_s: float) -> None:
        name = str(target.url.database)
        busy_s = min(_BUSY_S, patience_s)
        self._readers: AsyncEngine | None = None
        if name != MEMORY:
            # Absolute from here on: connections are opened later too, and the program may change its folder.
            name = str(_checked_path(target.place, name))
            self._readers = _file_readers(name, busy_s)
        self._writer = _writer(name, busy_s)
        self._thread = anyio.CapacityLimiter(1)
        # Heartbeats have a connection and a thread of their own: the writer may be busy for long.
        self._heart = None if name == MEMORY else _writer(name, busy_s)
        self._heart_thread = anyio.CapacityLimiter(1)
        # A task that is cancelled by asyncio itself lets go of the limiter while its thread goes on.
        self._writing = threading.Lock()

    @property
    def in_use(self) -> int:
        pool: Any = None if self._readers is None else self._readers.pool
        return int(self._writing.locked()) + (pool.checkedout() if pool is not None else 0)

    async def read(self, query: Callable[[Connection], T]) -> T:
        if self._readers is None:
            return await self.write(query)
        async with self._readers.connect() as connection:
            return await connection.run_sync(query)

    async def beat(self, query: Callable[[Connection], T]) -> T:
        if self._heart is None:
            return await self.write(query)
        return await anyio.to_thread.run_sync(_write_on, self._heart, query, limiter=self._heart_thread)

    async def write(self, query: Callable[[Connection], T]) -> T:
        return await anyio.to_thread.run_sync(self._write_here, query, limiter=self._thread)

    def _write_here(self, query: Callable[[Connection], T]) -> T:
        with self._writing:
            return _write_on(self._writer, query)

    async def close(self) -> None:
        if self._readers is not None:
            await self._readers.dispose()
        for engine in (self._heart, self._writer):
            if engine is not None:
                await anyio.to_thread.run_sync(engine.dispose)


def _write_on(engine: Engine, query: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        return query(connection)


def _checked_path(place: str, name: str) -> Path:
    path = Path(name).absolute()
    if not path.parent.is_dir():
        raise StorageUnavailable(f"{place}: the folder {str(path.parent)!r} does not exist; create it first")
    if path.is_dir():
        raise StorageUnavailable(f"{place}: {str(path)!r} is a folder; name a file")
    return path


def _file_readers(path: str, busy_s: float) -> AsyncEngine:
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=path),
        poolclass=AsyncAdaptedQueuePool,
        pool_size=_READERS,
        max_overflow=0,
        pool_timeout=_POOL_S,
        connect_args={"timeout": busy_s},
    )
    _real_transactions(engine.sync_engine, begin="BEGIN", pragmas=("foreign_keys=ON",))
    return engine


def _writer(path: str, busy_s: float) -> Engine:
    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, timeout=busy_s, check_same_thread=False)

    engine = create_engine("sqlite://", creator=connect, poolclass=StaticPool)
    _real_transactions(
        engine, begin="BEGIN IMMEDIATE", pragmas=("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")
    )
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
