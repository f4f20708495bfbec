"""Runs an experiment: many trials at once, each once, until there are as many as were asked for."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from windtunnel.concurrency import Signal, first_error
from windtunnel.errors import (
    ConfigError,
    NotFound,
    OptimizerError,
    ResultsInvalid,
    StaleTrial,
    StorageError,
    TrialAlreadyFinished,
)
from windtunnel.events import (
    EventBus,
    TelemetryRecorded,
    TrialAdded,
    TrialClaimed,
    TrialFinished,
    TrialRetried,
    TrialStarted,
)
from windtunnel.model import NewTrial, RunResult, Sample, Status, Summary, Timeouts, Trial, utc_now
from windtunnel.optimizers.base import Optimizer
from windtunnel.scheduling import policy
from windtunnel.scheduling.held import Held, HeldTrials
from windtunnel.scheduling.hosts import Host, MakeEnvironment, Slot, SlotPool
from windtunnel.scheduling.leases import certainly_dead, new_owner
from windtunnel.scheduling.proposer import Proposer
from windtunnel.scheduling.runner import Outcome, TrialRunner
from windtunnel.storage import INTERRUPTED, Experiment
from windtunnel.telemetry import Recorder, TrialSink

__all__ = ["Scheduler"]

logger = logging.getLogger(__name__)

_IDLE_POLL_S = 0.5
"""How often free slots look for trials nobody told of: expired leases, trials due later."""

_CLAIM_LIMIT = 250
"""Trials started in one go: more would keep the event loop from everything else for too long."""

_SHORTEST = timedelta(milliseconds=1)

_REFUSALS = (StaleTrial, TrialAlreadyFinished, NotFound)
"""A trial that is not ours any more: its outcome is not wanted, nobody else is concerned."""


class _Ended(NamedTuple):
    """A trial that has run, until its outcome is stored."""

    trial: Trial
    outcome: Outcome
    host: str
    sink: TrialSink


class Scheduler:
    """Drives one experiment, once. Everything it starts ends inside ``await scheduler.run()``.

    :param experiment: where trials are kept.
    :param optimizer: proposes configurations; called in a worker thread, one call at a time.
    :param make_environment: makes the environment of a slot.
    :param hosts: where trials run; their slots are the concurrency.
    :param trials: how many trials the experiment shall have, over all its sessions and repeats.
    :param repeats: trials a configuration.
    :param lease: how long a trial stays ours without a heartbeat.
    :param facts: of this machine and these programs, kept with the trials.
    :raises ConfigError: if a number makes no sense.
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
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.events = EventBus()
        self._experiment = experiment
        self._proposer = Proposer(optimizer, experiment.tunables)
        self._slots = SlotPool(hosts, make_environment)
        _check("trials", trials, 0)
        _check("repeats", repeats, 1)
        _check("slots", self._slots.size, 1)
        _check("lease", lease, _SHORTEST)
        self._facts = facts or {}
        _check("poll_period", poll_period, _SHORTEST)
        self._trials = trials
        self._repeats = repeats
        self._lease = lease
        self._runner = TrialRunner(
            timeouts=timeouts or Timeouts(), objectives=experiment.opt_targets, poll_period=poll_period
        )
        self._recorder = Recorder(experiment.record_many, recorded=self._telemetry_recorded)
        self._held = HeldTrials(experiment, lease, retried=self._retried)
        self._work = Signal()
        self._demand = Signal()
        self._halt = anyio.Event()
        self._total = 0
        self._pending = 0
        self._looked = 0.0
        self._exhausted = False
        self._stopping = False
        self._unstored: list[_Ended] = []
        self._in_doubt = False

    @property
    def owner(self) -> str:
        """This worker's name in the database; empty before it runs."""
        return self._held.owner

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
            try:
                await self._run_trials()
            finally:
                if self._unstored or self._in_doubt:
                    await self._settle()
        except BaseExceptionGroup as group:
            error = first_error(group)
            raise error from error.__cause__
        finally:
            self.events.close()
        if not self._stopping:
            await self._proposer.learn()
        problem = self._proposer.problem
        if problem is not None:
            said = f"the optimizer failed after {self._total} trials: {type(problem).__name__}: {problem}"
            raise OptimizerError(said) from problem
        return await self._summary()

    def stop(self) -> None:
        """Claim nothing more and cancel the running trials; the second call cuts their teardown short."""
        if self._stopping:
            self._runner.cut_grace()
        self._stopping = True
        self._halt.set()
        self._work.set()

    async def _run_trials(self) -> None:
        upkeep = anyio.CancelScope(shield=True)
        async with anyio.create_task_group() as helpers:
            helpers.start_soon(self._keep_up, upkeep, name="upkeep")
            helpers.start_soon(self._suggest, name="suggester")
            try:
                # All in child tasks: what asyncio itself cancels is the task that waits here, whatever it
                # has shielded, and a claim must not be cut off from what becomes of it.
                async with anyio.create_task_group() as trials:
                    trials.start_soon(self._cancel_when_halted, name="canceller")
                    trials.start_soon(self._dispatch, trials, name="dispatcher")
            finally:
                upkeep.cancel()
            helpers.cancel_scope.cancel()

    async def _keep_up(self, scope: anyio.CancelScope) -> None:
        """What running trials need until the last has been torn down, also after they were cancelled."""
        with scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._recorder.run, name="recorder")
                tasks.start_soon(self._held.heartbeat, name="heartbeat")
                tasks.start_soon(self._held.watch, name="lease watch")

    # Beginning

    async def _pick_up(self) -> None:
        """Learn what earlier sessions did and queue again what they left."""
        self._held.owner = await anyio.to_thread.run_sync(new_owner)
        await self._experiment.begin_session(self.owner, self._facts)
        requeued = await self._experiment.recover(certainly_dead)
        if requeued:
            logger.info("%d interrupted trials are queued again", requeued, extra={"action": "requeued"})
        counts = await self._experiment.counts()
        self._total, self._pending = counts.total, counts.pending
        if self._proposer.learns and counts.total:
            await self._proposer.tell(await self._experiment.load())

    # Suggesting

    async def _suggest(self) -> None:
        """Keep enough trials stored for the slots, and an optimizer that learns up to date."""
        while not self._halt.is_set() and (self._wants_more or self._proposer.learns):
            due = self._suggestions_due() if self._wants_more else 0
            if due:
                suggestions = await self._proposer.ask(due)
                await self._add([NewTrial(tunables=one) for one in suggestions for _ in range(self._repeats)])
                self._exhausted = not suggestions
                self._work.set()
            else:
                await self._proposer.learn()
                await self._demand.wait()

    @property
    def _wants_more(self) -> bool:
        return not self._exhausted and self._total < self._trials

    def _suggestions_due(self) -> int:
        return policy.suggestions_due(
            total=self._total,
            budget=self._trials,
            pending=self._pending,
            free=self._slots.free,
            concurrency=self._slots.size,
            repeats=self._repeats,
            learns=self._proposer.learns,
        )

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

    # Claiming and running

    async def _dispatch(self, tasks: TaskGroup) -> None:
        """Claim trials for free slots until nothing is left to run."""
        try:
            while not self._halt.is_set():
                due = self._pending > 0 or anyio.current_time() - self._looked >= _IDLE_POLL_S
                if due and self._slots.free > 0 and await self._claim(tasks):
                    continue
                if not self._held and not self._wants_more and await self._nothing_left():
                    return
                with anyio.move_on_after(_IDLE_POLL_S):
                    await self._work.wait()
        finally:
            self._halt.set()

    async def _claim(self, tasks: TaskGroup) -> list[Trial]:
        self._looked = now = anyio.current_time()
        limit = min(self._slots.free, _CLAIM_LIMIT)
        self._held.claiming = True
        try:
            claimed = await self._experiment.claim(self.owner, limit=limit, lease=self._lease)
        except StorageError:
            self._in_doubt = True  # it may have been committed all the same
            raise
        finally:
            self._held.claiming = False
        # Fewer than there should be: others took them, or they are due later; the idle poll counts again.
        self._pending = max(0, self._pending - len(claimed)) if claimed else 0
        for trial in claimed:
            held = self._held.add(trial, leased_at=now)
            if self.events.is_heard:
                self.events.publish(TrialClaimed(trial))
            tasks.start_soon(self._one, held, self._slots.take(), name=f"trial {trial.trial_id}")
        self._demand.set()
        return claimed

    async def _nothing_left(self) -> bool:
        """Whether every trial has an outcome, also those that other processes hold."""
        counts = await self._experiment.counts()
        return not counts.pending and not counts.running

    async def _cancel_when_halted(self) -> None:
        """Cancel the running trials when nothing more is claimed, whatever the reason."""
        try:
            await self._halt.wait()
        finally:
            self._halt.set()
            with anyio.CancelScope(shield=True):  # it waits for nobody
                await self._held.cancel_all()

    async def _one(self, held: Held, slot: Slot) -> None:
        """A trial's task: its own errors are its outcome, only broken set-ups and databases go further."""
        trial = held.trial
        outcome = Outcome(RunResult(Status.CANCELED, utc_now(), None), INTERRUPTED)
        sink = self._recorder.sink(trial)
        if self.events.is_heard:
            self.events.publish(TrialStarted(trial, slot.host.name, slot.runner_id))
        try:
            with held.scope:
                if not self._halt.is_set():  # what is not wanted any more does not begin
                    outcome = await self._runner.run(trial, slot, sink)
        except Exception:
            self._halt.set()  # what broke this trial breaks all: claim no more while the group winds up
            raise
        finally:
            self._slots.give_back(slot)
            self._work.set()
            await self._finish(held, _Ended(trial, outcome, slot.host.name, sink))

    # Ending

    async def _finish(self, held: Held, ended: _Ended) -> None:
        """Store what came of a trial. Every write is shielded and limited in time."""
        held.ending = True
        try:
            if held.lost:
                self._in_doubt = True
                return
            result, failure = await self._store(ended)
        except _REFUSALS as exc:
            logger.warning("%s", exc, extra={"trial_id": ended.trial.trial_id, "action": "stale_refused"})
            return
        except StorageError:
            self._unstored.append(ended)
            raise
        finally:
            self._held.remove(held)
            self._demand.set()
            self._work.set()
        if result.status is not Status.CANCELED:
            self._proposer.note(ended.trial, result)
        if self.events.is_heard:
            self.events.publish(TrialFinished(ended.trial, result, failure, ended.host))

    async def _store(self, ended: _Ended) -> Outcome:
        """Store the outcome, or that it cannot be stored."""
        trial, outcome, host, sink = ended
        await sink.flush()
        try:
            await self._experiment.finish(trial, outcome.result, failure=outcome.failure, host=host)
        except ResultsInvalid as exc:
            outcome = Outcome(RunResult(Status.FAILED, outcome.result.timestamp, None), str(exc))
            await self._experiment.finish(trial, outcome.result, failure=outcome.failure, host=host)
        return outcome

    async def _settle(self) -> None:
        """Store what the database did not take before, and give back what is ours and has no outcome.

        The last attempt: where it fails too, the trials are free when their leases end.
        """
        try:
            with anyio.CancelScope(shield=True):  # limited in time by the storage
                while self._unstored:
                    with contextlib.suppress(*_REFUSALS):
                        await self._store(self._unstored[-1])
                    self._unstored.pop()
                await self._held.give_back_forgotten()
        except StorageError as exc:
            logger.warning(
                "trials may stay RUNNING until their leases end: %s", exc, extra={"action": "unsettled"}
            )

    # Telling

    def _telemetry_recorded(self, trial: Trial, samples: Sequence[Sample]) -> None:
        if self.events.is_heard:
            self.events.publish(TelemetryRecorded(trial, samples))

    def _retried(self, trial: Trial, reason: str) -> None:
        self._pending += 1
        self._work.set()
        if self.events.is_heard:
            self.events.publish(TrialRetried(trial, reason))

    async def _summary(self) -> Summary:
        counts = await self._experiment.counts()
        left = self._wants_more or counts.pending or counts.running or counts.canceled
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
            interrupted=self._stopping and bool(left),
        )


def _check(name: str, found: Any, least: Any) -> None:
    if found < least:
        raise ConfigError(f"expected at least {least}, found {found}", path=(name,))
