"""Polls the status of environments beside their runs."""

from __future__ import annotations

import logging
import time
from contextvars import Context, copy_context
from datetime import timedelta
from functools import partial
from typing import Protocol

import anyio

from windtunnel.concurrency import is_cancelled
from windtunnel.model import StatusReport
from windtunnel.protocols import TelemetrySink

__all__ = ["Polled", "Sampled", "Sampler", "poll"]

logger = logging.getLogger(__name__)


class Polled(Protocol):
    """What the sampler needs of an environment."""

    async def status(self) -> StatusReport: ...


class Sampled:
    """One environment that runs.

    :ivar due: when it is to be asked next.
    :ivar context: of the trial, so that what is logged of it carries its names.
    :ivar poll: the poll that is under way.
    """

    __slots__ = ("context", "due", "environment", "gone", "poll", "sink")

    def __init__(self, environment: Polled, sink: TelemetrySink, due: float) -> None:
        self.environment = environment
        self.sink = sink
        self.due = due
        self.context: Context = copy_context()
        self.poll: anyio.CancelScope | None = None
        self.gone: anyio.Event | None = None


class Sampler:
    """Passes on the telemetry of all environments that run, asking each every ``period``.

    One task looks after all: beginning and ending cost a run next to nothing, since most ends come long
    before its first poll. ``run`` must be running.

    :param timeout: of one poll.
    """

    def __init__(self, *, period: timedelta, timeout: timedelta) -> None:
        self._period_s = period.total_seconds()
        self._timeout = timeout
        self._timeout_s = timeout.total_seconds()
        # In the order in which they are due: all have the same period.
        self._waiting: dict[Sampled, None] = {}
        # Likewise: last polls with the time at which they have taken too long.
        self._tails: dict[anyio.CancelScope, float] = {}

    def begin(self, environment: Polled, sink: TelemetrySink) -> Sampled:
        """Poll from now on; until ``end``."""
        sampled = Sampled(environment, sink, time.monotonic() + self._period_s)
        self._waiting[sampled] = None
        return sampled

    async def end(self, sampled: Sampled) -> None:
        """Poll no more. When it returns no poll is under way, but one that ignores its cancellation."""
        self._waiting.pop(sampled, None)
        if sampled.poll is not None:
            sampled.gone = anyio.Event()
            sampled.poll.cancel()
            with anyio.move_on_after(self._timeout_s, shield=True):
                await sampled.gone.wait()

    async def tail(self, environment: Polled, sink: TelemetrySink, scope: anyio.CancelScope) -> None:
        """Fetch the telemetry of a run's end. Its outcome stands: whoever cancels the trial cuts only this.

        :param scope: of the trial, in which only this is left to be cut off when it takes too long. A scope
            and a timer of its own would cost more than the poll.
        """
        self._tails[scope] = time.monotonic() + self._timeout_s
        try:
            await poll(environment, sink)
        except anyio.get_cancelled_exc_class():
            if not scope.cancel_called:  # the environment cancelled the task it runs in
                raise
        finally:
            self._tails.pop(scope, None)

    async def run(self) -> None:
        """Poll what is due until cancelled, and cut off what takes too long."""
        at_most = min(self._period_s, self._timeout_s)
        async with anyio.create_task_group() as polls:
            while True:
                first = next(iter(self._waiting), None)
                now = time.monotonic()
                self._cut_tails(now)
                if first is not None and first.due <= now:
                    del self._waiting[first]
                    first.poll = anyio.CancelScope()
                    begin = partial(polls.start_soon, self._poll, first, first.poll, name="poll")
                    first.context.run(begin)
                else:  # nothing that begins meanwhile is due sooner
                    await anyio.sleep(at_most if first is None else min(at_most, first.due - now))

    def _cut_tails(self, now: float) -> None:
        while self._tails:
            scope, due = next(iter(self._tails.items()))
            if due > now:
                return
            del self._tails[scope]
            scope.cancel()
            _log_timeout(self._timeout)

    async def _poll(self, sampled: Sampled, scope: anyio.CancelScope) -> None:
        try:
            with scope:
                await _limited_poll(sampled.environment, sampled.sink, timeout=self._timeout)
        finally:
            sampled.poll = None
            if sampled.gone is not None:
                sampled.gone.set()
        if sampled.gone is None:
            sampled.due = time.monotonic() + self._period_s
            self._waiting[sampled] = None


async def _limited_poll(environment: Polled, sink: TelemetrySink, *, timeout: timedelta) -> None:
    with anyio.move_on_after(timeout.total_seconds()) as scope:
        await poll(environment, sink)
    if scope.cancelled_caught:
        _log_timeout(timeout)


def _log_timeout(timeout: timedelta) -> None:
    """A poll was given up."""
    logger.warning("a status poll took longer than %s", timeout, extra={"action": "poll_timeout"})


async def poll(environment: Polled, sink: TelemetrySink) -> None:
    """Ask once and pass the telemetry on.

    A poll that fails or gives something unusable is logged: telemetry never fails a trial.
    """
    try:
        report = StatusReport.of(await environment.status())
        if report.telemetry:
            await sink.emit_many(report.telemetry)
    except Exception as exc:  # noqa: BLE001 - whatever a user's environment raises
        _log_failure(exc)
    except anyio.get_cancelled_exc_class() as exc:
        if is_cancelled():
            raise
        _log_failure(exc)


def _log_failure(exc: BaseException) -> None:
    logger.warning("a status poll failed: %s: %s", type(exc).__name__, exc, extra={"action": "poll_failed"})
