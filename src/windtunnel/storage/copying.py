"""One database copied into another, page by page, so that memory stays flat and a second run goes on.

Experiments are found by name, configurations by digest, metrics by name; trials keep their numbers. Each page
of trials is one transaction, with its attempts; its telemetry follows. Who leads an experiment is a matter of
each database alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import anyio
from sqlalchemy import Connection, insert, select, tuple_

from windtunnel.errors import ConfigError, ExperimentMismatch, NotFound
from windtunnel.model import Direction
from windtunnel.objectives import directions, parse_objectives
from windtunnel.storage.database import Database
from windtunnel.storage.dialects import insert_new
from windtunnel.storage.reads import TELEMETRY_PAGE
from windtunnel.storage.schema import (
    config,
    experiment,
    experiment_merge,
    host_facts,
    metric,
    session,
    telemetry,
    trial,
    trial_attempt,
)
from windtunnel.storage.storage import open_prepared
from windtunnel.storage.transfer import (
    Point,
    Progress,
    Row,
    TelemetryTarget,
    Transferred,
    TrialPage,
    number_from,
    point_counts,
    store_trials,
)
from windtunnel.storage.urls import MEMORY, Target, parse_url

__all__ = ["copy_storage"]

_TRIALS_AT_ONCE = 250
_EARLIEST_US = -(2**63)


async def copy_storage(
    source_url: str,
    target_url: str,
    experiments: Sequence[str] | None = None,
    *,
    progress: Progress | None = None,
    patience: timedelta = timedelta(seconds=30),
) -> list[Transferred]:
    """Copy experiments with all that was recorded of them into another database.

    Run again, it goes on where it was cut off, and brings what has got on in the source since. A trial that
    runs is copied as PENDING, its attempt recorded; one that runs or has ended in the target is left alone.
    Experiments that a wanted one has merged are copied with it.

    :param experiments: their ids; default all.
    :param progress: called after every page.
    :param patience: how long to wait while another program has a database locked.
    :returns: what was done, an entry for each experiment.
    :raises ConfigError: if a URL cannot be used, or both are the same database.
    :raises NotFound: if the source has no such experiment.
    :raises ExperimentMismatch: if the target has an experiment of that name which is another one.
    :raises StorageError: if one of the databases fails; what was copied stays.
    """
    await anyio.to_thread.run_sync(_check_ends, parse_url(source_url), parse_url(target_url))
    async with (
        open_prepared(source_url, patience=patience) as source,
        open_prepared(target_url, patience=patience) as target,
    ):
        rows = await source.read(_wanted, experiments)
        for row in rows:  # all of them, before anything is written
            await target.read(_check_same, row)
        keys = {row["id"]: await target.write(_ensure, row) for row in rows}
        copied = [await _Copy(source, target, row, keys[row["id"]], progress).run() for row in rows]
        await target.write(_add_merges, await source.read(_merges, list(keys)), keys)
    return copied


def _check_ends(source: Target, target: Target) -> None:
    if source.backend == "sqlite":
        file = Path(source.url.database or MEMORY)
        if not file.exists():
            raise NotFound("database", source.place, hint="check the path to copy from")
        same = target.backend == "sqlite" and file.resolve() == Path(target.url.database or MEMORY).resolve()
    else:
        same = source.url == target.url
    if same:
        raise ConfigError(f"expected two databases, found {source.place} twice")


class _Copy:
    """The copying of one experiment."""

    def __init__(
        self, source: Database, target: Database, row: Row, key: int, progress: Progress | None
    ) -> None:
        self._source = source
        self._target = target
        self._from: int = row["id"]
        self._to = key
        self._progress = progress
        self._telemetry = TelemetryTarget(target, key)
        self._done = Transferred(experiment_id=row["name"])

    async def run(self) -> Transferred:
        after = 0
        while (page := await self._source.read(_trials_after, self._from, after)).trials:
            first, after = page.trials[0]["trial_id"], page.trials[-1]["trial_id"]
            new, updated = await self._target.write(store_trials, self._to, page)
            points = await self._copy_telemetry(first, after)
            self._done = replace(
                self._done,
                trials=self._done.trials + len(page.trials),
                new=self._done.new + new,
                updated=self._done.updated + updated,
                points=self._done.points + points,
            )
            if self._progress is not None:
                self._progress(self._done)
        # At last: by now it is certain that it is the same experiment.
        await self._target.write(_add_sessions, await self._source.read(_sessions, self._from), self._to)
        await self._target.write(_add_host_facts, await self._source.read(_host_facts, self._from), self._to)
        return self._done

    async def _copy_telemetry(self, first: int, last: int) -> int:
        theirs = await self._source.read(point_counts, self._from, first, last)
        before = await self._telemetry.counts(first, last)
        missing = sorted(attempt for attempt, number in theirs.items() if before.get(attempt, 0) < number)
        if not missing:
            return 0
        after = (*missing[0], _EARLIEST_US, 0)
        while page := await self._source.read(_points_after, self._from, after, missing[-1][0]):
            await self._telemetry.add([point for _, point in page])
            metric_id, point = page[-1]
            after = (point.trial_id, point.attempt, point.ts_us, metric_id)
        now = await self._telemetry.counts(first, last)
        return sum(now.values()) - sum(before.values())


# Experiments, their merges and sessions


def _wanted(connection: Connection, names: Sequence[str] | None) -> list[Row]:
    """The rows of the experiments named, or of all, and of those they have merged."""
    rows = {row["id"]: dict(row) for row in connection.execute(select(experiment)).mappings()}
    if names is None:
        return [rows[key] for key in sorted(rows)]
    keys = {row["name"]: key for key, row in rows.items()}
    for name in names:
        if name not in keys:
            raise NotFound("experiment", name, [rows[key]["name"] for key in sorted(rows)])
    merges = connection.execute(select(experiment_merge.c.experiment, experiment_merge.c.merged)).all()
    wanted = {keys[name] for name in names}
    while more := {merged for learner, merged in merges if learner in wanted} - wanted:
        wanted |= more
    return [rows[key] for key in sorted(wanted)]


def _check_same(connection: Connection, row: Row) -> None:
    stored = connection.execute(select(experiment).where(experiment.c.name == row["name"])).mappings().first()
    if stored is None:
        return
    for what, read in (("objectives", _directions), ("tunables", json.loads)):
        theirs, ours = read(row[what]), read(stored[what])
        if theirs != ours or list(theirs) != list(ours):
            raise ExperimentMismatch(
                f"experiment {row['name']!r} is in the target already, with other {what}; "
                "rename one of the two first"
            )


def _directions(objectives: str) -> dict[str, Direction]:
    return directions(parse_objectives(json.loads(objectives)))


def _ensure(connection: Connection, row: Row) -> int:
    """The key of the experiment in the target, made now if it is not there."""
    named = select(experiment.c.id).where(experiment.c.name == row["name"])
    key: int | None = connection.execute(named).scalar()
    if key is None:
        connection.execute(insert(experiment), {name: value for name, value in row.items() if name != "id"})
        key = connection.execute(named).scalar_one()
    number_from(connection, key, row["next_trial_id"])
    return key


def _sessions(connection: Connection, experiment_pk: int) -> list[Row]:
    found = connection.execute(select(session).where(session.c.experiment == experiment_pk))
    return [dict(row) for row in found.mappings()]


def _add_sessions(connection: Connection, rows: Iterable[Row], experiment_pk: int) -> None:
    nothing = {"wanting": None, "wanting_until_us": None}  # of the leader there
    if moved := [{**row, **nothing, "experiment": experiment_pk} for row in rows]:
        connection.execute(insert_new(session, connection.dialect), moved)


def _host_facts(connection: Connection, experiment_pk: int) -> list[Row]:
    found = connection.execute(select(host_facts).where(host_facts.c.experiment == experiment_pk))
    return [dict(row) for row in found.mappings()]


def _add_host_facts(connection: Connection, rows: Iterable[Row], experiment_pk: int) -> None:
    if moved := [{**row, "experiment": experiment_pk} for row in rows]:
        connection.execute(insert_new(host_facts, connection.dialect), moved)


def _merges(connection: Connection, keys: Sequence[int]) -> list[Row]:
    found = connection.execute(select(experiment_merge).where(experiment_merge.c.experiment.in_(keys)))
    return [dict(row) for row in found.mappings()]


def _add_merges(connection: Connection, rows: Iterable[Row], keys: Mapping[int, int]) -> None:
    moved = [
        {**row, "experiment": keys[row["experiment"]], "merged": keys[row["merged"]]}
        for row in rows
        if row["merged"] in keys  # else it was merged after we looked; the next run brings it
    ]
    if moved:
        connection.execute(insert_new(experiment_merge, connection.dialect), moved)


# Trials


def _trials_after(connection: Connection, experiment_pk: int, after: int) -> TrialPage:
    found = connection.execute(
        select(trial, config.c.digest, config.c.params)
        .join(config, config.c.id == trial.c.config_id)
        .where(trial.c.experiment == experiment_pk, trial.c.trial_id > after)
        .order_by(trial.c.trial_id)
        .limit(_TRIALS_AT_ONCE)
    )
    trials = [dict(row) for row in found.mappings()]
    if not trials:
        return TrialPage([], [])
    these = trial_attempt.c.trial_id.between(trials[0]["trial_id"], trials[-1]["trial_id"])
    attempts = connection.execute(
        select(trial_attempt).where(trial_attempt.c.experiment == experiment_pk, these)
    )
    return TrialPage(trials, [dict(row) for row in attempts.mappings()])


# Telemetry


def _points_after(
    connection: Connection, experiment_pk: int, after: tuple[int, ...], last: int
) -> list[tuple[int, Point]]:
    """The next points in order of their key, of trials up to ``last``, each with its metric's number."""
    key = (telemetry.c.trial_id, telemetry.c.attempt, telemetry.c.ts_us, telemetry.c.metric_id)
    rows = connection.execute(
        select(*key, metric.c.name, telemetry.c.number, telemetry.c.text)
        .join(metric, metric.c.id == telemetry.c.metric_id)
        .where(telemetry.c.experiment == experiment_pk, key[0] <= last, tuple_(*key) > after)
        .order_by(*key)
        .limit(TELEMETRY_PAGE)
    )
    return [(row[3], Point(*row[:3], *row[4:])) for row in rows]
