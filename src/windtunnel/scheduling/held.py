"""The trials this worker holds: leases are kept up, lost trials cancelled, forgotten ones given back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

import anyio
import anyio.lowlevel

from windtunnel.errors import StaleTrial, StorageError
from windtunnel.model import Trial, utc_now
from windtunnel.storage import Experiment

__all__ = ["Held", "HeldTrials"]

logger = logging.getLogger(__name__)

_CANCELLED_AT_ONCE = 50
"""More that wind up in one go would keep the event loop from everything else for too long."""

_FORGOTTEN = "given back: its worker did not run it any more"


@dataclass(slots=True, eq=False)
class Held:
    """A trial that runs here.

    :ivar leased_at: when its lease was last renewed, on the event loop's clock.
    :ivar lost: it is, or soon will be, somebody else's.
    :ivar ending: its outcome is being stored.
    """

    trial: Trial
    scope: anyio.CancelScope
    leased_at: float
    lost: bool = False
    ending: bool = False


class HeldTrials:
    """The trials that run here, by id. ``heartbeat`` and ``watch`` must be running.

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

    def __len__(self) -> int:
        return len(self._held)

    def add(self, trial: Trial, leased_at: float) -> Held:
        """A trial that was just claimed."""
        before = self._held.get(trial.trial_id)
        if before is not None:  # released by somebody else in our name
            self._lose(before)
        # The scheduler cancels trials itself, some at a time, also when it is cancelled from outside.
        held = Held(trial, anyio.CancelScope(shield=True), leased_at)
        self._held[trial.trial_id] = held
        return held

    def remove(self, held: Held) -> None:
        """The trial has ended."""
        if self._held.get(held.trial.trial_id) is held:
            del self._held[held.trial.trial_id]

    async def cancel_all(self) -> None:
        """Cancel what is held now, some at a time."""
        for number, held in enumerate(tuple(self._held.values()), start=1):
            held.scope.cancel()
            if number % _CANCELLED_AT_ONCE == 0:
                await anyio.lowlevel.checkpoint()

    async def heartbeat(self) -> None:
        """Extend our leases every third of them."""
        while True:
            await anyio.sleep(self._lease.total_seconds() / 3)
            try:
                await self._extend()
            except StorageError as exc:
                logger.warning("a heartbeat failed: %s", exc, extra={"action": "heartbeat_failed"})

    async def _extend(self) -> None:
        before, now = dict(self._held), anyio.current_time()
        ours = await self._experiment.extend(self.owner, lease=self._lease)
        for trial_id, held in before.items():
            if ours.get(trial_id) == held.trial.token:
                held.leased_at = now
            else:
                self._lose(held)
        forgotten = {i: token for i, token in ours.items() if i not in self._held and i not in before}
        if forgotten and not self.claiming:
            await self._give_back(forgotten)

    async def watch(self) -> None:
        """Cancel trials not extended for two thirds of their lease: soon they are somebody else's."""
        lease = self._lease.total_seconds()
        while True:
            await anyio.sleep(lease / 12)
            now = anyio.current_time()
            for held in tuple(self._held.values()):
                if now - held.leased_at >= lease * 2 / 3:
                    self._lose(held)

    async def give_back_forgotten(self) -> None:
        """Queue again what the database says is ours, when nothing runs here any more.

        :raises StorageError: if the database fails.
        """
        await self._give_back(await self._experiment.extend(self.owner, lease=self._lease))

    async def _give_back(self, forgotten: Mapping[int, int]) -> None:
        """Queue trials again that are ours and do not run here: lost ones, and claims nobody heard of.

        Left alone, their leases would be extended with the others for ever.

        :param forgotten: trial_id → token.
        """
        async for trial in self._experiment.pending_trials(utc_now(), running=True):
            if trial.token == forgotten.get(trial.trial_id) and trial.owner == self.owner:
                try:
                    await self._experiment.release(trial, reason=_FORGOTTEN)
                except StaleTrial:
                    continue
                self._retried(trial, _FORGOTTEN)

    def _lose(self, held: Held) -> None:
        """Cancel a trial that is no longer ours, unless it has just ended."""
        trial_id = held.trial.trial_id
        if self._held.get(trial_id) is held and not (held.ending or held.lost):
            logger.warning(
                "trial %d lost its lease", trial_id, extra={"trial_id": trial_id, "action": "lost"}
            )
            held.lost = True
            held.scope.cancel()
