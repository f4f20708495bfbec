"""Where the SQL runs. Queries are plain functions of a SQLAlchemy ``Connection``; this module chooses how.

``Database.read`` and ``Database.write`` take such a function and run it whole, in one transaction. Over an async
driver that is ``AsyncConnection.run_sync``. For an SQLite file the writes go, as one closure, to one thread with a
connection of its own: a group of statements costs one thread hop instead of one hop a statement.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, StaticPool

from windtunnel.errors import ConfigError, StorageUnavailable
from windtunnel.options import nearest
from windtunnel.storage.errors import mapped_errors

__all__ = ["Database", "open_database"]

P = ParamSpec("P")
T = TypeVar("T")

_LIMIT_S = 60.0
"""No single transaction is waited for longer than this."""
_BUSY_S = 5.0
_READERS = 4


class Database:
    """A database that is open: its reads and writes, each one transaction.

    :ivar place: how people know it; never holds a password.
    :ivar engine: the async engine of the readers, for queries of one's own.
    """

    def __init__(self, *, place: str, engine: AsyncEngine, writer: Engine | None) -> None:
        self.place = place
        self.engine = engine
        self._writer = writer
        self._thread = anyio.CapacityLimiter(1)

    async def read(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``query`` in a transaction that changes nothing.

        Shielded from cancellation, so that no connection goes back half-read, and limited in time.

        :raises StorageError: if the database fails or does not answer in time.
        """
        with mapped_errors(self.place), self._limited():
            async with self.engine.connect() as connection:
                return await connection.run_sync(query, *args, **kwargs)

    async def write(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``query`` and commit; if it raises, nothing of it stays. Shielded and limited like ``read``."""
        with mapped_errors(self.place), self._limited():
            if self._writer is None:
                async with self.engine.begin() as connection:
                    return await connection.run_sync(query, *args, **kwargs)
            return await anyio.to_thread.run_sync(self._write_here, query, args, kwargs, limiter=self._thread)

    def _write_here(self, query: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        assert self._writer is not None
        with self._writer.begin() as connection:
            return query(connection, *args, **kwargs)

    @contextmanager
    def _limited(self) -> Any:
        scope = anyio.move_on_after(_LIMIT_S, shield=True)
        with scope:
            yield
        if scope.cancelled_caught:
            raise StorageUnavailable(f"{self.place}: no answer within {_LIMIT_S:g} s; is the server alive?")


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    """Connect to ``url`` for as long as the block runs.

    :param url: ``sqlite:///relative/path``, ``sqlite:////absolute/path`` or ``sqlite:///:memory:``.
    :raises ConfigError: if the URL cannot be understood.
    :raises StorageUnavailable: if the folder does not exist.
    """
    parsed = _parse(url)
    place = parsed.render_as_string(hide_password=True)
    in_memory = parsed.database in (None, "", ":memory:")
    async with AsyncExitStack() as stack:
        engine = _reader(parsed, in_memory=in_memory)
        stack.push_async_callback(_dispose, engine)
        writer: Engine | None = None
        if not in_memory:
            _check_path(place, Path(str(parsed.database)))
            writer = _file_writer(str(parsed.database))
            stack.push_async_callback(anyio.to_thread.run_sync, writer.dispose)
        yield Database(place=place, engine=engine, writer=writer)


async def _dispose(engine: AsyncEngine) -> None:
    with anyio.move_on_after(_BUSY_S, shield=True):
        await engine.dispose()


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except exc.ArgumentError:
        raise ConfigError(
            f"expected a storage URL such as sqlite:///windtunnel.db, found {url!r}", path=("storage",)
        ) from None
    backend = parsed.get_backend_name()
    if backend != "sqlite":
        hint = nearest(backend, ["sqlite"])
        raise ConfigError(f"storage {parsed.render_as_string()!r} is not supported{hint}", path=("storage",))
    return parsed.set(drivername="sqlite")


def _check_path(place: str, path: Path) -> None:
    if not path.absolute().parent.is_dir():
        raise StorageUnavailable(
            f"{place}: the folder {str(path.absolute().parent)!r} does not exist; create it first"
        )
    if path.is_dir():
        raise StorageUnavailable(f"{place}: {str(path)!r} is a folder; name a file")


def _reader(parsed: URL, *, in_memory: bool) -> AsyncEngine:
    url = parsed.set(drivername="sqlite+aiosqlite", database=parsed.database or ":memory:")
    pool: dict[str, Any] = {"pool_size": _READERS, "max_overflow": 0, "pool_timeout": _LIMIT_S}
    if in_memory:
        # One connection, which is the database: readers and writer take turns on it.
        pool["pool_size"] = 1
    engine = create_async_engine(
        url, poolclass=AsyncAdaptedQueuePool, connect_args={"timeout": _BUSY_S}, **pool
    )
    _real_transactions(engine.sync_engine, begin="BEGIN", pragmas=("foreign_keys=ON",))
    return engine


def _file_writer(path: str) -> Engine:
    def connect() -> sqlite3.Connection:
        return sqlite3.connect(path, timeout=_BUSY_S, check_same_thread=False)

    engine = create_engine("sqlite://", creator=connect, poolclass=StaticPool)
    _real_transactions(
        engine, begin="BEGIN IMMEDIATE", pragmas=("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")
    )
    return engine


def _real_transactions(engine: Engine, *, begin: str, pragmas: tuple[str, ...]) -> None:
    """SQLAlchemy's recipe: the driver begins nothing by itself, our ``begin`` does, so that DDL rolls back too."""

    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "connect", configure)
    event.listen(engine, "begin", start)
