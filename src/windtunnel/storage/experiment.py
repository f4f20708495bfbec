"""One experiment's data: the trials to run, their leases, telemetry and outcomes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Any

import anyio.lowlevel
import anyio.to_thread

from windtunnel.aggregates import Aggregate
from windtunnel.concurrency import converted
from windtunnel.errors import NotFound, TunableError
from windtunnel.model import Direction, NewTrial, Sample, Status, Trial, TrialRecord, utc_now
from windtunnel.objectives import Objective, directions, weights
from windtunnel.storage import (
    adding,
    claiming,
    editing,
    ending,
    maintenance,
    ranking,
    reads,
    requests,
    stories,
    values,
    watching,
)
from windtunnel.storage.analysis import Analysis
from windtunnel.storage.database import Database
from windtunnel.storage.holding import Holding
from windtunnel.storage.pulse import Beat, Pulse
from windtunnel.storage.requests import INTERRUPTED
from windtunnel.storage.sharing import Sharing
from windtunnel.storage.tradeoffs import Tradeoffs
from windtunnel.storage.writer import GroupWriter
from windtunnel.tunables import TunableGroups

__all__ = ["Experiment"]

_REMEMBERED = 2048
_EARLIEST_US = -(2**63)
_NEW_AT_ONCE = 500
_CLAIMED_AT_ONCE = 500


class Experiment(Analysis, Holding, Sharing, Tradeoffs):
    """A handle on one stored experiment, for any number of tasks. Made by ``Storage.experiment``.

    Every write returns when it is durable. A cancelled write still completes.
    """

    def __init__(
        self,
        *,
        database: Database,
        writer: GroupWriter,
        key: int,
        experiment_id: str,
        tunables: TunableGroups,
        objectives: Mapping[str, Objective],
        metrics: dict[str, int],
    ) -> None:
        self.experiment_id = experiment_id
        self.tunables = tunables
        self.objectives = dict(objectives)
        self.opt_targets = directions(objectives)
        self._database = database
        self._writer = writer
        self._key = key
        self._metrics = metrics
        self._configs: OrderedDict[int, TunableGroups] = OrderedDict()

    # Reading

    async def load_telemetry(self, trial_id: int, *, attempt: int | None = None) -> list[Sample]:
        """The telemetry of a trial in order of time: (timestamp, metric, value).

        :param attempt: default the newest.
        :raises NotFound: if there is no such trial.
        """
        newest = await self._database.read(reads.newest_attempt, self._key, trial_id)
        if newest is None:
            raise NotFound("trial", trial_id)
        wanted = newest if attempt is None else attempt
        samples: list[Sample] = []
        after = (_EARLIEST_US, 0)
        while page := await self._database.read(reads.telemetry_of, self._key, trial_id, wanted, after):
            samples += [
                Sample(values.from_us(p.ts_us), p.metric, values.unpack(p.number, p.text)) for p in page
            ]
            after = (page[-1].ts_us, page[-1].metric_id)
        return samples

    async def load_tunable_config(self, config_id: int) -> dict[str, Any]:
        """The tunable values of a configuration.

        :raises NotFound: if there is no such configuration.
        """
        params = await self._database.read(reads.params_of_config, config_id)
        if params is None:
            raise NotFound("configuration", config_id)
        return values.load(params)

    async def pending_trials(self, timestamp: datetime, *, running: bool) -> AsyncIterator[Trial]:
        """The trials that are to start at or before ``timestamp``, in the order of claiming.

        Reads page by page and holds no transaction in between, so trials that change meanwhile may be missed
        or seen in an earlier state.

        :param timestamp: aware.
        :param running: also those that run now, after the waiting ones.
        :raises ValueError: if ``timestamp`` has no zone.
        """
        due = values.to_us(timestamp)
        for status in (Status.PENDING, Status.RUNNING) if running else (Status.PENDING,):
            page = reads.Page(status)
            while rows := await self._database.read(reads.pending, self._key, due, page):
                for row in rows:
                    yield self._trial(row)
                page = reads.Page(status, rows[-1].priority, rows[-1].trial_id)

    async def held_by(self, owner: str) -> list[Trial]:
        """The running trials that a worker holds."""
        rows = await self._database.read(reads.held_by, self._key, owner)
        return [self._trial(row) for row in rows]

    async def trials(self, *, config_id: int | None = None) -> AsyncIterator[TrialRecord]:
        """Every trial with its outcome, in order of ids, read page by page.

        :param config_id: only the trials of this configuration; default of all.
        """
        after = 0
        while page := await self._database.read(reads.records, self._key, after, config_id):
            for record in page:
                yield record
            after = page[-1].trial_id

    async def last_failure(self) -> TrialRecord | None:
        """The trial that failed or timed out last; None if none did."""
        return await self._database.read(reads.last_failure, self._key)

    async def counts(self) -> reads.Counts:
        """How many trials are in which state."""
        return (await self._database.read(reads.counts, self._key)).get(self._key, reads.Counts())

    async def observe(self) -> watching.Observation:
        """What runs, where, and what came of the newest trials: bounded, however many there are."""
        return await self._database.read(watching.observe, self._key)

    async def best_so_far(self) -> list[tuple[int, float]]:
        """The best value of the first objective up to a trial, over at most 48 trials: (number, value)."""
        direction: Direction = next(iter(self.opt_targets.values()), "min")
        return await self._database.read(watching.best_so_far, self._key, direction)

    async def record_of(self, trial_id: int) -> TrialRecord:
        """One trial with its outcome.

        :raises NotFound: if there is no such trial.
        """
        found = await self._database.read(reads.record, self._key, trial_id)
        if found is None:
            raise NotFound("trial", trial_id)
        return found

    async def best(self, aggregate: Aggregate = "mean") -> TrialRecord | None:
        """The best trial of the best configuration, if any trial has succeeded.

        With weights that is the least weighted sum of all objectives, each scaled from the best configuration
        (0) to the worst (1); without, the best first objective.

        :param aggregate: what stands for several runs of a configuration. ``worst_host`` is their mean on the
            host where that is worst. Weights, or any but the mean, read all trials.
        """
        direction: Direction = next(iter(self.opt_targets.values()), "min")
        if weights(self.objectives) is not None:
            best = await self.best_by_weights(aggregate)
        elif aggregate == "mean":
            return (await self._database.read(reads.best, direction, self._key)).get(self._key)
        else:
            ranking.check(aggregate)
            best = await anyio.to_thread.run_sync(ranking.best, await self.runs(), direction, aggregate)
        return None if best is None else await self._database.read(reads.record, self._key, best)

    # Writing

    async def add_trials(
        self,
        new: Sequence[NewTrial],
        *,
        at_most: int | None = None,
        suggested: int = 0,
        leader: str | None = None,
    ) -> list[Trial]:
        """Store trials to be run, in one transaction. Equal configurations share a config_id.

        :param at_most: the experiment shall never hold more trials than this, whoever adds them; what would
            be too many, from the end, is not stored and not returned.
        :param suggested: how many configurations they took from the optimizer: where the next one goes on.
        :param leader: store them only if this worker holds the optimizer's lease.
        :raises NotLeading: if it does not.
        """
        if not new:
            return []
        rows = await converted(_new_row, new, at_once=_NEW_AT_ONCE)
        wanted = requests.Addition(self._key, rows, at_most, suggested, leader)
        added = await self._writer.submit(adding.add_trials, wanted)

        def trial_of(stored: tuple[NewTrial, tuple[int, int]]) -> Trial:
            one, (trial_id, config_id) = stored
            return Trial(
                experiment_id=self.experiment_id,
                trial_id=trial_id,
                config_id=config_id,
                tunables=one.tunables,
                parameters=one.parameters,
            )

        with anyio.CancelScope(shield=True):  # they are stored: whoever is cancelled now shall know
            trials = await converted(trial_of, list(zip(new, added, strict=False)), at_once=_NEW_AT_ONCE)
        for trial in trials[-_REMEMBERED:]:
            self._remember(trial.config_id, trial.tunables)
        return trials

    async def claim(self, owner: str, *, limit: int, lease: timedelta) -> list[Trial]:
        """Take up to ``limit`` pending trials, the highest priority and then the oldest first.

        They are RUNNING and ``owner``'s until the lease ends; extend it, or others may claim them. Trials of
        others whose lease has expired are taken in the same way, as a new attempt. One whose configuration
        this handle's tunables do not allow, added by a program that has others, fails and is not returned.
        """
        if limit < 1:
            return []
        wanted = requests.Claim(self._key, owner, limit, lease // timedelta(microseconds=1))
        claimed: list[Trial] = []
        for row in await self._writer.submit(claiming.claim, wanted):
            try:
                claimed.append(self._trial(row, status=Status.RUNNING, owner=owner))
            except TunableError as exc:
                await self._writer.submit(ending.finish, self._unusable(row, exc))
            if len(claimed) % _CLAIMED_AT_ONCE == 0:
                # Let others run; not cancelled here, or the trials would be ours and nobody would know.
                await anyio.lowlevel.cancel_shielded_checkpoint()
        return claimed

    async def extend(self, owner: str, *, lease: timedelta) -> dict[int, int]:
        """Renew the lease of every trial ``owner`` holds, once; see ``pulse``.

        :returns: trial_id → token of those trials; one that is missing was lost to another worker.
        """
        wanted = requests.Extension(self._key, owner, lease // timedelta(microseconds=1))
        (held,) = await self._database.write(claiming.extend, [wanted])
        return held

    def pulse(
        self, owner: str, *, lease: timedelta, on_beat: Callable[[Beat], None]
    ) -> AbstractAsyncContextManager[Pulse]:
        """Keep up the leases of ``owner``, on trials and on the optimizer, for as long as the block runs.

        The first heartbeat is due after a third of the lease, then one every third. They come from a thread
        of their own, whatever holds up the event loop; only if the loop has not answered for 20 leases, and
        at least 5 minutes, its trials are let go.

        :param on_beat: called in the event loop after each renewal; with the newest one, if it was blocked.
        """
        return self._database.heart.pulse(self._key, owner, lease=lease, on_beat=on_beat)

    # Editing by hand, also while it runs

    async def enqueue(
        self,
        values: Mapping[str, object] | None = None,
        *,
        config_id: int | None = None,
        best_with: Mapping[str, object] | None = None,
        priority: int = 0,
        not_before: datetime | None = None,
    ) -> Trial:
        """Add one trial, of exactly one of three. It is run even if the experiment has all its trials.

        :param values: tunable → value; the others have their defaults.
        :param config_id: a stored configuration, to be run again.
        :param best_with: changes to the configuration of ``best``; may be empty.
        :raises TunableError: if a tunable is unknown, a value is outside its domain or has no effect because
            its tunable is not active, or a constraint is violated.
        :raises NotFound: if there is no such configuration, or no succeeded trial yet.
        :raises ConfigError: if not exactly one of the three is given, or the priority has over 32 bits.
        :raises ValueError: if ``not_before`` has no zone.
        """
        editing.check_start(priority)
        tunables = await editing.chosen(self, values, config_id, best_with)
        (trial,) = await self.add_trials(
            [NewTrial(tunables=tunables, priority=priority, not_before=not_before)]
        )
        return trial

    async def cancel(self, trial_id: int, *, reason: str = "on request") -> None:
        """Make a waiting or running trial CANCELED; it is not queued again on resume.

        A running one is stopped by its worker at its next heartbeat, whatever it still writes is refused.

        :raises NotFound: if there is no such trial.
        :raises TrialAlreadyFinished: if it has an outcome.
        """
        await self._database.write(editing.cancel, self._key, trial_id, reason, INTERRUPTED)

    # Remembering

    async def begin_session(self, owner: str, facts: Mapping[str, Any]) -> None:
        """Note where and with what the worker ``owner`` runs its trials."""
        await self._database.write(stories.begin_session, self._key, owner, values.dump(facts))

    async def note_host(
        self, owner: str, host: str, facts: Mapping[str, Any], *, since: datetime | None = None
    ) -> None:
        """Note what a host of the worker ``owner`` is; its attempts there tell it that end after ``since``.

        :param since: aware; default now.
        """
        since_us = values.to_us(utc_now() if since is None else since)
        note = stories.HostNote(self._key, owner, host, since_us, values.dump(facts))
        await self._writer.submit(stories.note_hosts, note)

    async def story(self, trial_id: int) -> stories.Story:
        """All that is kept about a trial.

        :raises NotFound: if there is no such trial.
        """
        found = await self._database.read(stories.story, self._key, trial_id)
        if found is None:
            raise NotFound("trial", trial_id)
        return found

    # Resuming

    async def recover(self, is_dead: Callable[[str], bool]) -> int:
        """Queue again what earlier sessions left: trials of workers known to be dead, and interrupted ones.

        :param is_dead: whether the worker with this name certainly runs no more; others keep their leases.
            Called in a worker thread.
        :returns: how many trials were queued again.
        """
        owners = await self._database.read(reads.owners, self._key)
        dead = await anyio.to_thread.run_sync(lambda: [owner for owner in owners if is_dead(owner)])
        return await self._database.write(maintenance.requeue, self._key, dead, INTERRUPTED)

    def _unusable(self, row: requests.Claimed, exc: TunableError) -> requests.Completion:
        now, failed = values.to_us(utc_now()), Status.FAILED.value
        why = f"its configuration is not one of this experiment's: {exc}"
        return requests.Completion(
            self._key, row.trial_id, row.token, failed, now, metrics=None, score=None, failure=why, host=None
        )

    def _trial(
        self,
        row: requests.Claimed | reads.PendingRow,
        *,
        status: Status | None = None,
        owner: str | None = None,
    ) -> Trial:
        if isinstance(row, reads.PendingRow):
            status, owner = Status(row.status), row.owner
        return Trial(
            experiment_id=self.experiment_id,
            trial_id=row.trial_id,
            config_id=row.config_id,
            tunables=self._tunables_of(row.config_id, row.params),
            parameters=values.load(row.parameters),
            status=status or Status.RUNNING,
            attempt=row.attempt,
            token=row.token,
            owner=owner,
        )

    def _tunables_of(self, config_id: int, params: str) -> TunableGroups:
        found = self._configs.get(config_id)
        if found is None:
            stored = values.load(params)
            found = self.tunables.assign({k: v for k, v in stored.items() if k in self.tunables})
            self._remember(config_id, found)
        return found

    def _remember(self, config_id: int, tunables: TunableGroups) -> None:
        self._configs[config_id] = tunables
        while len(self._configs) > _REMEMBERED:
            self._configs.popitem(last=False)


def _new_row(new: NewTrial) -> requests.NewRow:
    return requests.NewRow(
        new.tunables.digest,
        values.dump(dict(new.tunables)),
        values.dump(new.parameters) if new.parameters else None,
        new.priority,
        None if new.not_before is None else values.to_us(new.not_before),
    )
