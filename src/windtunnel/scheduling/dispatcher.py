"""Claims trials for free slots and runs each in a task of its own."""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import anyio
from anyio.abc import TaskGroup

from windtunnel.concurrency import uncancelled
from windtunnel.errors import StorageError
from windtunnel.events import EventBus, Step, StepStarted, TrialClaimed, TrialStarted
from windtunnel.logs import trial_fields
from windtunnel.model import FailureKind, RunResult, Status, Trial, utc_now
from windtunnel.scheduling.endings import Ended, Endings
from windtunnel.scheduling.held import Held, HeldTrials
from windtunnel.scheduling.hosts import Placement, Request, Slot, SlotPool
from windtunnel.scheduling.leases import certainly_dead
from windtunnel.scheduling.ledger import Ledger
from windtunnel.scheduling.runner import Outcome, TrialRunner
from windtunnel.storage import INTERRUPTED, Experiment
from windtunnel.telemetry import Recorder, TrialSink

__all__ = ["Dispatcher", "Spread"]

logger = logging.getLogger(__name__)

_IDLE_POLL_S = 0.5
"""How often free slots look for trials nobody told of: expired leases, trials due later."""

_CLAIM_LIMIT = 250
"""Trials started in one go: more would keep the event loop from everything else for too long."""

_SUICIDE = "CancelledError: the environment cancelled the task it runs in"
_REMEMBERED = 10_000
"""Configurations whose hosts are known without asking the database."""


