"""Polls an environment's status beside its run."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Protocol

import anyio

from windtunnel.model import StatusReport
from windtunnel.protocols import TelemetrySink

__all__ = ["poll", "sample"]

logger = logging.getLogger(__name__)


class Polled(Protocol):
    """What the sampler needs of an environment."""

    async def status(self) -> StatusReport: ...


async def sample(environment: Polled, sink: TelemetrySink, *, period: timedelta, timeout: timedelta) -> None:
    """Pass on the telemetry of ``environment.status()`` every ``period`` until cancelled.

    A poll that fails or takes longer than ``timeout`` is logged and the next one is made: telemetry never
    fails a trial.
    """
    while True:
        await anyio.sleep(period.total_seconds())
        await poll(environment, sink, timeout=timeout)


async def poll(environment: Polled, sink: TelemetrySink, *, timeout: timedelta) -> None:
    """Ask once and pass the telemetry on."""
    report: StatusReport | None = None
    try:
        with anyio.move_on_after(timeout.total_seconds()):
            report = await environment.status()
    except Exception as exc:  # noqa: BLE001 - whatever a user's environment raises
        logger.warning(
            "a status poll failed: %s: %s", type(exc).__name__, exc, extra={"action": "poll_failed"}
        )
        return
    if report is None:
        logger.warning("a status poll took longer than %s", timeout, extra={"action": "poll_timeout"})
    elif report.telemetry:
        await sink.emit_many(report.telemetry)
