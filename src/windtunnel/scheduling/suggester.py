"""Keeps enough trials stored for the slots. Of all workers of an experiment one does so: the leader."""

from __future__ import annotations

import contextlib
import logging
import time
from datetime import timedelta

import anyio

from windtunnel.errors import NotLeading, StorageError
from windtunnel.events import EventBus, TrialAdded
from windtunnel.model import NewTrial, Trial
from windtunnel.scheduling import policy
from windtunnel.scheduling.held import HeldTrials
from windtunnel.scheduling.hosts import Request, SlotPool
from windtunnel.scheduling.leases import certainly_dead
from windtunnel.scheduling.ledger import Ledger
from windtunnel.scheduling.lessons import Lessons
from windtunnel.scheduling.runner import Outcome
from windtunnel.storage import INTERRUPTED, Beat, Experiment

__all__ = ["Suggester"]

logger = logging.getLogger(__name__)

_POLL_S = 0.5
"""How often a leader looks at what other workers do, and others look whether there is a leader."""

_WANTED = timedelta(seconds=5)
"""How long a leader believes in another worker's free slots."""

_RESIGN_S = 10.0
"""Longer is not waited for: the optimizer's lease ends by itself."""

_REPEATS_FIRST = 1
"""The priority of adaptive repeats: what is promising is made sure of before anything new is tried."""


