"""Runs an experiment: many trials at once, each once, until there are as many as were asked for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from windtunnel.errors import OptimizerError, ResultsInvalid, StaleTrial, StorageError
from windtunnel.events import (
    EventBus,
    TelemetryRecorded,
    TrialAdded,
    TrialClaimed,
    TrialFinished,
    TrialStarted,
)
from windtunnel.model import History, NewTrial, RunResult, Sample, Status, Summary, Timeouts, Trial, utc_now
from windtunnel.optimizers.base import Optimizer
from windtunnel.scheduling import policy
from windtunnel.scheduling.hosts import Host, MakeEnvironment, Slot, SlotPool
from windtunnel.scheduling.leases import certainly_dead, new_owner
from windtunnel.scheduling.runner import Outcome, TrialRunner
from windtunnel.storage import INTERRUPTED, Experiment
from windtunnel.telemetry import Recorder, TrialSink
from windtunnel.tunables import TunableGroups

__all__ = ["Scheduler"]

logger = logging.getLogger(__name__)

_IDLE_POLL_S = 0.5
"""How often free slots look for trials nobody told of: expired leases, trials due later."""


_CLAIM_LIMIT = 250
"""Trials started in one go: more would keep the event loop from everything else for too long."""


class _Signal:
    """Wakes the one task that waits for it; a wake-up that comes early is kept."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = anyio.Event()


@dataclass(slots=True)
class _Running:
    trial: Trial
    scope: anyio.CancelScope
    leased_at: float
    lost: bool = False
    ending: bool = False