class Dispatcher:
    """Keeps the slots busy until nothing is left to run.

    :param ends: asked when nothing runs or waits any more: whether that is the end.
    :param request: which hosts a trial takes; None for any one.
    :param spread: finds hosts that a configuration has not run on; None if there is one host only.
    """

    def __init__(
        self,
        *,
        experiment: Experiment,
        slots: SlotPool,
        runner: TrialRunner,
        recorder: Recorder,
        held: HeldTrials,
        endings: Endings,
        ledger: Ledger,
        bus: EventBus,
        lease: timedelta,
        ends: Callable[[], bool],
        spread: Spread | None,
        request: Request | None,
    ) -> None:
        self._experiment = experiment
        self._slots = slots
        self._runner = runner
        self._recorder = recorder
        self._held = held
        self._endings = endings
        self._ledger = ledger
        self._bus = bus
        self._lease = lease
        self._ends = ends
        self._spread = spread
        self._request = request
        self._unplaced = 0
        self._recover_every_s = lease.total_seconds() / 3
        self._looked = 0.0
        self._recovered = time.monotonic()

    async def run(self, tasks: TaskGroup) -> None:
        """Claim trials for free slots; each runs as a child of ``tasks``.

        :raises StorageError: if the database fails.
        """
        ledger = self._ledger
        try:
            while not ledger.halt.is_set():
                if await self._claim_if_due(tasks):
                    continue
                if not self._held and (ledger.is_closed or await self._nothing_left()):
                    return
                if self._slots.free > 0 and time.monotonic() - self._recovered >= self._recover_every_s:
                    await self._recover()
                with anyio.move_on_after(_IDLE_POLL_S):
                    await ledger.work.wait()
        finally:
            ledger.cancel()

    async def _claim_if_due(self, tasks: TaskGroup) -> bool:
        if self._ledger.is_closed or self._room <= 0:
            return False
        idle_s = time.monotonic() - self._looked
        return (self._ledger.pending > 0 or idle_s >= _IDLE_POLL_S) and await self._claim(tasks)

    @property
    def _room(self) -> int:
        """How many more trials can begin; those that have yet to ask for their slot are counted out."""
        return self._slots.room(self._request) - self._unplaced

    async def _claim(self, tasks: TaskGroup) -> bool:
        self._looked = now = time.monotonic()
        limit = min(self._room, _CLAIM_LIMIT)
        self._held.claiming = True
        try:
            claimed = await self._experiment.claim(self._held.owner, limit=limit, lease=self._lease)
            held = [self._held.add(trial, leased_at=now) for trial in claimed]
        except StorageError:
            self._endings.doubt()  # it may have been committed all the same
            raise
        finally:
            self._held.claiming = False
        # Fewer than there should be: others took them, or they are due later; the idle poll counts again.
        self._ledger.pending = max(0, self._ledger.pending - len(claimed)) if claimed else 0
        for one in held:
            if self._bus.is_heard:
                self._bus.publish(TrialClaimed(one.trial))
            # Most need no particular host, so they need not wait either.
            waits = self._spread is not None and self._spread.concerns(one.trial)
            slot = None if waits else self._slots.take((), self._request)
            self._unplaced += slot is None
            tasks.start_soon(self._one, one, slot, name=f"trial {one.trial.trial_id}")
        self._ledger.demand.set()
        return bool(claimed)

    async def _nothing_left(self) -> bool:
        """Whether every trial has an outcome, also those that other processes hold; and that is the end."""
        if not self._ends():
            return False
        counts = await self._experiment.counts()
        return not (counts.pending or counts.running or await self._recover())

    async def _recover(self) -> int:
        """Queue what workers have left that died or were stopped; how many trials these are."""
        self._recovered = time.monotonic()
        requeued = await self._experiment.recover(certainly_dead)
        self._ledger.pending += requeued
        return requeued

    async def cancel_when_halted(self) -> None:
        """Cancel the running trials when nothing is to go on, whatever the reason."""
        try:
            await self._ledger.halt.wait()
        finally:
            self._ledger.cancel()
            with anyio.CancelScope(shield=True):  # it waits for nobody
                await self._held.cancel_all()

    # One trial

    async def _one(self, held: Held, slot: Slot | Placement | None) -> None:
        """A trial's task: its own errors are its outcome, only broken set-ups and databases go further."""
        trial = held.trial
        held.slot = slot
        outcome: Outcome | None = None
        sink = self._recorder.sink(trial)
        with _fields(trial, slot):
            try:
                with held.scope:
                    if held.slot is None:
                        held.slot = await self._slot_for(trial)
                    if not self._ledger.is_closed:  # what is not wanted any more does not begin
                        outcome = await self._run(held, held.slot, sink)
            except anyio.get_cancelled_exc_class():
                if held.scope.cancel_called or self._ledger.halt.is_set() or not uncancelled():
                    raise
                outcome = Outcome(RunResult(Status.FAILED, utc_now(), None), _SUICIDE, FailureKind.RUN)
            except Exception:
                self._ledger.cancel()  # what broke this trial breaks all: claim no more while the group ends
                raise
            finally:
                if held.slot is not None:
                    self._judge_hosts(held.slot, outcome)
                    self._slots.give_back(held.slot)
                self._ledger.work.set()
                began, held.step = held.step != "waiting", "storing"
                host = held.slot.host.name if held.slot is not None else None
                await self._endings.conclude(held, Ended(trial, outcome or _interrupted(), host, sink, began))

    def _judge_hosts(self, slot: Slot | Placement, outcome: Outcome | None) -> None:
        """What the trial says of its hosts: one that failed gets no trials for a while."""
        if outcome is None or outcome.kind is FailureKind.TIMEOUT:
            return
        hosts = slot.all_hosts
        for host in hosts:
            if host.address is None:  # this machine: there would be nobody to run anything
                continue
            if outcome.host is not None:
                if host.name == outcome.host:
                    self._judge(host.name, outcome, ok=False, lost=True)
            elif outcome.kind is not FailureKind.SETUP or len(hosts) == 1:
                self._judge(host.name, outcome, ok=outcome.kind is not FailureKind.SETUP)

    def _judge(self, host: str, outcome: Outcome, *, ok: bool, lost: bool = False) -> None:
        pause = self._slots.report(host, ok, lost=lost)
        if pause is not None:  # where it is the only host nothing else would tell why nothing goes on
            logger.warning(
                "host %r gets no trials for %g s: %s",
                host,
                pause.total_seconds(),
                outcome.failure,
                extra={"host": host, "action": "host_quarantined"},
            )

    async def _slot_for(self, trial: Trial) -> Slot | Placement:
        """A slot on a host that is new to the trial's configuration, as soon as there is one."""
        try:
            used = await self._spread.used(trial) if self._spread is not None else Counter[str]()
        finally:
            self._unplaced -= 1
        slot = await self._slots.acquire(used, self._request)
        used.update(host.name for host in slot.all_hosts)
        return slot

    async def _run(self, held: Held, slot: Slot | Placement, sink: TrialSink) -> Outcome:
        trial, on_step = held.trial, partial(self._step, held, slot)
        if self._bus.is_heard:
            self._bus.publish(TrialStarted(trial, slot.host.name, slot.runner_id))
        if self._spread is None:  # the host was known before
            return await self._runner.run(trial, slot, sink, on_step, held.scope)
        with _fields(trial, slot):
            return await self._runner.run(trial, slot, sink, on_step, held.scope)

    def _step(self, held: Held, slot: Slot | Placement, step: Step) -> None:
        held.step, held.since = step, time.time()
        if step != "setup" and self._bus.is_heard:  # that one is told by TrialStarted
            self._bus.publish(StepStarted(held.trial, step, slot.host.name, slot.runner_id))


def _interrupted() -> Outcome:
    return Outcome(RunResult(Status.CANCELED, utc_now(), None), INTERRUPTED)


def _fields(trial: Trial, slot: Slot | Placement | None) -> trial_fields:
    return trial_fields(
        experiment_id=trial.experiment_id,
        trial_id=trial.trial_id,
        attempt=trial.attempt,
        host=None if slot is None else slot.host.name,
    )


class Spread:
    """On which hosts configurations have run: what is stored, and what this worker runs.

    :param repeated: whether configurations are run more than once; else only retries look for another host.
    """

    def __init__(self, experiment: Experiment, *, repeated: bool) -> None:
        self._experiment = experiment
        self._repeated = repeated
        self._used: OrderedDict[int, Counter[str]] = OrderedDict()

    def concerns(self, trial: Trial) -> bool:
        """Whether it matters where the trial runs."""
        return self._repeated or trial.attempt > 1

    async def used(self, trial: Trial) -> Counter[str]:
        """How often each host has run the trial's configuration; to be added to.

        :raises StorageError: if the database fails.
        """
        known = self._used.get(trial.config_id)
        if known is None:
            stored = await self._experiment.hosts_of([trial.config_id])
            known = self._used.setdefault(trial.config_id, Counter(stored.get(trial.config_id, ())))
        self._used.move_to_end(trial.config_id)
        while len(self._used) > _REMEMBERED:
            self._used.popitem(last=False)
        return known
