"""Several environments at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import anyio

from windtunnel.environments.base import Environment
from windtunnel.errors import EnvironmentFailed, HostFailed
from windtunnel.model import RunResult, Status

__all__ = ["RunEnded", "all_in_turn", "at_once", "ran"]

T = TypeVar("T")


class RunEnded(EnvironmentFailed):
    """The run of one of several environments did not succeed.

    :ivar failure: why, with its name.
    :ivar result: without metrics.
    """

    def __init__(self, environment: Environment, result: RunResult) -> None:
        self.failure = f"{environment.name}: {environment.failure or f'ended as {result.status.name}'}"
        self.result = result._replace(metrics=None)
        super().__init__(self.failure)


async def ran(environment: Environment) -> dict[str, Any]:
    """Run it; the metrics.

    :raises RunEnded: if it did not succeed.
    """
    result = RunResult.of(await environment.run())
    if result.status is not Status.SUCCEEDED:
        raise RunEnded(environment, result)
    return result.metrics or {}


def _check(errors: Sequence[Exception]) -> None:
    """Raise the one that explains the others: the first, unless a host failed."""
    if not errors:
        return
    cause = next((error for error in errors if isinstance(error, HostFailed)), errors[0])
    for other in errors:
        if other is not cause:
            cause.add_note(f"and then: {other}")
    raise cause


async def at_once(steps: Sequence[Callable[[], Awaitable[T]]], *, all_end: bool = False) -> list[T]:
    """Take all steps at the same time; what they return, in their order.

    The first that fails has the others cancelled, and its error is raised.

    :param all_end: the others go on.
    """
    results: dict[int, T] = {}
    errors: list[Exception] = []

    async def take(index: int, step: Callable[[], Awaitable[T]]) -> None:
        try:
            results[index] = await step()
        except Exception as exc:  # noqa: BLE001 - raised below, not in a group
            if not errors or all_end or isinstance(exc, HostFailed):
                errors.append(exc)
            if not all_end:
                group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for index, step in enumerate(steps):
            group.start_soon(take, index, step)
    _check(errors)
    return [results[index] for index in range(len(steps))]


async def all_in_turn(steps: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Take every step in turn, whatever comes of those before; then raise the first error."""
    errors: list[Exception] = []

    async def take(step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except Exception as exc:  # noqa: BLE001 - the others have their turn first
            errors.append(exc)

    # The stack calls each, the one pushed last first, even if the call before was cancelled.
    async with AsyncExitStack() as stack:
        for step in reversed(steps):
            stack.push_async_callback(take, step)
    _check(errors)
