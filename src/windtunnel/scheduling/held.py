"""The trials this worker holds: lost trials are cancelled, forgotten ones given back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import anyio
import anyio.lowlevel

from windtunnel.concurrency import Signal
from windtunnel.errors import StaleTrial, StorageError
from windtunnel.model import Trial
from windtunnel.scheduling.hosts import Placement, Slot
from windtunnel.storage import Beat, Experiment

__all__ = ["Held", "HeldTrials"]

logger = logging.getLogger(__name__)

_CANCELLED_AT_ONCE = 50
"""More that wind up in one go would keep the event loop from everything else for too long."""

_FORGOTTEN = "given back: its worker did not run it any more"


@dataclass(slots=True, eq=False)
class Held:
    """A trial that runs here.

    :ivar leased_at: when its lease was last renewed, on the monotonic clock.
    :ivar added_at: when it became known here; a heartbeat begun before cannot tell that it was lost.
    :ivar lost: it is, or soon will be, somebody else's, or has ended without us.
    :ivar ending: its outcome is being stored.
    :ivar step: see ``RunningTrial``; likewise ``since``, as seconds of the epoch.
    """

    trial: Trial
    scope: anyio.CancelScope
    leased_at: float
    added_at: float
    lost: bool = False
    ending: bool = False
    step: str = "waiting"
    since: float = field(default_factory=time.time)
    slot: Slot | Placement | None = None


class HeldTrials:
    """The trials that run here, by id. ``beat`` must be called with every heartbeat.

    ``watch`` and ``tidy`` must be running.

    :param lease: how long a trial stays ours without a heartbeat.
    :param retried: called with each trial that went back to the queue without an outcome, and why.
    :ivar owner: our name in the database.
    :ivar claiming: trials may be ours already that are not here yet.
    """

    def __init__(
        self, experiment: Experiment, lease: timedelta, retried: Callable[[Trial, str], None]
    ) -> None:
        self.owner = ""
        self.claiming = False
        self._experiment = experiment
        self._lease = lease
        self._retried = retried
        self._held: dict[int, Held] = {}
        self._untidy = Signal()

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Held]:
        return iter(tuple(self._held.values()))

    @property
    def storing(self) -> int:
        """How many have ended and have no outcome stored yet."""
        return sum(held.step == "storing" for held in self)

    def __contains__(self, trial_id: object) -> bool:
        return trial_id in self._held

    def add(self, trial: Trial, leased_at: float) -> Held:
        """A trial that was just claimed."""
        before = self._held.get(trial.trial_id)
        if before is not None:  # released by somebody else in our name
            self._lose(before)
        # The scheduler cancels trials itself, some at a time, also when it is cancelled from outside.
        held = Held(trial, anyio.CancelScope(shield=True), leased_at, time.monotonic())
        self._held[trial.trial_id] = held
        return held

    def remove(self, held: Held) -> None:
        """The trial has ended."""
        if self._held.get(held.trial.trial_id) is held:
            del self._held[held.trial.trial_id]

    async def cancel_all(self) -> None:
        """Cancel what is held now, some at a time."""
        for number, held in enumerate(self, start=1):
            held.scope.cancel()
            if number % _CANCELLED_AT_ONCE == 0:
                await anyio.lowlevel.checkpoint()

    def beat(self, beat: Beat) -> None:
        """Our leases were renewed: what is not among them was lost, what is not here was forgotten."""
        for trial_id, held in self._held.items():
            if beat.held.get(trial_id) == held.trial.token:
                held.leased_at = beat.at
            elif held.added_at <= beat.at:
                self._lose(held)
        if not self.claiming and not beat.held.keys() <= self._held.keys():
            self._untidy.set()

    async def watch(self) -> None:
        """Cancel trials not extended for two thirds of their lease: soon they are somebody else's."""
        lease_s = self._lease.total_seconds()
        while True:
            await anyio.sleep(lease_s / 12)
            now = time.monotonic()
            for held in self:
                if now - held.leased_at >= lease_s * 2 / 3:
                    self._lose(held)

    async def tidy(self) -> None:
        """Queue trials again that are ours and do not run here: lost ones, and claims nobody heard of.

        Left alone, their leases would be extended with the others for ever.
        """
        while True:
            await self._untidy.wait()
            try:
                await self.give_back()
            except StorageError as exc:
                logger.warning("a trial could not be given back: %s", exc, extra={"action": "unsettled"})

    async def give_back(self) -> None:
        """Queue again what the database says is ours and does not run here.

        :raises StorageError: if the database fails.
        """
        for trial in await self._experiment.held_by(self.owner):
            if trial.trial_id not in self._held and not self.claiming:
                await self._release(trial)

    async def _release(self, trial: Trial) -> None:
        try:
            await self._experiment.release(trial, reason=_FORGOTTEN)
        except StaleTrial:
            return
        self._retried(trial, _FORGOTTEN)

    def _lose(self, held: Held) -> None:
        """Cancel a trial that is no longer ours, unless it has just ended."""
        trial_id = held.trial.trial_id
        if self._held.get(trial_id) is held and not (held.ending or held.lost):
            trial, place = held.trial, held.slot
            logger.warning(
                "trial %d is not ours any more: its lease was lost, or it was canceled",
                trial_id,
                extra={
                    "experiment_id": trial.experiment_id,
                    "trial_id": trial_id,
                    "attempt": trial.attempt,
                    "host": None if place is None else place.host.name,
                    "action": "lost",
                },
            )
            held.lost = True
            held.scope.cancel()
