"""Where the SQL runs. Queries are plain functions of a SQLAlchemy ``Connection``; this module chooses how.

``Database.read`` and ``Database.write`` take such a function and run it whole, in one transaction. Reads of
a file go through the async driver, several at once. Writes go, as one closure, to one thread with its own
connection: a group of statements costs one hop to that thread, not one each. A database in memory is that
connection, so its reads go there too, where no cancellation can make a driver drop it.
"""

from __future__ import annotations

import logging
import re
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, StaticPool

from windtunnel.errors import ConfigError, StorageUnavailable
from windtunnel.options import nearest
from windtunnel.storage.errors import Locked, mapped_errors

__all__ = ["Database", "open_database"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_LIMIT_S = 60.0
"""No single transaction is waited for longer than this."""
_BUSY_S = 5.0
"""SQLite itself waits for a lock this long before it says so; then it is our turn to ask again."""
_PAUSE_S = 0.05
_READERS = 4
_MEMORY = ":memory:"


class Database:
    """A database that is open: its reads and writes, each one transaction.

    What another program has locked is tried again until the patience ends.

    :ivar place: how people know it; never holds a password.
    """

    def __init__(
        self, *, place: str, readers: AsyncEngine | None, writer: Engine, patience: timedelta
    ) -> None:
        self.place = place
        self._readers = readers
        self._writer = writer
        self._patience_s = patience.total_seconds()
        self._thread = anyio.CapacityLimiter(1)
        # A task that is cancelled by asyncio itself lets go of the limiter while its thread goes on.
        self._writing = threading.Lock()

    @property
    def in_use(self) -> int:
        """How many connections work for somebody at this moment."""
        pool: Any = None if self._readers is None else self._readers.pool
        return int(self._writing.locked()) + (pool.checkedout() if pool is not None else 0)

    async def read(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``query`` in a transaction that changes nothing.

        Shielded from cancellation, so that no connection goes back half-read, and limited in time.

        :raises StorageError: if the database fails or does not answer in time.
        """
        return await self._patiently(partial(self._read, partial(_call, query, args, kwargs)))

    async def write(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``query`` and commit; if it raises, nothing of it stays. Shielded and limited like ``read``.

        ``query`` may be run again after a rollback.
        """
        return await self._patiently(partial(self._write, partial(_call, query, args, kwargs)))

    async def _read(self, query: Callable[[Connection], T]) -> T:
        if self._readers is None:
            return await self._write(query)
        async with self._readers.connect() as connection:
            return await connection.run_sync(query)

    async def _write(self, query: Callable[[Connection], T]) -> T:
        return await anyio.to_thread.run_sync(self._write_here, query, limiter=self._thread)

    def _write_here(self, query: Callable[[Connection], T]) -> T:
        with self._writing, self._writer.begin() as connection:
            return query(connection)

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        deadline = anyio.current_time() + self._patience_s
        level = logging.WARNING
        while True:
            try:
                with mapped_errors(self.place), _limited(self.place):
                    return await attempt()
            except Locked as exc:
                if anyio.current_time() >= deadline:
                    raise
                logger.log(level, "%s; trying again", exc, extra={"action": "storage_locked"})
                level = logging.DEBUG
            await anyio.sleep(_PAUSE_S)


def _call(
    query: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], connection: Connection
) -> T:
    return query(connection, *args, **kwargs)


@contextmanager
def _limited(place: str) -> Iterator[None]:
    with anyio.move_on_after(_LIMIT_S, shield=True) as scope:
        yield
    if scope.cancelled_caught:
        raise StorageUnavailable(f"{place}: no answer within {_LIMIT_S:g} s; is the server alive?")


@asynccontextmanager
async def open_database(url: str, *, patience: timedelta) -> AsyncIterator[Database]:
    """Connect to ``url`` for as long as the block runs.

    :param url: ``sqlite:///relative/path``, ``sqlite:////absolute/path`` or ``sqlite:///:memory:``.
    :param patience: how long to wait for another program's lock.
    :raises ConfigError: if the URL cannot be understood.
    :raises StorageUnavailable: if the folder does not exist.
    """
    parsed = _parse(url)
    name = parsed.database or _MEMORY
    place = f"sqlite:///{name}"
    busy_s = min(_BUSY_S, patience.total_seconds())
    readers, writer = await anyio.to_thread.run_sync(_engines, place, name, busy_s)  # they look at the file
    try:
        yield Database(place=place, readers=readers, writer=writer, patience=patience)
    finally:
        with anyio.move_on_after(_BUSY_S, shield=True):
            if readers is not None:
                await readers.dispose()
            await anyio.to_thread.run_sync(writer.dispose)


def _parse(url: str) -> URL:
    """The URL, of an SQLite database. Of others messages show no more than their kind: they hold secrets."""
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (exc.ArgumentError, ValueError):
        raise _wrong(f"expected a URL such as sqlite:///windtunnel.db, found {_harmless(url)!r}") from None
    if backend != "sqlite":
        raise _wrong(
            f"expected a URL such as sqlite:///windtunnel.db, found one of {backend!r}, "
            f"which is not supported{nearest(backend, ['sqlite'])}"
        )
    if parsed.host is not None:
        raise _wrong(
            "expected three slashes before a relative path and four before an absolute one, "
            f"found {_harmless(url)!r}"
        )
    if parsed.query:
        raise _wrong(f"an SQLite URL takes no options, found {sorted(parsed.query)}; remove them")
    return parsed.set(drivername="sqlite")


def _wrong(message: str) -> ConfigError:
    return ConfigError(message, path=("storage",))


def _harmless(url: object) -> str:
    """``url`` without what may be a name and a password."""
    return re.sub(r"^([^/@]*/*).*@", r"\1***@", str(url), flags=re.DOTALL)


def _engines(place: str, name: str, busy_s: float) -> tuple[AsyncEngine | None, Engine]:
    """What reads and what writes the file with this name."""
    if name == _MEMORY:
        return None, _writer(name, busy_s)
    # Absolute from here on: connections are opened later too, and the program may change its folder.
    path = str(_checked_path(place, name))
    return _file_readers(path, busy_s), _writer(path, busy_s)


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
        pool_timeout=_LIMIT_S,
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
