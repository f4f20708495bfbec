"""Any async callable as the thing that is called: a task each, in one task group."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import anyio

from windtunnel.errors import described
from windtunnel.loadgen.client import Client, Slot
from windtunnel.loadgen.recorder import ErrorKind, Recorder

__all__ = ["Call", "CallClient", "CallSession"]


class Call(NamedTuple):
    """What a user's function is called with.

    :ivar number: of the arrival, from 0; with several generators each counts its own.
    :ivar row: of the data, as text by column; empty if there is none.
    :ivar resource: what ``resource`` gave, such as a pool of connections.
    """

    number: int
    row: Mapping[str, Any]
    resource: Any


Function = Callable[[Call], Awaitable[object]]


class CallSession(NamedTuple):
    """What one arrival does.

    :ivar latencies: where its latency is noted.
    """

    function: Function
    latencies: list[int]
    number: int
    row: Mapping[str, Any]


class _CallSlot:
    def __init__(self, client: CallClient) -> None:
        self._client = client
        self.scope: anyio.CancelScope | None = None

    def begin(self, due: int, _now: int) -> None:
        self._client.tasks.start_soon(self._client.call, self, due)


class CallClient(Client):
    """Calls functions. An AssertionError of theirs is a failed check.

    :param sessions: called for what each arrival does.
    :param timeout_s: of a call.
    """

    def __init__(
        self,
        recorder: Recorder,
        *,
        limit: int,
        timeout_s: float,
        sessions: Callable[[], CallSession],
        resource: Any = None,
    ) -> None:
        super().__init__(recorder, limit=limit)
        self._timeout_s = timeout_s
        self._next_session = sessions
        self._resource = resource

    async def __aenter__(self) -> Self:
        self.tasks = anyio.create_task_group()
        await self.tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tasks.cancel_scope.cancel()
        await self.tasks.__aexit__(None, None, None)  # none of them raises, so no error comes in a group

    async def call(self, slot: _CallSlot, due: int) -> None:
        """One session."""
        function, latencies, number, row = self._next_session()
        problem: tuple[ErrorKind, str] | None = None
        with anyio.move_on_after(self._timeout_s) as slot.scope:
            try:
                await function(Call(number, row, self._resource))
            except Exception as exc:  # noqa: BLE001 - it is counted, and the first one is told
                problem = _classified(exc)
        now = time.monotonic_ns()
        if slot.scope.cancelled_caught:
            problem = (ErrorKind.TIMEOUT, f"no end within {self._timeout_s:g} s")
        if (problem is None or problem[0] is ErrorKind.CHECK) and due >= self.recorder.measured_from:
            latencies.append(now - due)
        if problem is not None:
            self.recorder.failed(problem[0], due, problem[1])
        slot.scope = None
        self.freed(slot, now, unreached=problem is not None and problem[0] is ErrorKind.CONNECT)

    def cut(self, now: int) -> None:
        for slot in self.slots:
            if isinstance(slot, _CallSlot) and slot.scope is not None:
                slot.scope.cancel()

    def _made(self) -> Slot:
        return _CallSlot(self)


def _classified(exc: Exception) -> tuple[ErrorKind, str]:
    match exc:
        case TimeoutError():
            kind = ErrorKind.TIMEOUT
        case ConnectionRefusedError() | socket.gaierror() | ssl.SSLError():
            kind = ErrorKind.CONNECT
        case ConnectionError():
            kind = ErrorKind.RESET
        case AssertionError():
            return ErrorKind.CHECK, str(exc) or described(exc)
        case _:
            kind = ErrorKind.EXCEPTION
    return kind, described(exc)