class Suggester:
    """Takes the experiment's optimizer lease when it is free, and suggests while it has it.

    :param lessons: the optimizer and what it has to learn.
    :param repeats: trials a configuration.
    :param until_idle: end when nothing more is to be suggested, instead of waiting for what others add.
    :param request: which hosts a trial takes; None for any one.
    :ivar is_done: nothing more will be suggested by this worker.
    :ivar leads: whether this worker holds the optimizer lease.
    """

    def __init__(
        self,
        *,
        experiment: Experiment,
        lessons: Lessons,
        slots: SlotPool,
        held: HeldTrials,
        ledger: Ledger,
        bus: EventBus,
        repeats: int,
        lease: timedelta,
        request: Request | None,
        until_idle: bool,
    ) -> None:
        self.is_done = False
        self.leads = False
        self._may_lead = False
        self._experiment = experiment
        self._lessons = lessons
        self._slots = slots
        self._held = held
        self._ledger = ledger
        self._bus = bus
        self._repeats = repeats
        self._lease = lease
        self._request = request
        self._until_idle = until_idle
        self._said, self._say_again_at = -1, 0.0
        self._looked = self._led_since = 0.0
        self._wanted = 0
        self._suggested: int | None = None
        self._exhausted = False

    async def run(self) -> None:
        """Lead when nobody does, until nothing more is to be suggested.

        :raises StorageError: if the database fails.
        :raises ConfigError: if the optimizer's description is wrong.
        """
        owner = self._held.owner
        while not self._ledger.is_closed:
            if self.is_done and self._until_idle:
                break
            if not self.is_done and await self._take_the_lead(owner):
                await self._lead()
            else:
                await self._follow()
        self._ledger.work.set()

    def beat(self, beat: Beat) -> None:
        """A heartbeat says whether we lead."""
        if self.leads and not beat.leads and beat.at >= self._led_since:
            logger.warning("another worker runs the optimizer now", extra={"action": "lead_lost"})
            self.leads = False
            self._ledger.demand.set()

    def heard(self, trial: Trial, outcome: Outcome, host: str | None) -> None:
        """A trial has an outcome; an interrupted one is run again, so there is nothing to learn."""
        if outcome.failure != INTERRUPTED:
            self._lessons.note(trial, outcome.result, host)

    # Following

    async def _follow(self) -> None:
        """Let the leader know how much we could run, and look whether all has been suggested."""
        await self._lessons.learn()
        await self._want(self._slots.room(self._request))
        await self._look_around()
        if self._ledger.total >= self._ledger.target and not self.is_done:
            self.is_done = True
            self._ledger.work.set()
            return
        with anyio.move_on_after(_POLL_S):
            await self._ledger.halt.wait()

    async def _want(self, number: int) -> None:
        """Say so if it is news, or about to be forgotten."""
        now = time.monotonic()
        if number != self._said or now >= self._say_again_at:
            await self._experiment.want(self._held.owner, number, lasting=_WANTED)
            self._said, self._say_again_at = number, now + _WANTED.total_seconds() / 2

    # Leading

    async def _take_the_lead(self, owner: str) -> bool:
        self._may_lead = True  # also if the answer is lost
        self._may_lead = await self._experiment.lead(owner, lease=self._lease, is_dead=certainly_dead)
        return self._may_lead

    async def _lead(self) -> None:
        self.leads, self._exhausted, self._led_since = True, False, time.monotonic()
        try:
            await self._look_around()
            await self._lessons.begin(self._configurations_tried(), self._ledger.total)
            while self.leads and not self._is_over and not self._ledger.is_closed:
                if not await self._supply():
                    await self._wait()
            self.is_done = self.leads and not self._ledger.is_closed
            self._ledger.work.set()
        finally:
            if not self.leads:
                self._lessons.forget()
            self.leads = False
            await self.resign()

    async def resign(self) -> None:
        """Let others lead, if we do or may do. What fails is tried again with the next call."""
        if self._may_lead:
            with contextlib.suppress(StorageError), anyio.move_on_after(_RESIGN_S, shield=True):
                await self._experiment.resign(self._held.owner)
                self._may_lead = False

    @property
    def _is_over(self) -> bool:
        if self._ledger.total >= self._ledger.target or self._lessons.problem is not None:
            return True
        return self._exhausted and not self._lessons.may_repeat

    def _configurations_tried(self) -> int:
        """Where a new optimizer goes on."""
        if self._suggested is not None:
            return self._suggested
        return policy.configurations_tried(self._ledger.total, self._repeats)

    async def _supply(self) -> bool:
        """Store more trials if any are due; whether there were."""
        free = self._slots.room(self._request) + self._wanted
        again = await self._lessons.repeats_due(free - self._ledger.pending)
        if again:
            await self._add([NewTrial(tunables=one, priority=_REPEATS_FIRST) for one in again], suggested=0)
            return True
        due = 0 if self._exhausted else self._suggestions_due(free)
        if not due:
            return False
        suggestions = await self._lessons.ask(due)
        await self._add(
            [NewTrial(tunables=one) for one in suggestions for _ in range(self._repeats)],
            suggested=len(suggestions),
        )
        self._exhausted = not suggestions
        return True

    def _suggestions_due(self, free: int) -> int:
        if self._lessons.learns:
            free -= self._held.storing  # their slots are free, but what they came to is not learnt yet
        return policy.suggestions_due(
            total=self._ledger.total,
            budget=self._ledger.target,
            pending=self._ledger.pending,
            free=free,
            concurrency=self._slots.most(self._request) + self._wanted,
            repeats=self._repeats,
            learns=self._lessons.learns,
        )

    async def _add(self, new: list[NewTrial], *, suggested: int) -> None:
        ledger = self._ledger
        try:
            added = await self._experiment.add_trials(
                new, at_most=ledger.target, suggested=suggested, leader=self._held.owner
            )
        except NotLeading as exc:
            logger.warning("%s", exc, extra={"action": "lead_lost"})
            self.leads = False
            return
        if len(added) < len(new):  # the budget is used up, maybe by another process
            ledger.total = ledger.target
        else:
            ledger.total += len(added)
        ledger.pending += len(added)
        ledger.work.set()
        self._lessons.added(added)
        if self._bus.is_heard:
            for trial in added:
                self._bus.publish(TrialAdded(trial))

    async def _wait(self) -> None:
        """Until something has ended, or others may have done something."""
        await self._lessons.learn()
        with anyio.move_on_after(_POLL_S):
            await self._ledger.demand.wait()
        if time.monotonic() - self._looked >= _POLL_S:
            await self._look_around()
            await self._lessons.hear_of_others(self._held, self._ledger.total)

    async def _look_around(self) -> None:
        """What is stored, whoever stored it."""
        backlog = await self._experiment.backlog(self._held.owner)
        self._ledger.total, self._ledger.pending = backlog.total, backlog.pending
        self._suggested, self._wanted = backlog.suggested, backlog.wanted
        self._looked = time.monotonic()
        if backlog.pending:
            self._ledger.work.set()
