"""Where the SQL runs. Queries are plain functions of a SQLAlchemy ``Connection``; a channel runs them.

``Database.read`` and ``Database.write`` take such a function and run it whole, in one transaction.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import Connection

from windtunnel.errors import StorageUnavailable
from windtunnel.storage.errors import Disconnected, Locked, mapped_errors
from windtunnel.storage.pulse import Heart, Line
from windtunnel.storage.urls import Target, parse_url

__all__ = ["Channel", "Database", "open_database"]

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_LIMIT_S = 90.0
"""No single transaction is waited for longer than this."""
_CLOSE_S = 5.0
_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0


class Channel(Protocol):
    """Runs queries on one database, each in a transaction of its own."""

    @property
    def in_use(self) -> int:
        """How many connections work for somebody at this moment."""

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run ``query``, which changes nothing."""

    async def write(self, query: Callable[[Connection], T]) -> T:
        """Run ``query`` and commit; if it raises, nothing of it stays."""

    def line(self) -> Line:
        """A connection apart from all others, for a thread of its own."""

    async def close(self) -> None:
        """Give back all connections."""


class Database:
    """A database that is open: its reads and writes, each one transaction.

    What somebody else has locked, and what a lost connection cut off, is tried again until the patience ends.

    :ivar place: how people know it; never holds a password.
    :ivar is_server: whether other programs and machines share it as a matter of course.
    :ivar heart: renews leases, whatever becomes of the rest.
    """

    def __init__(self, *, target: Target, channel: Channel, patience: timedelta) -> None:
        self.place = target.place
        self.is_server = target.backend != "sqlite"
        self.heart = Heart(channel.line, target.place)
        self._channel = channel
        self._patience_s = patience.total_seconds()

    @property
    def in_use(self) -> int:
        """How many connections work for somebody at this moment."""
        return self._channel.in_use

    async def read(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``query`` in a transaction that changes nothing.

        Shielded from cancellation, so that no connection goes back half-read, and limited in time.

        :raises StorageError: if the database fails or does not answer in time.
        """
        return await self._patiently(partial(self._channel.read, partial(_call, query, args, kwargs)))

    async def write(
        self, query: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run ``query`` and commit; if it raises, nothing of it stays. Shielded and limited like ``read``.

        ``query`` may be run again after a rollback.
        """
        return await self._patiently(partial(self._channel.write, partial(_call, query, args, kwargs)))

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        deadline = anyio.current_time() + self._patience_s
        level, pause = logging.WARNING, _PAUSE_S
        while True:
            try:
                with mapped_errors(self.place), _limited(self.place):
                    return await attempt()
            except (Locked, Disconnected) as exc:
                if anyio.current_time() >= deadline:
                    raise
                logger.log(level, "%s; trying again", exc, extra={"action": "storage_retry"})
                level = logging.DEBUG
                if isinstance(exc, Disconnected):
                    pause = min(2 * pause, _LONGEST_PAUSE_S)
            await anyio.sleep(pause)


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

    :param url: see ``open_storage``.
    :param patience: how long to wait for another program's lock, and for a server that went away.
    :raises ConfigError: if the URL cannot be understood or its driver is not installed.
    :raises StorageUnavailable: if the folder does not exist.
    """
    # Making a channel loads its driver and looks at the file system: both would stall the loop.
    target, channel = await anyio.to_thread.run_sync(_channel, url, patience.total_seconds())
    database = Database(target=target, channel=channel, patience=patience)
    try:
        yield database
    finally:
        await database.heart.close()
        with anyio.move_on_after(_CLOSE_S, shield=True), mapped_errors(target.place):
            await channel.close()


def _channel(url: str, patience_s: float) -> tuple[Target, Channel]:
    target = parse_url(url)
    if target.backend == "sqlite":
        from windtunnel.storage.sqlite import SqliteChannel

        return target, SqliteChannel(target, patience_s=patience_s)
    from windtunnel.storage.server import ServerChannel

    return target, ServerChannel(target, patience_s=patience_s)
