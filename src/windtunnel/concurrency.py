"""What task groups and cancellation leave to their users."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import anyio
import anyio.to_thread

__all__ = ["Signal", "converted", "first_error", "is_cancelled", "uncancelled"]

logger = logging.getLogger(__name__)

P = TypeVar("P")
R = TypeVar("R")


class Signal:
    """Wakes the one task that waits for it; a wake-up that comes early is kept."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._is_set = False

    def set(self) -> None:
        if not self._is_set:  # it is set again and again before anybody wakes up
            self._is_set = True
            self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = anyio.Event()
        self._is_set = False


def is_cancelled() -> bool:
    """Whether somebody has cancelled the current task, or a scope it is in.

    Awaiting a task that was cancelled raises the very exception of being cancelled, and a task group would
    end all its tasks for it. So code that runs what users wrote asks here before it lets the exception pass.
    """
    if anyio.current_effective_deadline() == -math.inf:
        return True
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def uncancelled() -> bool:
    """Take back what asyncio itself was asked for, to cancel the current task; whether it was.

    The scopes around it are no part of that: who is cancelled by one of them stays cancelled.
    """
    task = asyncio.current_task()
    if task is None or not task.cancelling() or anyio.current_effective_deadline() == -math.inf:
        return False
    while task.uncancel():
        pass
    return True


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a task group, what its caller would have seen without the group.

    Others are logged if they say anything else.
    """
    first, *others = _leaves(group)
    for other in others:
        if str(other) != str(first):
            logger.warning("and besides: %s: %s", type(other).__name__, other)
    return first


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for one in group.exceptions:
        if isinstance(one, BaseExceptionGroup):
            yield from _leaves(one)
        else:
            yield one


async def converted(function: Callable[[P], R], items: Sequence[P], *, at_once: int) -> list[R]:
    """``function`` of each item; in a worker thread if they are too many to hold up the event loop for."""
    if len(items) <= at_once:
        return [function(item) for item in items]
    return await anyio.to_thread.run_sync(lambda: [function(item) for item in items])
