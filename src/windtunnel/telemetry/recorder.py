"""From running trials to the database, without losing a point.

Samples wait here for a fraction of a second, so that many go into one transaction. The buffer is bounded over
all trials together; when it is full, producers wait. After a crash at most one flush period is missing, and
never a point whose ``record`` returned.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

import anyio
import anyio.lowlevel

from windtunnel.errors import ResultsInvalid, StorageError
from windtunnel.model import Sample, Trial
from windtunnel.texts import check_metric_name

__all__ = ["Recorder", "TrialSink"]

logger = logging.getLogger(__name__)

Batch = tuple[Trial, Sequence[Sample]]
Write = Callable[[Sequence[Batch]], Awaitable[Sequence[StorageError | None]]]
"""Stores batches in one transaction; the refusal of each, or None."""

_MICROSECOND = timedelta(microseconds=1)
_YIELD_EVERY = 256
_NAMES = 10_000
_PLAIN = frozenset({float, int, str})


class Recorder:
    """Buffers the telemetry of all running trials and flushes it periodically. ``run`` must be running.

    :param write: stores the batches.
    :param recorded: called with each batch once it is durable.
    :param capacity: samples buffered over all trials; producers wait when it is reached.
    :param period: how long a sample waits at most before it is written.
    """

    def __init__(
        self,
        write: Write,
        *,
        recorded: Callable[[Trial, Sequence[Sample]], None] | None = None,
        capacity: int = 20_000,
        period: timedelta = timedelta(milliseconds=200),
    ) -> None:
        self._write = write
        self._recorded = recorded
        self._capacity = capacity
        self._period_s = period.total_seconds()
        self._buffered = 0
        self._filled: dict[TrialSink, None] = {}
        self._urgent = anyio.Event()
        self._room = anyio.Event()
        self.written = self.refused = 0
        self.names: set[str] = set()

    @property
    def buffered(self) -> int:
        """Samples that wait to be written."""
        return self._buffered

    def sink(self, trial: Trial) -> TrialSink:
        """Where the samples of a claimed trial go."""
        return TrialSink(self, trial)

    def learn(self, metric: str) -> None:
        """Remember that this is the name of a metric.

        :raises ResultsInvalid: if it cannot be one; the points before are safe.
        """
        if len(self.names) >= _NAMES:  # somebody makes up names: they are checked one by one
            self.names.clear()
        self.names.add(check_metric_name(metric))

    async def run(self) -> None:
        """Flush every period, or sooner when the buffer is filling, until cancelled."""
        while True:
            with anyio.move_on_after(self._period_s):
                await self._urgent.wait()
            self._urgent = anyio.Event()
            await self.flush()

    async def flush(self, *sinks: TrialSink) -> None:
        """Write what is buffered, of all trials or of those given, and return when it is durable.

        :raises StorageError: if the database fails; the samples are then buffered again.
        """
        chosen = [sink for sink in sinks or tuple(self._filled) if sink in self._filled]
        if not chosen:
            return
        written = anyio.Event()
        batches = [(sink.trial, sink.take(written)) for sink in chosen]
        for sink in chosen:
            del self._filled[sink]
        try:
            with anyio.CancelScope(shield=True):  # limited in time by the storage
                outcomes = await self._write(batches)
        except BaseException:
            for sink, (_, samples) in zip(chosen, batches, strict=True):
                sink.put_back(samples)
                self._filled[sink] = None
            raise
        finally:
            written.set()
        self._buffered -= sum(len(samples) for _, samples in batches)
        self._room.set()
        self._room = anyio.Event()
        for (trial, samples), refusal in zip(batches, outcomes, strict=True):
            if refusal is None:
                self.written += len(samples)
                if self._recorded is not None:
                    self._recorded(trial, samples)
            else:
                self.refused += len(samples)
                logger.warning(
                    "%s", refusal, extra={"trial_id": trial.trial_id, "action": "telemetry_refused"}
                )

    def added(self, sink: TrialSink) -> bool:
        """Count one more sample of ``sink``; False if the buffer is full now."""
        self._buffered += 1
        self._filled[sink] = None
        if self._buffered * 2 >= self._capacity:
            self._urgent.set()
        return self._buffered < self._capacity

    async def wait_for_room(self) -> None:
        """Wait until there is room for more."""
        while self._buffered >= self._capacity:
            self._urgent.set()
            await self._room.wait()


class TrialSink:
    """Takes the samples of one trial (a ``TelemetrySink``)."""

    __slots__ = ("_count", "_last", "_recorder", "_samples", "_under_way", "trial")

    def __init__(self, recorder: Recorder, trial: Trial) -> None:
        self.trial = trial
        self._recorder = recorder
        self._samples: list[Sample] = []
        self._under_way: anyio.Event | None = None
        self._count = 0
        self._last = datetime.min.replace(tzinfo=UTC)

    async def emit(self, metric: str, value: float | str, timestamp: datetime | None = None) -> None:
        if timestamp is None:
            timestamp = datetime.now(UTC)
            if timestamp <= self._last:  # two points in one microsecond would be one in the database
                timestamp = self._last + _MICROSECOND
            self._last = timestamp
        elif timestamp.tzinfo is None:
            raise ValueError(
                f"expected a time with a zone for {metric!r}, found {timestamp!r}; add tzinfo=UTC"
            )
        if metric not in self._recorder.names:
            self._recorder.learn(metric)
        if value.__class__ not in _PLAIN:
            value = _as_number(metric, value)
        self._samples.append(Sample(timestamp, metric, value))
        if not self._recorder.added(self):
            await self._recorder.wait_for_room()
        self._count += 1
        if self._count % _YIELD_EVERY == 0:
            await anyio.lowlevel.checkpoint()  # a tight loop of emits must let the others run

    async def emit_many(self, samples: Iterable[Sample]) -> None:
        for timestamp, metric, value in samples:
            await self.emit(metric, value, timestamp)

    async def flush(self) -> None:
        """Return when everything emitted so far is durable, or was refused.

        :raises StorageError: if the database fails.
        """
        # The recorder may be writing samples of ours that are in no buffer; if it fails they come back.
        while self._under_way is not None and not self._under_way.is_set():
            with anyio.CancelScope(shield=True):  # as the write itself, which is limited in time
                await self._under_way.wait()
        if self._samples:
            await self._recorder.flush(self)

    def take(self, written: anyio.Event) -> list[Sample]:
        """Hand over what is buffered.

        :param written: is set when the write of it has ended.
        """
        taken, self._samples, self._under_way = self._samples, [], written
        return taken

    def put_back(self, samples: list[Sample]) -> None:
        """Take back what was handed over and could not be written; it comes before what came since."""
        self._samples[:0] = samples


def _as_number(metric: str, value: object) -> float | str:
    if isinstance(value, str):
        return str(value)
    try:
        return float(value)  # type: ignore[arg-type]  # numpy's scalars and Decimal come here
    except (TypeError, ValueError):
        raise ResultsInvalid(f"telemetry {metric!r} must be a number or text, found {value!r}") from None
