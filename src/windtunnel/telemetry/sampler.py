"""Polls an environment's status beside its run."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Protocol

import anyio

from windtunnel.concurrency import is_cancelled
from windtunnel.model import StatusReport
from windtunnel.protocols import TelemetrySink

__all__ = ["poll", "sample"]

logger = logging.getLogger(__name__)


class Polled(Protocol):
    """What the sampler needs of an environment."""

    async def status(self) -> StatusReport: ...


async def sample(environment: Polled, sink: TelemetrySink, *, period: timedelta, timeout: timedelta) -> None:
    """Pass on the telemetry of ``environment.status()`` every ``period`` until cancelled."""
    while True:
        await anyio.sleep(period.total_seconds())
        await poll(environment, sink, timeout=timeout)


async def poll(environment: Polled, sink: TelemetrySink, *, timeout: timedelta) -> None:
    """Ask once and pass the telemetry on.

    A poll that fails, takes longer than ``timeout`` or gives something unusable is logged: telemetry never
    fails a trial.
    """
    try:
        with anyio.move_on_after(timeout.total_seconds()) as scope:
            report = StatusReport.of(await environment.status())
        if scope.cancelled_caught:
            logger.warning("a status poll took longer than %s", timeout, extra={"action": "poll_timeout"})
        else:
            await sink.emit_many(report.telemetry)
    except Exception as exc:  # noqa: BLE001 - whatever a user's environment raises
        _log_failure(exc)
    except anyio.get_cancelled_exc_class() as exc:
        if is_cancelled():
            raise
        _log_failure(exc)


def _log_failure(exc: BaseException) -> None:
    logger.warning("a status poll failed: %s: %s", type(exc).__name__, exc, extra={"action": "poll_failed"})
