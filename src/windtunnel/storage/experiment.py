"""One experiment's data: the trials to run, their leases, telemetry and outcomes."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from windtunnel.errors import NotFound, ResultsInvalid, StorageError
from windtunnel.model import (
    Direction,
    History,
    NewTrial,
    RunResult,
    Sample,
    Status,
    Trial,
    TrialRecord,
    utc_now,
)
from windtunnel.storage import maintenance, queries, reads, values
from windtunnel.storage.database import Database
from windtunnel.storage.writer import GroupWriter
from windtunnel.tunables import TunableGroups

__all__ = ["INTERRUPTED", "Experiment"]

INTERRUPTED = "interrupted"
"""The failure text of a trial that was canceled because its scheduler stopped: it is queued again on resume."""

_REMEMBERED = 2048


class Experiment:
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
        opt_targets: Mapping[str, Direction],
        metrics: dict[str, int],
    ) -> None:
        self.experiment_id = experiment_id
        self.tunables = tunables
        self.opt_targets = dict(opt_targets)
        self._database = database
        self._writer = writer
        self._key = key
        self._metrics = metrics
        self._configs: OrderedDict[int, TunableGroups] = OrderedDict()

    # Reading

    async def load(self, last_trial_id: int = -1) -> History:
        """What an optimizer learns from: succeeded, failed and timed-out trials with an id above ``last_trial_id``.

        :returns: (trial_ids, configs, scores, status), parallel lists in order of trial ids.
        """
        return await self._database.read(reads.history, self._key, last_trial_id)

    async def load_telemetry(self, trial_id: int, *, attempt: int | None = None) -> list[Sample]:
        """The telemetry of a trial in order of time: (timestamp, metric, value).

        :param attempt: default the newest.
        :raises NotFound: if there is no such trial.
        """
        rows = await self._database.read(reads.telemetry_of, self._key, trial_id, attempt)
        if not rows and not await self._database.read(reads.trial_exists, self._key, trial_id):
            raise NotFound("trial", trial_id)
        return [
            Sample(values.from_us(ts), name, values.unpack(number, text)) for ts, name, number, text in rows
        ]

    async def load_tunable_config(self, config_id: int) -> dict[str, Any]:
        """The tunable values of a configuration.

        :raises NotFound: if there is no such configuration.
        """
        params = await self._database.read(reads.params_of_config, config_id)
        if params is None:
            raise NotFound("configuration", config_id)
        return values.load(params)

    async def pending_trials(self, timestamp: datetime, *, running: bool) -> AsyncIterator[Trial]:
        """The trials that are to start at or before ``timestamp``, in the order in which they would be claimed.

        Reads page by page and holds no transaction in between, so trials that change meanwhile may be missed or
        seen in an earlier state.

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

    async def trials(self) -> AsyncIterator[TrialRecord]:
        """Every trial with its outcome, in order of ids, read page by page."""
        after = 0
        while page := await self._database.read(reads.records, self._key, after):
            for record in page:
                yield record
            after = page[-1].trial_id

    async def counts(self) -> reads.Counts:
        """How many trials are in which state."""
        return (await self._database.read(reads.counts)).get(self._key, reads.Counts())

    async def best(self) -> TrialRecord | None:
        """The best trial of the configuration with the best mean of the first objective; None if none succeeded."""
        direction = next(iter(self.opt_targets.values()), "min")
        best = await self._database.read(reads.best_trial_id, self._key, direction)
        return None if best is None else await self._database.read(reads.record, self._key, best)

    # Writing

    async def add_trials(self, new: Sequence[NewTrial], *, at_most: int | None = None) -> list[Trial]:
        """Store trials to be run, in one transaction. Equal configurations share a config_id.

        :param at_most: the experiment shall never hold more trials than this, whoever adds them; what would be
            too many, from the end, is not stored and not returned.
        """
        if not new:
            return []
        now = values.to_us(utc_now())
        rows = [_new_row(one, now) for one in new]
        added = await self._writer.submit(queries.add_trials, queries.Addition(self._key, rows, at_most))
        trials = [
            Trial(
                experiment_id=self.experiment_id,
                trial_id=trial_id,
                config_id=config_id,
                tunables=one.tunables,
                parameters=one.parameters,
            )
            for one, (trial_id, config_id) in zip(new, added, strict=False)
        ]
        for trial in trials:
            self._remember(trial.config_id, trial.tunables)
        return trials

    async def claim(self, owner: str, *, limit: int, lease: timedelta) -> list[Trial]:
        """Take up to ``limit`` pending trials, the highest priority and then the oldest first.

        They are RUNNING and ``owner``'s until the lease ends; extend it, or others may claim them. Trials whose
        lease has expired are taken in the same way, as a new attempt.
        """
        wanted = queries.Claim(self._key, owner, limit, lease // timedelta(microseconds=1))
        rows = await self._writer.submit(queries.claim, wanted)
        return [self._trial(row, status=Status.RUNNING, owner=owner) for row in rows]

    async def extend(self, owner: str, *, lease: timedelta) -> dict[int, int]:
        """Renew the lease of every trial ``owner`` holds.

        :returns: trial_id → token of those trials; one that is missing was lost to another worker.
        """
        wanted = queries.Extension(self._key, owner, lease // timedelta(microseconds=1))
        return await self._writer.submit(queries.extend, wanted)

    async def record(self, trial: Trial, samples: Sequence[Sample]) -> None:
        """Append telemetry to a claimed trial. A point that is stored already (same time and metric) is left alone.

        :raises StaleTrial: if the trial is no longer held under its token.
        :raises ResultsInvalid: if a value is neither a number nor text.
        :raises ValueError: if a timestamp has no zone.
        """
        (refused,) = await self.record_many([(trial, samples)])
        if refused is not None:
            raise refused

    async def record_many(
        self, batches: Sequence[tuple[Trial, Sequence[Sample]]]
    ) -> list[StorageError | None]:
        """``record`` for several trials in one transaction; the refusal of each, or None."""
        known = self._metrics
        if unknown := {s.metric for _, samples in batches for s in samples if s.metric not in known}:
            known.update(await self._writer.submit(queries.register_metrics, sorted(unknown)))
        to_us, pack = values.to_us, values.pack
        points = [
            queries.Points(
                self._key,
                trial.trial_id,
                trial.attempt,
                trial.token,
                [(to_us(timestamp), known[metric], *pack(value)) for timestamp, metric, value in samples],
            )
            for trial, samples in batches
        ]
        return await self._writer.submit(queries.record, points)

    async def finish(
        self, trial: Trial, result: RunResult, *, failure: str | None = None, host: str | None = None
    ) -> None:
        """Store the outcome of a claimed trial. The same outcome again changes nothing.

        :param failure: why it did not succeed, for people.
        :param host: where it ran.
        :raises StaleTrial: if the trial is no longer held under its token.
        :raises TrialAlreadyFinished: if it has another outcome.
        :raises ResultsInvalid: if the status is not final or a metric is neither number nor text.
        """
        if not result.status.is_completed:
            raise ResultsInvalid(
                f"expected a final status for trial {trial.trial_id}, found {result.status.name}"
            )
        metrics = None if result.metrics is None else values.dump(result.metrics)
        completion = queries.Completion(
            self._key,
            trial.trial_id,
            trial.token,
            result.status.value,
            values.to_us(result.timestamp),
            metrics,
            self._score(result),
            failure,
            host,
        )
        await self._writer.submit(queries.finish, completion)

    async def release(self, trial: Trial, *, reason: str) -> None:
        """Put a claimed trial back into the queue; this attempt is kept on record.

        :raises StaleTrial: if the trial is no longer held under its token.
        """
        await self._writer.submit(
            queries.release, queries.Release(self._key, trial.trial_id, trial.token, reason)
        )

    # Resuming

    async def recover(self, is_dead: Callable[[str], bool]) -> int:
        """Queue again what an earlier session left: trials of workers known to be dead, and interrupted trials.

        :param is_dead: whether the worker with this name certainly runs no more; others keep their leases.
        :returns: how many trials were queued again.
        """
        owners = await self._database.read(reads.owners, self._key)
        dead = [owner for owner in owners if is_dead(owner)]
        return await self._database.write(maintenance.requeue, self._key, dead, INTERRUPTED)

    def _score(self, result: RunResult) -> float | None:
        """The first objective's value, for comparisons inside the database."""
        objective = next(iter(self.opt_targets), None)
        if objective is None or not result.metrics or not result.status.is_succeeded:
            return None
        value = result.metrics.get(objective)
        if isinstance(value, str) or value is None:
            return None
        return float(value) if math.isfinite(value) else None

    def _trial(
        self,
        row: queries.Claimed | reads.PendingRow,
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


def _new_row(new: NewTrial, now_us: int) -> queries.NewRow:
    return queries.NewRow(
        new.tunables.digest,
        values.dump(dict(new.tunables)),
        values.dump(new.parameters) if new.parameters else None,
        new.priority,
        values.to_us(new.not_before) if new.not_before is not None else now_us,
    )