class Scheduler:
    """Drives one experiment. Everything it starts ends inside ``await scheduler.run()``.

    :param experiment: where trials are kept.
    :param optimizer: proposes configurations; called in a worker thread, one call at a time.
    :param make_environment: makes the environment of a slot.
    :param hosts: where trials run; their slots are the concurrency.
    :param trials: how many trials the experiment shall have, over all its sessions and repeats.
    :param repeats: trials a configuration.
    :param lease: how long a trial stays ours without a heartbeat.
    """

    def __init__(
        self,
        *,
        experiment: Experiment,
        optimizer: Optimizer,
        make_environment: MakeEnvironment,
        hosts: Sequence[Host] = (Host(),),
        trials: int = 100,
        repeats: int = 1,
        timeouts: Timeouts | None = None,
        lease: timedelta = timedelta(seconds=30),
        poll_period: timedelta = timedelta(seconds=1),
    ) -> None:
        self.owner = ""
        self.events = EventBus()
        self._experiment = experiment
        self._optimizer = optimizer
        self._slots = SlotPool(hosts, make_environment)
        self._trials = trials
        self._repeats = repeats
        self._lease = lease
        self._runner = TrialRunner(
            timeouts=timeouts or Timeouts(), objectives=experiment.opt_targets, poll_period=poll_period
        )
        self._recorder = Recorder(experiment.record_many, recorded=self._telemetry_recorded)
        self._running: dict[int, _Running] = {}
        self._untold: list[tuple[Trial, RunResult]] = []
        self._work = _Signal()
        self._demand = _Signal()
        self._total = 0
        self._pending = 0
        self._looked = 0.0
        self._exhausted = False
        self._stopping = False
        self._problem: Exception | None = None

    async def run(self) -> Summary:
        """Run trials until there are as many as asked for, or ``stop`` is called.

        Trials that an earlier session left are taken up first. Cancelling it cancels the running trials, lets
        their teardown finish within its grace, and records them, as ``stop`` does.

        :raises ConfigError: if the environment's description is wrong.
        :raises StorageError: if the database fails; what was finished before is safe.
        :raises OptimizerError: if the optimizer fails.
        """
        try:
            await self._pick_up()
            async with anyio.create_task_group() as helpers:
                helpers.start_soon(self._recorder.run, name="recorder")
                helpers.start_soon(self._heartbeat, name="heartbeat")
                helpers.start_soon(self._watch_leases, name="lease watch")
                helpers.start_soon(self._suggest, name="suggester")
                async with anyio.create_task_group() as trials:
                    await self._dispatch(trials)
                helpers.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _first_of(group) from group
        finally:
            self.events.close()
        if self._problem is not None:
            raise OptimizerError(
                f"the optimizer failed after {self._total} trials: "
                f"{type(self._problem).__name__}: {self._problem}"
            ) from self._problem
        return await self._summary()

    def stop(self) -> None:
        """Claim nothing more and cancel the running trials; the second call cuts their teardown short."""
        if self._stopping:
            self._runner.cut_grace()
        self._stopping = True
        for running in self._running.values():
            running.scope.cancel()
        self._work.set()

    # Beginning

    async def _pick_up(self) -> None:
        """Learn what earlier sessions did and queue again what they left."""
        self.owner = await anyio.to_thread.run_sync(new_owner)
        requeued = await self._experiment.recover(certainly_dead)
        if requeued:
            logger.info("%d interrupted trials are queued again", requeued, extra={"action": "requeued"})
        counts = await self._experiment.counts()
        self._total, self._pending = counts.total, counts.pending
        if self._optimizer.learns and counts.total:
            await self._in_thread(self._optimizer.tell, await self._experiment.load())

    # Suggesting

    async def _suggest(self) -> None:
        """Keep enough trials stored for the slots."""
        while self._total < self._trials and not self._exhausted:
            due = policy.suggestions_due(
                total=self._total,
                budget=self._trials,
                pending=self._pending,
                free=self._slots.free,
                concurrency=self._slots.size,
                repeats=self._repeats,
                learns=self._optimizer.learns,
            )
            if due == 0:
                await self._demand.wait()
                continue
            suggestions = await self._ask(due)
            await self._add([NewTrial(tunables=one) for one in suggestions for _ in range(self._repeats)])
            self._exhausted = not suggestions
            self._work.set()

    async def _ask(self, count: int) -> list[TunableGroups]:
        """New suggestions; none from an optimizer that fails, whose error is told at the end."""
        try:
            await self._tell()
            suggestions: list[TunableGroups] = await self._in_thread(self._optimizer.ask, count)
        except Exception as exc:  # noqa: BLE001 - whatever an engine raises
            self._problem = exc
            return []
        return suggestions

    async def _add(self, new: list[NewTrial]) -> None:
        added = await self._experiment.add_trials(new, at_most=self._trials)
        if len(added) < len(new):  # the budget is used up, maybe by another process
            self._total = self._trials
        else:
            self._total += len(added)
        self._pending += len(added)
        if self.events.is_heard:
            for trial in added:
                self.events.publish(TrialAdded(trial))

    async def _tell(self) -> None:
        """Tell the optimizer what has finished since it was last told, in the order of completion."""
        if not self._untold:
            return
        done, self._untold = self._untold, []
        history = History(
            [trial.trial_id for trial, _ in done],
            [dict(trial.tunables) for trial, _ in done],
            [result.metrics for _, result in done],
            [result.status for _, result in done],
        )
        await self._in_thread(self._optimizer.tell, history)

    @staticmethod
    async def _in_thread(function: Any, argument: Any) -> Any:
        """Call the optimizer where it does not block the loop; one task owns it, so calls never overlap."""
        return await anyio.to_thread.run_sync(function, argument)

    # Claiming and running

    async def _dispatch(self, tasks: TaskGroup) -> None:
        """Claim trials for free slots until nothing is left to run."""
        while not self._stopping:
            due = self._pending > 0 or anyio.current_time() - self._looked >= _IDLE_POLL_S
            if due and self._slots.free > 0 and await self._claim(tasks):
                continue
            if self._may_be_complete and await self._nothing_left():
                return
            with anyio.move_on_after(_IDLE_POLL_S):
                await self._work.wait()

    async def _claim(self, tasks: TaskGroup) -> list[Trial]:
        self._looked = now = anyio.current_time()
        limit = min(self._slots.free, _CLAIM_LIMIT)
        claimed = await self._experiment.claim(self.owner, limit=limit, lease=self._lease)
        # Fewer than there should be: others took them, or they are due later; the idle poll counts again.
        self._pending = max(0, self._pending - len(claimed)) if claimed else 0
        for trial in claimed:
            if trial.trial_id in self._running:  # released by somebody else in our name
                self._lose(self._running[trial.trial_id])
            running = _Running(trial, anyio.CancelScope(), leased_at=now)
            self._running[trial.trial_id] = running
            if self.events.is_heard:
                self.events.publish(TrialClaimed(trial))
            tasks.start_soon(self._one, running, self._slots.take(), name=f"trial {trial.trial_id}")
        self._demand.set()
        return claimed

    @property
    def _may_be_complete(self) -> bool:
        return not self._running and (self._exhausted or self._total >= self._trials)

    async def _nothing_left(self) -> bool:
        """Whether every trial has an outcome, also those that other processes hold."""
        counts = await self._experiment.counts()
        return not counts.pending and not counts.running

    async def _one(self, running: _Running, slot: Slot) -> None:
        """A trial's task: its own errors are its outcome, only broken set-ups and databases go further."""
        trial = running.trial
        outcome = Outcome(RunResult(Status.CANCELED, utc_now(), None), INTERRUPTED)
        sink = self._recorder.sink(trial)
        if self.events.is_heard:
            self.events.publish(TrialStarted(trial, slot.host.name, slot.runner_id))
        try:
            with running.scope:
                if self._stopping:
                    running.scope.cancel()
                outcome = await self._runner.run(trial, slot, sink)
        except Exception:
            self._stopping = True  # what broke this trial breaks all: claim no more while the group winds up
            raise
        finally:
            self._slots.give_back(slot)
            self._work.set()
            await self._finish(running, slot, sink, outcome)  # every write is shielded and limited in time

    async def _finish(self, running: _Running, slot: Slot, sink: TrialSink, outcome: Outcome) -> None:
        trial, (result, failure) = running.trial, outcome
        running.ending = True
        try:
            if not running.lost:
                await sink.flush()
                result, failure = await self._store(trial, outcome, slot.host.name)
        except StaleTrial as exc:
            logger.warning("%s", exc, extra={"trial_id": trial.trial_id, "action": "stale_refused"})
            return
        finally:
            if self._running.get(trial.trial_id) is running:
                del self._running[trial.trial_id]
            self._demand.set()
            self._work.set()
        if self._optimizer.learns and result.status is not Status.CANCELED:
            self._untold.append((trial, result))
        if self.events.is_heard:
            self.events.publish(TrialFinished(trial, result, failure, slot.host.name))

    async def _store(self, trial: Trial, outcome: Outcome, host: str) -> Outcome:
        """Store the outcome, or that it cannot be stored."""
        try:
            await self._experiment.finish(trial, outcome.result, failure=outcome.failure, host=host)
        except ResultsInvalid as exc:
            outcome = Outcome(RunResult(Status.FAILED, outcome.result.timestamp, None), str(exc))
            await self._experiment.finish(trial, outcome.result, failure=outcome.failure, host=host)
        return outcome

    # Leases

    async def _heartbeat(self) -> None:
        """Extend our leases every third of them."""
        while True:
            await anyio.sleep(self._lease.total_seconds() / 3)
            before, now = dict(self._running), anyio.current_time()
            if not before:
                continue
            try:
                held = await self._experiment.extend(self.owner, lease=self._lease)
            except StorageError as exc:
                logger.warning("a heartbeat failed: %s", exc, extra={"action": "heartbeat_failed"})
                continue
            for trial_id, one in before.items():
                if held.get(trial_id) == one.trial.token:
                    one.leased_at = now
                else:
                    self._lose(one)

    async def _watch_leases(self) -> None:
        """Cancel trials not extended for two thirds of their lease: soon they are somebody else's."""
        lease = self._lease.total_seconds()
        while True:
            await anyio.sleep(lease / 12)
            now = anyio.current_time()
            for one in tuple(self._running.values()):
                if now - one.leased_at >= lease * 2 / 3:
                    self._lose(one)

    def _lose(self, one: _Running) -> None:
        """Cancel a trial that is no longer ours, unless it has just ended."""
        trial_id = one.trial.trial_id
        if self._running.get(trial_id) is one and not (one.ending or one.lost):
            logger.warning(
                "trial %d lost its lease", trial_id, extra={"trial_id": trial_id, "action": "lost"}
            )
            one.lost = True
            one.scope.cancel()

    # Telling

    def _telemetry_recorded(self, trial: Trial, samples: Sequence[Sample]) -> None:
        if self.events.is_heard:
            self.events.publish(TelemetryRecorded(trial, samples))

    async def _summary(self) -> Summary:
        counts = await self._experiment.counts()
        return Summary(
            experiment_id=self._experiment.experiment_id,
            objectives=self._experiment.opt_targets,
            best=await self._experiment.best(),
            trials=counts.total,
            pending=counts.pending,
            running=counts.running,
            succeeded=counts.succeeded,
            failed=counts.failed + counts.timed_out,
            canceled=counts.canceled,
            interrupted=self._stopping,
        )


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first real error of a task group: what its caller would have seen without the group."""
    first = group.exceptions[0]
    return _first_of(first) if isinstance(first, BaseExceptionGroup) else first
