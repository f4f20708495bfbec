"""Metrics in the text format of Prometheus; needs the extra ``prometheus``.

::

    async with serving_metrics(scheduler, port=9464):
        await scheduler.run()
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import asynccontextmanager
from typing import NamedTuple

import anyio
import anyio.to_thread

from windtunnel.errors import ConfigError
from windtunnel.model import Status
from windtunnel.scheduling import Scheduler
from windtunnel.scheduling.snapshot import Snapshot

try:
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.exposition import generate_latest
except ModuleNotFoundError as exc:
    if exc.name != "prometheus_client":
        raise  # it is there, and something that it needs is not
    raise ConfigError(
        "metrics need prometheus_client, which is not installed; "
        "install it with: pip install 'windtunnel[prometheus]'"
    ) from None

__all__ = ["metrics_text", "serving_metrics"]

Family = CounterMetricFamily | GaugeMetricFamily

logger = logging.getLogger(__name__)

_SNAPSHOT_LIMIT_S = 2.0
_CLOSING_LIMIT_S = 5.0
_OUTCOMES = (Status.SUCCEEDED, Status.FAILED, Status.CANCELED, Status.TIMED_OUT)


class _Metric(NamedTuple):
    name: str
    help: str
    value: Callable[[Snapshot], float | None]


_GAUGES = (
    _Metric("trials_running", "Trials that this worker holds.", lambda s: len(s.running)),
    _Metric("trials_pending", "Trials of the experiment that wait, as far as it knows.", lambda s: s.pending),
    _Metric("trials_target", "Trials that the experiment shall have.", lambda s: s.target),
    _Metric("slots", "Trials that can run at once on this worker.", lambda s: s.slots),
    _Metric("slots_free", "Slots without a trial.", lambda s: s.slots_free),
    _Metric("samples_buffered", "Telemetry that waits to be written.", lambda s: s.samples_buffered),
    _Metric("heartbeat_age_seconds", "Time since the leases were last renewed.", lambda s: s.heartbeat_age_s),
    _Metric("leader", "1 if this worker runs the experiment's optimizer.", lambda s: s.leads),
)

_COUNTERS = (
    _Metric("retries", "Attempts of this worker that were queued again.", lambda s: s.retried),
    _Metric("aborts", "Trials that a pruner stopped.", lambda s: s.aborted),
    _Metric(
        "stale_outcomes_refused", "Outcomes that came after the lease was lost.", lambda s: s.stale_refused
    ),
    _Metric("leases_lost", "Trials cancelled here because they were no longer ours.", lambda s: s.lost),
    _Metric("samples_written", "Telemetry that has reached the database.", lambda s: s.samples_written),
    _Metric("samples_refused", "Telemetry that the database refused.", lambda s: s.samples_refused),
    _Metric("events_dropped", "Events that slow subscribers have missed.", lambda s: s.events_dropped),
)


def metrics_text(*snapshots: Snapshot) -> str:
    """The text exposition of one scheduler, or of several with different experiments."""
    return generate_latest(_registry(lambda: snapshots)).decode()


@asynccontextmanager
async def serving_metrics(*schedulers: Scheduler, port: int, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """Serve ``http://host:port/metrics`` in a thread of its own while the block runs, and give that address.

    :param schedulers: of different experiments, all of this event loop.
    :param port: 0 takes any that is free.
    :raises ConfigError: if the port cannot be used.
    """
    latest = _Latest(schedulers)
    try:
        server, thread = await anyio.to_thread.run_sync(
            lambda: start_http_server(port, host, _registry(latest.snapshots))
        )
    except OSError as exc:
        raise ConfigError(f"metrics cannot be served at {host}:{port}: {exc}; choose another port") from exc

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join(_CLOSING_LIMIT_S)

    try:
        yield f"http://{host}:{server.server_port}/metrics"
    finally:
        with anyio.move_on_after(_CLOSING_LIMIT_S, shield=True) as scope:
            await anyio.to_thread.run_sync(end, abandon_on_cancel=True)
        if scope.cancelled_caught:
            logger.warning("the metrics server did not end in time", extra={"action": "metrics_left"})


class _Latest:
    """Snapshots for other threads: taken in the event loop, where nothing changes meanwhile."""

    def __init__(self, schedulers: Iterable[Scheduler]) -> None:
        self._schedulers = tuple(schedulers)
        self._loop = asyncio.get_running_loop()
        self._known = self._take()

    def snapshots(self) -> tuple[Snapshot, ...]:
        """Those of now; if the loop has no time to take them, the newest there are."""
        answer: Future[tuple[Snapshot, ...]] = Future()
        self._loop.call_soon_threadsafe(self._answer, answer)
        try:
            self._known = answer.result(_SNAPSHOT_LIMIT_S)
        except (TimeoutError, CancelledError):
            answer.cancel()
        return self._known

    def _answer(self, answer: Future[tuple[Snapshot, ...]]) -> None:
        if not answer.set_running_or_notify_cancel():
            return  # nobody waits for it any more
        try:
            answer.set_result(self._take())
        except Exception as exc:  # noqa: BLE001 - it belongs to the thread that asked
            answer.set_exception(exc)

    def _take(self) -> tuple[Snapshot, ...]:
        return tuple(scheduler.snapshot() for scheduler in self._schedulers)


class _Collector:
    """Makes the metrics anew for every scrape."""

    def __init__(self, snapshots: Callable[[], Iterable[Snapshot]]) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterator[Family]:
        return _families(tuple(self._snapshots()))


def _registry(snapshots: Callable[[], Iterable[Snapshot]]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Collector(snapshots))
    return registry


def _families(snapshots: tuple[Snapshot, ...]) -> Iterator[Family]:
    for metrics, kind in ((_GAUGES, GaugeMetricFamily), (_COUNTERS, CounterMetricFamily)):
        for metric in metrics:
            family = kind(f"windtunnel_{metric.name}", metric.help, labels=("experiment",))
            for one in snapshots:
                if (value := metric.value(one)) is not None:
                    family.add_metric((one.experiment_id,), value)
            yield family
    finished = CounterMetricFamily(
        "windtunnel_trials_finished", "Outcomes that this worker stored.", labels=("experiment", "status")
    )
    for one in snapshots:
        for status in _OUTCOMES:  # also those that are 0: a rate needs a beginning
            finished.add_metric((one.experiment_id, status.name.lower()), one.finished.get(status, 0))
    yield finished
