"""What several workers of one experiment have to know of each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from datetime import timedelta

import anyio.to_thread

from windtunnel.model import FailureKind, TrialRecord
from windtunnel.storage import demand, leading, maintenance, reads, runs
from windtunnel.storage.database import Database
from windtunnel.storage.demand import Backlog
from windtunnel.storage.requests import INTERRUPTED
from windtunnel.storage.runs import ScoredRun
from windtunnel.tunables import TunableGroups

__all__ = ["Sharing"]


class Sharing:
    """What ``Experiment`` offers to workers that share it: who asks the optimizer, and what others did."""

    tunables: TunableGroups
    _database: Database
    _key: int

    # The optimizer's lease

    async def lead(self, owner: str, *, lease: timedelta, is_dead: Callable[[str], bool]) -> bool:
        """Take the optimizer's lease, or renew it; whether ``owner`` holds it now.

        It can be had if nobody holds it, if it has expired, or if its holder is certainly dead. Of many who
        try at once, one gets it. Asking in vain writes nothing.

        :param is_dead: whether the worker with this name certainly runs no more. Called in a worker thread.
        """
        holder = await self._database.read(leading.holder, self._key)
        dead: list[str] = []
        if holder not in (None, owner):
            if not await anyio.to_thread.run_sync(is_dead, holder):
                return False
            dead.append(str(holder))
        lease_us = lease // timedelta(microseconds=1)
        return await self._database.write(leading.take, self._key, owner, lease_us, dead)

    async def resign(self, owner: str) -> None:
        """Give up the optimizer's lease, if ``owner`` holds it: another may take it at once."""
        await self._database.write(leading.resign, self._key, owner)

    # Supply and demand

    async def want(self, owner: str, number: int, *, lasting: timedelta) -> None:
        """Let the leader know how many more trials ``owner`` could run now.

        :param lasting: how long to believe it; it has to be said again before.
        """
        lasting_us = lasting // timedelta(microseconds=1)
        await self._database.write(demand.want, self._key, owner, number, lasting_us)

    async def backlog(self, owner: str) -> Backlog:
        """What there is to run, and how much more workers other than ``owner`` want."""
        return await self._database.read(demand.backlog, self._key, owner)

    # The description

    async def describe(self, text: str) -> None:
        """Store how the experiment is run, as JSON text, for workers on other machines; replaces the last."""
        await self._database.write(maintenance.describe, self._key, text)

    async def stored_description(self) -> str | None:
        """What ``describe`` stored; None if nothing was."""
        return await self._database.read(reads.description, self._key)

    # What others did

    async def outcomes(self, trial_ids: Collection[int]) -> list[TrialRecord]:
        """Those of the trials that are completed, in order of ids; not those that will be queued again."""
        return await self._database.read(runs.outcomes, self._key, trial_ids, INTERRUPTED)

    async def runs(self) -> list[ScoredRun]:
        """Every succeeded trial that has a score, a finite first objective, in order of trial ids."""
        found: list[ScoredRun] = []
        while page := await self._database.read(
            runs.scored_runs, self._key, found[-1].trial_id if found else 0
        ):
            found += page
        return found

    async def hosts_of(self, config_ids: Collection[int]) -> dict[int, frozenset[str]]:
        """The hosts on which trials of each configuration have run in this experiment, failed ones included.

        Where a trial runs at this moment, only its worker knows: the host is stored when the attempt ends.

        :returns: an entry for each of ``config_ids``.
        """
        return await self._database.read(runs.hosts_of, self._key, config_ids)

    async def failed_attempts(self, trial_id: int) -> Counter[FailureKind]:
        """Of which kinds the earlier attempts of a trial were that failed and were tried again.

        Attempts that were interrupted, or whose worker was lost, do not count.
        """
        return await self._database.read(runs.failed_attempts, self._key, trial_id)
