"""Runs an experiment: many trials at once, each once, until there are as many as were asked for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus

from windtunnel.concurrency import first_error
from windtunnel.errors import ConfigError, OptimizerError, WindtunnelError
from windtunnel.events import EventBus, Subscription, TelemetryRecorded, TrialRetried
from windtunnel.model import FailureKind, OutlierHost, Sample, Status, Summary, Timeouts, Trial
from windtunnel.pruners import Pruner
from windtunnel.scheduling.dispatcher import Dispatcher, Spread
from windtunnel.scheduling.endings import Endings
from windtunnel.scheduling.held import HeldTrials
from windtunnel.scheduling.hosts import Host, MakeEnvironment, MakePlaced, Request, SlotPool
from windtunnel.scheduling.leases import certainly_dead, new_owner
from windtunnel.scheduling.ledger import Ledger
from windtunnel.scheduling.lessons import Lessons
from windtunnel.scheduling.notes import HostNews, HostNotes
from windtunnel.scheduling.policy import AdaptiveRepeats, FailureBudget, Retry, outlier_hosts
from windtunnel.scheduling.policy.quarantine import Quarantine
from windtunnel.scheduling.proposer import MakeOptimizer, Proposer
from windtunnel.scheduling.pruning import Pruning
from windtunnel.scheduling.runner import TrialRunner
from windtunnel.scheduling.snapshot import RunningTrial, Snapshot, State
from windtunnel.scheduling.suggester import Suggester
from windtunnel.storage import Beat, Experiment, Pulse
from windtunnel.telemetry import Recorder

__all__ = ["Scheduler"]

logger = logging.getLogger(__name__)

_SHORTEST = timedelta(milliseconds=1)
_NO_RETRIES: Mapping[FailureKind, Retry] = MappingProxyType({})
_LOST = {FailureKind.HOST: Retry(times=10)}
"""Losing a host never loses a trial, unless it loses host after host."""
_ANY_NUMBER = FailureBudget()
_NO_FACTS: Mapping[str, Any] = MappingProxyType({})


class Scheduler:
    """One worker of an experiment. Everything it starts ends inside ``await scheduler.run()``.

    Any number of workers may run the same experiment, in this process, on this machine and on others. One of
    them runs the optimizer; when it ends or dies, another goes on with that.

    :param experiment: where trials are kept.
    :param make_optimizer: makes what proposes configurations, given how many were taken before; it and the
        optimizer are called in a worker thread, one call at a time.
    :param make_environment: makes the environment of a slot.
    :param hosts: where trials run; their slots are the concurrency.
    :param hosts_per_trial: which of them one trial takes; default any one.
    :param make_placed: makes the environment of a trial over several hosts.
    :param host_news: finds out what the hosts of trials are; default nobody does.
    :param quarantine: how long a host that fails gets no trials; default 10 s, growing to 10 minutes.
    :param trials: how many trials the experiment shall have, over all its sessions and repeats.
    :param repeats: trials a configuration, on different hosts if there are several.
    :param adaptive: further runs of promising configurations; default none.
    :param retries: failure kind → how often and when a failed trial is run again; default never, but ten
        times when its host failed.
    :param failures: how many failures of this worker's trials end its session; default any number is borne.
    :param time_budget: nothing more is started after it, counted from the call of ``run``; default no limit.
    :param timeouts: of each part of a trial, and of the session.
    :param pruner: stops trials that are not worth their time; default none.
    :param lease: how long a trial stays ours without a heartbeat.
    :param poll_period: how often the status of an environment that reports one is asked for.
    :param until_idle: end when every trial has an outcome; otherwise wait for more, until ``stop``.
    :param facts: of this machine and these programs, kept with the trials.
    :param hide: takes secrets out of what is stored and logged of failures; default there are none.
    :raises ConfigError: if a number makes no sense.
    """

    def __init__(
        self,
        *,
        experiment: Experiment,
        make_optimizer: MakeOptimizer,
        make_environment: MakeEnvironment,
        hosts: Sequence[Host] = (Host(),),
        hosts_per_trial: Request | None = None,
        make_placed: MakePlaced | None = None,
        host_news: HostNews | None = None,
        quarantine: Quarantine | None = None,
        trials: int = 100,
        repeats: int = 1,
        adaptive: AdaptiveRepeats | None = None,
        retries: Mapping[FailureKind, Retry] = _NO_RETRIES,
        failures: FailureBudget = _ANY_NUMBER,
        time_budget: timedelta | None = None,
        timeouts: Timeouts | None = None,
        pruner: Pruner | None = None,
        lease: timedelta = timedelta(seconds=30),
        poll_period: timedelta = timedelta(seconds=1),
        until_idle: bool = True,
        facts: Mapping[str, Any] = _NO_FACTS,
        hide: Callable[[str], str] = str,
    ) -> None:
        self._slots = SlotPool(hosts, make_environment, make_placed=make_placed, quarantine=quarantine)
        _check("trials", trials, 0)
        _check("repeats", repeats, 1)
        _check("slots", self._slots.size, 1)
        _check("lease", lease, _SHORTEST)
        _check("poll_period", poll_period, _SHORTEST)
        self._experiment = experiment
        self._bus = EventBus()
        self._lease = lease
        self._time_budget = time_budget
        self._timeouts = timeouts or Timeouts()
        self._until_idle = until_idle
        self._facts = facts
        self._adaptive = adaptive
        self._state: State = "new"
        self._stopping = self._cut = False
        self._pulse: Pulse | None = None
        self._learning = anyio.CancelScope()
        self._ledger = Ledger(trials, failures)
        self._recorder = Recorder(experiment.record_many, recorded=self._telemetry_recorded)
        self._held = HeldTrials(experiment, lease, retried=self._given_back)
        self._pruning = None if pruner is None else Pruning(pruner)
        self._runner = TrialRunner(
            timeouts=self._timeouts,
            objectives=experiment.objectives,
            poll_period=poll_period,
            pruning=self._pruning,
            notes=None if host_news is None else HostNotes(experiment, host_news),
            hide=hide,
        )
        self._lessons = Lessons(
            experiment=experiment,
            proposer=Proposer(make_optimizer, experiment.tunables),
            least=repeats,
            adaptive=adaptive,
        )
        self._suggester = Suggester(
            experiment=experiment,
            lessons=self._lessons,
            slots=self._slots,
            held=self._held,
            ledger=self._ledger,
            bus=self._bus,
            repeats=repeats,
            lease=lease,
            request=hosts_per_trial,
            until_idle=until_idle,
        )
        self._endings = Endings(
            experiment=experiment,
            held=self._held,
            ledger=self._ledger,
            bus=self._bus,
            pruning=self._pruning,
            retries={**_LOST, **retries},
            finished=self._suggester.heard,
        )
        several = len({host.name for host in hosts}) > 1
        repeated = repeats > 1 or adaptive is not None
        self._dispatcher = Dispatcher(
            experiment=experiment,
            slots=self._slots,
            runner=self._runner,
            recorder=self._recorder,
            held=self._held,
            endings=self._endings,
            ledger=self._ledger,
            bus=self._bus,
            lease=lease,
            ends=lambda: self._until_idle and self._suggester.is_done,
            spread=Spread(experiment, repeated=repeated) if several else None,
            request=hosts_per_trial,
        )

    @property
    def owner(self) -> str:
        """This worker's name in the database; empty before it runs."""
        return self._held.owner

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> Summary:
        """Run trials until there are as many as asked for, or ``stop`` is called.

        Trials that an earlier session left are taken up first. Cancelling it cancels the running trials, lets
        their teardown finish within its grace, and records them, as ``stop`` does.

        :param task_status: is told when the experiment has been taken up; for ``task_group.start``.
        :raises ConfigError: if the environment's or the optimizer's description is wrong.
        :raises StorageError: if the database fails; what was finished before is safe.
        :raises OptimizerError: if the optimizer fails.
        :raises WindtunnelError: if it was called before.
        """
        if self._state != "new":
            raise WindtunnelError("a scheduler runs once; make another one to run the experiment again")
        self._state = "running"
        try:
            await self._pick_up()
            task_status.started()
            try:
                await self._run_trials()
            finally:
                await self._endings.settle()
                await self._suggester.resign()
        except BaseExceptionGroup as group:
            error = first_error(group)
            raise error from error.__cause__
        finally:
            self._state = "ended"
            self._bus.close()
        if not self._ledger.overtime:
            with self._learning:
                await self._lessons.learn()
        problem = self._lessons.problem
        if problem is not None:
            said = (
                f"the optimizer failed after {self._ledger.total} trials: {type(problem).__name__}: {problem}"
            )
            raise OptimizerError(said) from problem
        return await self._summary()

    def stop(self) -> None:
        """Claim nothing more and cancel the running trials; the second call cuts their teardown short."""
        if self._stopping:
            self._cut = True
            self._runner.cut_grace()
        self._stopping = True
        self._learning.cancel()
        self._ledger.cancel()

    def events(self, *, capacity: int = 10_000) -> Subscription:
        """What happens from now on: ``async for event in scheduler.events()``. It ends when ``run`` does.

        :param capacity: events held for a slow reader; what comes on top is dropped, and the reader is told
            how many in an ``EventsDropped``.
        """
        return self._bus.subscribe(capacity=capacity)

    def snapshot(self) -> Snapshot:
        """What this worker is doing now, without asking the database."""
        ledger, pulse = self._ledger, self._pulse
        stopping = self._state == "running" and ledger.halt.is_set()
        return Snapshot(
            experiment_id=self._experiment.experiment_id,
            owner=self.owner,
            state="stopping" if stopping else self._state,
            leads=self._suggester.leads,
            target=ledger.target,
            total=ledger.total,
            pending=ledger.pending,
            slots=self._slots.size,
            slots_free=self._slots.free,
            running=tuple(
                RunningTrial(
                    trial_id=held.trial.trial_id,
                    config_id=held.trial.config_id,
                    attempt=held.trial.attempt,
                    step=held.step,
                    since=datetime.fromtimestamp(held.since, UTC),
                    host=None if held.slot is None else held.slot.host.name,
                    runner_id=None if held.slot is None else held.slot.runner_id,
                )
                for held in self._held
            ),
            finished=ledger.finished,
            retried=ledger.retried,
            aborted=ledger.aborted,
            stale_refused=ledger.stale_refused,
            lost=ledger.lost,
            heartbeat_age_s=None if pulse is None else max(0.0, time.monotonic() - pulse.last),
            samples_buffered=self._recorder.buffered,
            samples_written=self._recorder.written,
            samples_refused=self._recorder.refused,
            events_dropped=self._bus.dropped,
            quarantined=self._slots.quarantined(),
        )

    # Running

    async def _pick_up(self) -> None:
        """Learn what earlier sessions did and queue again what they left."""
        self._held.owner = await anyio.to_thread.run_sync(new_owner)
        await self._experiment.begin_session(self.owner, self._facts)
        requeued = await self._experiment.recover(certainly_dead)
        if requeued:
            logger.info("%d interrupted trials are queued again", requeued, extra={"action": "requeued"})
        backlog = await self._experiment.backlog(self.owner)
        self._ledger.total, self._ledger.pending = backlog.total, backlog.pending
        if self._pruning is not None and backlog.total > backlog.pending:
            await self._pruning.replay(self._experiment, backlog.total)

    async def _run_trials(self) -> None:
        upkeep, ready = anyio.CancelScope(shield=True), anyio.Event()
        async with anyio.create_task_group() as helpers:
            helpers.start_soon(self._keep_up, upkeep, ready, name="upkeep")
            try:
                await ready.wait()  # not helpers.start: cancelled, that would wait for what only we can end
                helpers.start_soon(self._suggester.run, name="suggester")
                helpers.start_soon(self._watch_the_clock, name="clock")
                # All in child tasks: what asyncio itself cancels is the task that waits here, whatever it
                # has shielded, and a claim must not be cut off from what becomes of it.
                async with anyio.create_task_group() as trials:
                    trials.start_soon(self._dispatcher.cancel_when_halted, name="canceller")
                    trials.start_soon(self._dispatcher.run, trials, name="dispatcher")
            finally:
                upkeep.cancel()
            helpers.cancel_scope.cancel()

    async def _keep_up(self, scope: anyio.CancelScope, ready: anyio.Event) -> None:
        """What running trials need until the last has been torn down, also after they were cancelled."""
        with scope:
            async with (
                self._experiment.pulse(self.owner, lease=self._lease, on_beat=self._beat) as self._pulse,
                anyio.create_task_group() as tasks,
            ):
                tasks.start_soon(self._recorder.run, name="recorder")
                tasks.start_soon(self._runner.sample, name="sampler")
                tasks.start_soon(self._held.watch, name="lease watch")
                tasks.start_soon(self._held.tidy, name="lease tidier")
                if self._pruning is not None:
                    tasks.start_soon(self._pruning.run, name="pruner's clock")
                ready.set()

    async def _watch_the_clock(self) -> None:
        """End the session when its time is over."""
        async with anyio.create_task_group() as clocks:
            if self._time_budget is not None:
                clocks.start_soon(self._close_after, self._time_budget)
            if self._timeouts.experiment is not None:
                clocks.start_soon(self._cancel_after, self._timeouts.experiment)

    async def _close_after(self, budget: timedelta) -> None:
        await anyio.sleep(budget.total_seconds())
        self._ledger.close("time_budget", f"the time budget of {budget.total_seconds():g} s is used up")

    async def _cancel_after(self, limit: timedelta) -> None:
        await anyio.sleep(limit.total_seconds())
        self._ledger.overtime = True
        self._ledger.close(
            "time_limit", f"the experiment's time limit of {limit.total_seconds():g} s is over"
        )
        self._ledger.cancel()

    # Hearing and telling

    def _beat(self, beat: Beat) -> None:
        self._held.beat(beat)
        self._suggester.beat(beat)

    def _telemetry_recorded(self, trial: Trial, samples: Sequence[Sample]) -> None:
        if self._bus.is_heard:
            self._bus.publish(TelemetryRecorded(trial, samples))

    def _given_back(self, trial: Trial, reason: str) -> None:
        self._ledger.pending += 1
        self._ledger.work.set()
        if self._bus.is_heard:
            self._bus.publish(TrialRetried(trial, reason))

    async def _outliers(self) -> tuple[OutlierHost, ...]:
        runs = await self._experiment.runs()
        return await anyio.to_thread.run_sync(outlier_hosts, runs)

    async def _summary(self) -> Summary:
        counts = await self._experiment.counts()
        cut_off = self._ledger.finished.get(Status.CANCELED, 0) - self._ledger.aborted
        left = not self._suggester.is_done or counts.pending or counts.running or cut_off
        adaptive = self._adaptive
        how = adaptive.score if adaptive else "mean"
        several = len(self._experiment.objectives) > 1
        return Summary(
            experiment_id=self._experiment.experiment_id,
            objectives=self._experiment.opt_targets,
            best=await self._experiment.best(how),
            pareto=tuple(await self._experiment.pareto(how)) if several else (),
            trials=counts.total,
            pending=counts.pending,
            running=counts.running,
            succeeded=counts.succeeded,
            failed=counts.failed + counts.timed_out,
            canceled=counts.canceled,
            aborted=counts.aborted,
            interrupted=self._stopping and bool(left),
            teardowns_cut=self._cut,
            stopped_by=self._ledger.closed_by,
            stopped_because=self._ledger.closed_because,
            outlier_hosts=await self._outliers() if adaptive else (),
        )


def _check(name: str, found: Any, least: Any) -> None:
    if found < least:
        raise ConfigError(f"expected at least {least}, found {found}", path=(name,))
