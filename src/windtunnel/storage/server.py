"""PostgreSQL and MySQL or MariaDB, through their async drivers.

A connection may be lost at any moment. Before the commit was sent, the transaction is undone and simply run
again. When it is lost while the commit is under way, nobody knows whether it happened: so each of our
transactions also raises a number of ours in the table ``receipt``, and a new connection reads there what came
of it.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import anyio
from sqlalchemy import Connection, bindparam, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from windtunnel.errors import StorageUnavailable
from windtunnel.storage.errors import Disconnected, translated
from windtunnel.storage.schema import receipt
from windtunnel.storage.urls import Target

__all__ = ["ServerChannel"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_CONNECT_S = 10.0
_STATEMENT_S = 60.0
_CONNECTIONS = 5
_HANG_UP_S = 1.0
_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0


class ServerChannel:
    """Runs queries on a database server; see ``Channel``."""

    def __init__(self, target: Target, *, patience_s: float) -> None:
        self._engine = _engine(target, connections=_CONNECTIONS)
        self._target = target
        self._place = target.place
        self._patience_s = patience_s
        self._writer = uuid.uuid4().hex
        self._number = 0
        self._one_at_a_time = anyio.Lock()  # or a later number would hide an earlier one

    @property
    def in_use(self) -> int:
        pool: Any = self._engine.pool
        return int(pool.checkedout())

    async def read(self, query: Callable[[Connection], T]) -> T:
        async with self._engine.connect() as connection:
            return await connection.run_sync(query)

    def line(self) -> _ServerLine:
        return _ServerLine(self._target)

    async def write(self, query: Callable[[Connection], T]) -> T:
        async with self._one_at_a_time:
            return await self._write(query)

    async def _write(self, query: Callable[[Connection], T]) -> T:
        self._number += 1
        number, committing = self._number, False
        try:
            async with self._engine.connect() as connection, connection.begin() as transaction:
                result = await connection.run_sync(query)
                await connection.run_sync(self._sign, number)
                committing = True
                await transaction.commit()
        except Exception as error:
            lost = isinstance(translated(error, self._place), Disconnected)
            if not (committing and lost and await self._was_committed(number)):
                raise
        return result

    async def close(self) -> None:
        try:
            async with self._engine.begin() as connection:
                await connection.execute(delete(receipt).where(receipt.c.writer == self._writer))
        except Exception as error:  # noqa: BLE001 - a row too many disturbs nobody, and the work is done
            logger.debug("the receipt could not be removed: %s", error)
        finally:
            await self._engine.dispose()

    def _sign(self, connection: Connection, number: int) -> None:
        names = {"the_writer": self._writer, "the_number": number}
        if connection.execute(_SIGN, names).rowcount == 0:
            connection.execute(insert(receipt), {"writer": self._writer, "number": number})

    async def _was_committed(self, number: int) -> bool:
        """Look it up over a new connection, as soon as there is one.

        :raises Disconnected: if the server does not come back in time.
        """
        deadline = anyio.current_time() + self._patience_s
        pause = _PAUSE_S
        while True:
            try:
                return await self.read(self._last_signed) == number
            except Exception as error:
                lost = isinstance(translated(error, self._place), Disconnected)
                if not lost or anyio.current_time() >= deadline:
                    raise
            await anyio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _last_signed(self, connection: Connection) -> int | None:
        found: int | None = connection.execute(_SIGNED, {"the_writer": self._writer}).scalar()
        return found


_SIGN = (
    update(receipt).where(receipt.c.writer == bindparam("the_writer")).values(number=bindparam("the_number"))
)
_SIGNED = select(receipt.c.number).where(receipt.c.writer == bindparam("the_writer"))


class _ServerLine:
    """One connection with an event loop of its own, which the thread runs while it waits; see ``Line``."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._runner: asyncio.Runner | None = None
        self._engine: AsyncEngine | None = None
        self._task: asyncio.Task[Any] | None = None
        self._is_interrupted = False

    def run(self, query: Callable[[Connection], T], *, limit_s: float) -> T:
        if self._runner is None or self._engine is None:
            self._runner, self._engine = asyncio.Runner(), _engine(self._target, connections=1)
        try:
            return self._runner.run(self._write(self._engine, query, limit_s))
        except (TimeoutError, asyncio.CancelledError) as exc:
            raise StorageUnavailable(
                f"{self._target.place}: no answer within {limit_s:g} s; is the server alive?"
            ) from exc

    async def _write(self, engine: AsyncEngine, query: Callable[[Connection], T], limit_s: float) -> T:
        self._task = asyncio.current_task()
        if self._is_interrupted:
            raise asyncio.CancelledError
        # Not anyio's limit, which would cancel the hanging up below again and again.
        async with asyncio.timeout(limit_s), engine.connect() as connection:
            try:
                # Less than our own limit: the server would not notice that we have gone, and wait on.
                await connection.exec_driver_sql(_lock_limit(self._target, 0.8 * limit_s))
                result = await connection.run_sync(query)
                await connection.commit()
            except asyncio.CancelledError:
                # To roll back would mean to wait for the same silent server; this way it does so by itself.
                await connection.invalidate()
                raise
        return result

    def interrupt(self) -> None:
        self._is_interrupted = True
        if self._task is not None:
            with suppress(RuntimeError):  # its loop is closed
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    def close(self) -> None:
        if self._runner is None or self._engine is None:
            return
        with self._runner as runner, suppress(TimeoutError):
            runner.run(asyncio.wait_for(self._engine.dispose(), _HANG_UP_S))


def _lock_limit(target: Target, seconds: float) -> str:
    """The statement that limits how long this transaction waits for other transactions."""
    if target.backend == "postgresql":
        return f"SET LOCAL lock_timeout = {int(1000 * seconds)}"
    return f"SET innodb_lock_wait_timeout = {max(1, int(seconds))}"


def _engine(target: Target, *, connections: int) -> AsyncEngine:
    options: dict[str, Any] = {}
    if target.backend == "postgresql":
        options["connect_args"] = {"timeout": _CONNECT_S, "command_timeout": _STATEMENT_S}
    else:
        options["connect_args"] = {"connect_timeout": _CONNECT_S, "charset": "utf8mb4"}
        options["isolation_level"] = "READ COMMITTED"  # as PostgreSQL: a claim must see what others committed
    return create_async_engine(
        target.url,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=_STATEMENT_S,
        pool_pre_ping=True,
        **options,
    )
