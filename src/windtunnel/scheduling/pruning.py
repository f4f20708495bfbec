"""A pruner at work: it sees the telemetry of running trials and stops those it gives up."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import anyio
import anyio.lowlevel

from windtunnel.model import Sample, Status, Trial, TrialRecord
from windtunnel.protocols import TelemetrySink
from windtunnel.pruners import Abort, Pruner
from windtunnel.storage import Experiment

__all__ = ["ABORTED", "Pruning", "Watch"]

logger = logging.getLogger(__name__)

_TICK_S = 1.0
ABORTED = "aborted: "
"""How the failure text of a trial begins that a pruner stopped."""

_AT_ONCE = 1000
_REPLAYED = 200
"""Trials whose telemetry the pruner is shown at most when a session begins, the newest."""


class Watch:
    """One trial under a pruner's eyes: a ``TelemetrySink`` that passes everything on.

    :ivar verdict: why the trial was stopped; None while it may go on.
    """

    __slots__ = ("_began", "_first", "_pruning", "_scope", "_sink", "_trial_id", "verdict")

    def __init__(self, pruning: Pruning, trial_id: int, sink: TelemetrySink) -> None:
        self._pruning = pruning
        self._trial_id = trial_id
        self._sink = sink
        self._scope: anyio.CancelScope | None = None
        self._began = 0.0
        self._first: float | None = None
        self.verdict: Abort | None = None

    async def emit(self, metric: str, value: float | str, timestamp: datetime | None = None) -> None:
        await self._sink.emit(metric, value, timestamp)
        self._see(metric, value)

    async def emit_many(self, samples: Iterable[Sample]) -> None:
        passed = list(samples)
        await self._sink.emit_many(passed)
        for _, metric, value in passed:
            self._see(metric, value)

    def tick(self) -> None:
        """Time has passed."""
        if self._scope is not None:
            self._heed(self._pruning.tick(self._trial_id, time.monotonic() - self._began))

    @contextmanager
    def run(self) -> Iterator[None]:
        """The run of the trial. It is cancelled when the pruner gives it up; then ``verdict`` is set."""
        self._began = time.monotonic()
        try:
            with anyio.CancelScope() as self._scope:
                yield
            if not self._scope.cancelled_caught:
                self.verdict = None  # it had ended before the word reached it
        except Exception:
            if self.verdict is None:
                raise
            # How it answered its cancellation: the verdict stands.
        finally:
            self._scope = None

    def _see(self, metric: str, value: float | str) -> None:
        if self._scope is not None and isinstance(value, int | float):
            now = time.monotonic()
            if self._first is None:
                self._first = now
            self._heed(self._pruning.observe(self._trial_id, metric, value, now - self._first))

    def _heed(self, verdict: Abort | None) -> None:
        if verdict is not None and self.verdict is None and self._scope is not None:
            self.verdict = verdict
            self._scope.cancel()


class Pruning:
    """Guards a pruner: one that raises is not asked again, and no trial suffers for it.

    ``run`` must be running.

    :param pruner: called in the event loop.
    """

    def __init__(self, pruner: Pruner) -> None:
        self._pruner: Pruner | None = pruner
        self._ticks = pruner.ticks
        self._metrics = pruner.metrics
        self._watched: dict[int, Watch] = {}
        self._begun: dict[int, int] = {}

    @contextmanager
    def watching(self, trial: Trial, sink: TelemetrySink) -> Iterator[Watch]:
        """Watch an attempt of a trial while the block runs."""
        trial_id = trial.trial_id
        if trial_id in self._begun:  # an attempt that we lost has not ended yet
            self._ended(trial_id, None)
        watch = self._watched[trial_id] = Watch(self, trial_id, sink)
        self._begun[trial_id] = trial.attempt
        try:
            yield watch
        finally:
            if self._watched.get(trial_id) is watch:
                del self._watched[trial_id]

    async def run(self) -> None:
        """Let time pass for the rules that go by it, until cancelled."""
        while self._ticks:
            await anyio.sleep(_TICK_S)
            for watch in tuple(self._watched.values()):
                watch.tick()

    def observe(self, trial_id: int, metric: str, value: float, elapsed_s: float) -> Abort | None:
        """What the pruner says of a sample."""
        if self._pruner is None or (self._metrics is not None and metric not in self._metrics):
            return None
        try:
            number = float(value)
        except OverflowError:  # an integer beyond all floats
            return None
        try:
            return self._pruner.observe(trial_id, metric, number, elapsed_s)
        except Exception as exc:  # noqa: BLE001 - whatever a user's rule raises
            self._give_up(exc)
            return None

    def tick(self, trial_id: int, elapsed_s: float) -> Abort | None:
        """What the pruner says of the time."""
        if self._pruner is None:
            return None
        try:
            return self._pruner.tick(trial_id, elapsed_s)
        except Exception as exc:  # noqa: BLE001 - whatever a user's rule raises
            self._give_up(exc)
            return None

    def succeeded(self, trial_id: int, metrics: Mapping[str, Any]) -> None:
        """The trial has succeeded with these metrics."""
        self._ended(trial_id, _numbers(metrics))

    def forget(self, trial: Trial) -> None:
        """The attempt has ended; the trial may run again, and then is judged anew."""
        if self._begun.get(trial.trial_id) == trial.attempt:
            self._ended(trial.trial_id, None)

    def _ended(self, trial_id: int, scores: Mapping[str, float] | None) -> None:
        self._begun.pop(trial_id, None)
        if self._pruner is not None:
            try:
                self._pruner.ended(trial_id, scores)
            except Exception as exc:  # noqa: BLE001 - whatever a user's rule raises
                self._give_up(exc)

    async def replay(self, experiment: Experiment, total: int) -> None:
        """Show the pruner what was recorded of the newest trials that succeeded or that it stopped.

        :param total: trials the experiment has.
        :raises StorageError: if the database fails.
        """
        newest = range(max(1, total - _REPLAYED + 1), total + 1)
        for record in await experiment.outcomes(newest):
            was_aborted = record.status is Status.CANCELED and (record.failure or "").startswith(ABORTED)
            if record.status is Status.SUCCEEDED or was_aborted:
                await self._show(experiment, record)

    async def _show(self, experiment: Experiment, record: TrialRecord) -> None:
        first: datetime | None = None
        async for batch in experiment.stream_telemetry([record.trial_id], batch_size=_AT_ONCE):
            for _, attempt, (timestamp, metric, value) in batch:
                if attempt == record.attempt and isinstance(value, int | float):
                    first = first or timestamp
                    elapsed_s = (timestamp - first).total_seconds()
                    self.observe(record.trial_id, metric, value, elapsed_s)
            await anyio.lowlevel.checkpoint()
        succeeded = record.status is Status.SUCCEEDED
        self._ended(record.trial_id, _numbers(record.metrics or {}) if succeeded else None)

    def _give_up(self, exc: Exception) -> None:
        self._pruner = None
        logger.warning(
            "the pruner failed and is not asked again: %s: %s",
            type(exc).__name__,
            exc,
            extra={"action": "pruner_failed"},
        )


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}
