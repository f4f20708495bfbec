"""What becomes of a trial that has run: its outcome is stored, or it is queued again."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import NamedTuple

import anyio

from windtunnel.errors import NotFound, ResultsInvalid, StaleTrial, StorageError, TrialAlreadyFinished
from windtunnel.events import EventBus, TrialFinished, TrialLost, TrialRetried
from windtunnel.model import FailureKind, RunResult, Status, Trial
from windtunnel.scheduling.held import Held, HeldTrials
from windtunnel.scheduling.ledger import Ledger
from windtunnel.scheduling.policy import Retry, pause_before
from windtunnel.scheduling.pruning import Pruning
from windtunnel.scheduling.runner import Outcome
from windtunnel.storage import INTERRUPTED, Experiment
from windtunnel.telemetry import TrialSink

__all__ = ["Ended", "Endings"]

logger = logging.getLogger(__name__)

_REFUSALS = (StaleTrial, TrialAlreadyFinished, NotFound)
"""A trial that is not ours any more: its outcome is not wanted, nobody else is concerned."""

_NOT_BEGUN = "given back: nothing more is begun in that session"
_OVERTIME = "the experiment's time limit (timeouts.experiment) ended it"
_NO_RETRY = Retry()
_SETTLE_S = 120.0


class Ended(NamedTuple):
    """A trial that has run, until its outcome is stored.

    :ivar host: None if it never had a slot.
    :ivar began: whether its environment saw anything of it.
    """

    trial: Trial
    outcome: Outcome
    host: str | None
    sink: TrialSink
    began: bool = True


class Endings:
    """Stores outcomes. Every write is shielded and limited in time by the storage.

    :param finished: called with every trial whose outcome is final and was stored, and where it ran.
    """

    def __init__(
        self,
        *,
        experiment: Experiment,
        held: HeldTrials,
        ledger: Ledger,
        bus: EventBus,
        pruning: Pruning | None,
        retries: Mapping[FailureKind, Retry],
        finished: Callable[[Trial, Outcome, str | None], None],
    ) -> None:
        self._experiment = experiment
        self._held = held
        self._ledger = ledger
        self._bus = bus
        self._pruning = pruning
        self._retries = retries
        self._finished = finished
        self._unstored: list[tuple[Held, Ended]] = []
        self._in_doubt = False

    def doubt(self) -> None:
        """Trials may be ours in the database that nobody here knows of."""
        self._in_doubt = True

    async def conclude(self, held: Held, ended: Ended) -> None:
        """Store what came of a trial, or queue it again.

        :raises StorageError: if the database fails; ``settle`` tries again.
        """
        held.ending = True
        is_stored = True
        try:
            if held.lost:
                self._in_doubt = True
                await self._tell_of_lost(ended)
            else:
                await self._store_or_retry(ended)
        except _REFUSALS as exc:
            self._ledger.stale_refused += 1
            logger.warning("%s", exc, extra={"trial_id": ended.trial.trial_id, "action": "stale_refused"})
            self._bus.publish(TrialLost(ended.trial, str(exc)))
        except StorageError:
            is_stored = False
            self._unstored.append((held, ended))  # and it stays ours until then
            raise
        finally:
            if self._pruning is not None:
                self._pruning.forget(ended.trial)
            if is_stored:
                self._held.remove(held)
            self._ledger.wake()

    async def settle(self) -> None:
        """Store what the database did not take before, and give back what is ours and has no outcome.

        The last attempt: where it fails too, the trials are free when their leases end.
        """
        if not (self._unstored or self._in_doubt):
            return
        try:
            with anyio.fail_after(_SETTLE_S, shield=True):
                while self._unstored:
                    held, ended = self._unstored[-1]
                    with contextlib.suppress(*_REFUSALS):
                        await self._store_or_retry(ended)
                    self._unstored.pop()
                    self._held.remove(held)
                await self._held.give_back()
        except (StorageError, TimeoutError) as exc:
            logger.warning(
                "trials may stay RUNNING until their leases end: %s", exc, extra={"action": "unsettled"}
            )

    async def _store_or_retry(self, ended: Ended) -> None:
        if ended.outcome.failure == INTERRUPTED:
            if await self._given_back(ended):
                return
            if self._ledger.overtime and ended.began:
                result = ended.outcome.result._replace(status=Status.TIMED_OUT)
                ended = ended._replace(outcome=Outcome(result, _OVERTIME, FailureKind.TIMEOUT))
        pause = await self._pause_before_retry(ended)
        if pause is None:
            self._final(ended, await self._store(ended))
        else:
            await self._again(ended, pause)

    async def _given_back(self, ended: Ended) -> bool:
        """Whether it went back to the queue, since it had not begun when beginning came to an end."""
        if ended.began or self._ledger.halt.is_set() or not self._ledger.is_closed:
            return False
        await self._experiment.release(ended.trial, reason=_NOT_BEGUN)
        self._bus.publish(TrialRetried(ended.trial, _NOT_BEGUN))
        return True

    async def _store(self, ended: Ended) -> Outcome:
        """Store the outcome, or that it cannot be stored."""
        trial, (result, failure, kind, _), host, sink, _ = ended
        await sink.flush()
        try:
            await self._experiment.finish(trial, result, failure=failure, host=host, kind=kind)
        except ResultsInvalid as exc:
            failed = RunResult(Status.FAILED, result.timestamp, None)
            kind = FailureKind.RESULTS
            await self._experiment.finish(trial, failed, failure=str(exc), host=host, kind=kind)
            return Outcome(failed, str(exc), kind)
        return ended.outcome

    def _final(self, ended: Ended, outcome: Outcome) -> None:
        """The outcome is stored: let everybody know."""
        trial, (result, failure, kind, _) = ended.trial, outcome
        self._ledger.note(result.status, kind)
        self._ledger.aborted += kind is FailureKind.ABORTED
        if self._pruning is not None and result.status is Status.SUCCEEDED:
            self._pruning.succeeded(trial.trial_id, result.metrics or {})
        self._finished(trial, outcome, ended.host)
        if self._bus.is_heard:
            self._bus.publish(TrialFinished(trial, result, failure, ended.host))

    async def _pause_before_retry(self, ended: Ended) -> timedelta | None:
        """How long to wait before the trial is run again; None if its outcome stands."""
        trial, kind = ended.trial, ended.outcome.kind
        if ended.outcome.failure == _OVERTIME:
            return None
        retry = _NO_RETRY if kind is None else self._retries.get(kind, _NO_RETRY)
        if kind is None or retry.times == 0:
            return None
        used = 0
        if trial.attempt > 1:
            used = (await self._experiment.failed_attempts(trial.trial_id))[kind]
        return pause_before(retry, used, random.random())  # noqa: S311 - jitter

    async def _again(self, ended: Ended, pause: timedelta) -> None:
        trial, (result, failure, kind, _), host, sink, _ = ended
        assert kind is not None, "only failures are retried"  # noqa: S101
        reason = failure or result.status.name
        await sink.flush()
        await self._experiment.retry(
            trial, status=result.status, reason=reason, kind=kind, host=host, after=pause
        )
        logger.info(
            "trial %d failed (%s) and is run again in %.1f s: %s",
            trial.trial_id,
            kind,
            pause.total_seconds(),
            reason,
            extra={"action": "retried"},
        )
        self._ledger.retried += 1
        self._ledger.pending += 1
        if self._bus.is_heard:
            self._bus.publish(TrialRetried(trial, reason, pause))

    async def _tell_of_lost(self, ended: Ended) -> None:
        """A trial that was canceled from outside has ended, though not by us."""
        self._ledger.lost += 1
        trial = ended.trial
        record = await self._experiment.record_of(trial.trial_id)
        if record.status is Status.CANCELED and record.attempt == trial.attempt:
            result = RunResult(record.status, record.ended or ended.outcome.result.timestamp, None)
            self._finished(trial, Outcome(result, record.failure), ended.host)
            self._bus.publish(TrialFinished(trial, result, record.failure, ended.host))
        else:
            self._bus.publish(TrialLost(trial, "its lease was lost"))
