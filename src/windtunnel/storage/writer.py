"""Group commit: whatever is waiting to be written goes into one transaction.

A commit costs a disk flush, whatever it holds, so one task takes all queued operations, runs them as one
closure in the driver's thread, commits once and wakes every caller. Nobody is told "done" before the commit.

The queue needs no bound of its own: each caller waits for its operation, so it holds one entry a waiting
task.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

import anyio
from sqlalchemy import Connection

from windtunnel.errors import StorageError, StorageUnavailable, WindtunnelError
from windtunnel.storage.database import Database

__all__ = ["Apply", "GroupWriter", "Outcome"]

logger = logging.getLogger(__name__)

P = TypeVar("P")
R = TypeVar("R")
Outcome = Any  # the result of an operation, or the StorageError that refuses it
Apply = Callable[[Connection, Sequence[P]], Sequence[R | StorageError]]
"""Applies operations of one kind; gives an outcome for each, in order. May be run again after a rollback."""

_GROUP_LIMIT = 1000
"""Operations in one transaction: bounds how long other processes wait for the lock."""


class _Operation(Generic[P, R]):
    __slots__ = ("apply", "done", "outcome", "payload")

    def __init__(self, apply: Apply[P, R], payload: P) -> None:
        self.apply = apply
        self.payload = payload
        self.done = anyio.Event()
        self.outcome: R | Exception | None = None

    def resolve(self, outcome: R | Exception) -> None:
        self.outcome = outcome
        self.done.set()


class GroupWriter:
    """Takes operations from any task, writes them in groups. ``run`` must be running in a task group.

    :param order: in which order the kinds of operations stand in a group.
    """

    def __init__(self, database: Database, order: Sequence[Apply[Any, Any]]) -> None:
        self._database = database
        self._rank = {apply: rank for rank, apply in enumerate(order)}
        self._queue: list[_Operation[Any, Any]] = []
        self._wake = anyio.Event()
        self._closing = False

    async def submit(self, apply: Apply[P, R], payload: P) -> R:
        """Write ``payload`` and return its outcome once it is committed.

        A cancelled caller still waits for the commit, so that it knows what was done.

        :raises StorageError: if the operation is refused or the database fails.
        """
        if self._closing:
            raise StorageError(f"{self._database.place} is closed; open the storage again")
        operation = _Operation(apply, payload)
        self._queue.append(operation)
        self._wake.set()
        # Bounded: the writer resolves every operation within its patience and the database's own limit.
        with anyio.CancelScope(shield=True):
            await operation.done.wait()
        if isinstance(operation.outcome, Exception):
            raise operation.outcome
        return cast("R", operation.outcome)

    async def run(self) -> None:
        """Write groups until ``close``. Shielded: cancelled trials still have outcomes to store."""
        taken: list[_Operation[Any, Any]] = []
        try:
            with anyio.CancelScope(shield=True):
                while not (self._closing and not self._queue):
                    await self._wake.wait()
                    self._wake = anyio.Event()
                    while self._queue:
                        taken, self._queue = self._queue[:_GROUP_LIMIT], self._queue[_GROUP_LIMIT:]
                        await self._commit(taken)
        finally:  # cancelled by asyncio itself, which no shield holds off: nobody must wait for ever
            self._closing = True
            for operation in [*taken, *self._queue]:
                if not operation.done.is_set():
                    operation.resolve(
                        StorageError(f"{self._database.place} was closed before this was written")
                    )

    def close(self) -> None:
        """Take nothing more; ``run`` ends when the queue is empty."""
        self._closing = True
        self._wake.set()

    async def _commit(self, group: list[_Operation[Any, Any]]) -> None:
        try:
            await self._commit_together(group)
        except StorageUnavailable as exc:
            for (
                operation
            ) in group:  # an error each: raised in many tasks, one object would gather their tracebacks
                operation.resolve(_again(exc))
        except Exception as exc:
            if len(group) > 1:
                # One of them is bad, and the rollback undid all: halve until it is alone.
                middle = len(group) // 2
                await self._commit(group[:middle])
                await self._commit(group[middle:])
                return
            if not isinstance(exc, WindtunnelError):
                logger.exception("a storage operation failed", extra={"action": "storage_bug"})
            group[0].resolve(exc)

    async def _commit_together(self, group: list[_Operation[Any, Any]]) -> None:
        kinds: dict[Apply[Any, Any], list[_Operation[Any, Any]]] = {}
        for operation in sorted(group, key=lambda o: self._rank[o.apply]):
            kinds.setdefault(operation.apply, []).append(operation)

        def apply_all(connection: Connection) -> list[tuple[_Operation[Any, Any], Outcome]]:
            outcomes: list[tuple[_Operation[Any, Any], Outcome]] = []
            for apply, operations in kinds.items():
                results = apply(connection, [operation.payload for operation in operations])
                outcomes += zip(operations, results, strict=True)
            return outcomes

        for operation, outcome in await self._database.write(apply_all):
            operation.resolve(outcome)


def _again(exc: StorageUnavailable) -> StorageUnavailable:
    copy = type(exc)(*exc.args)
    copy.__cause__ = exc.__cause__
    return copy
