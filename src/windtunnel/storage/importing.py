"""Experiments of mlos_bench taken over into a database of ours; see ``mlos.py`` for what is read there.

Everything is text there. Tunables get the types and ranges that their values have in the whole experiment,
metrics and telemetry are numbers where they can be. A second run adds only what is new.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, and_, insert, select, update

from windtunnel.errors import ConfigError, ExperimentMismatch, StorageError
from windtunnel.model import Status
from windtunnel.objectives import directions
from windtunnel.storage import clock, mlos, reads, values
from windtunnel.storage.database import Database
from windtunnel.storage.inference import Inferred, infer, measured, typed
from windtunnel.storage.schema import experiment, session, trial
from windtunnel.storage.storage import open_prepared
from windtunnel.storage.transfer import (
    Point,
    Progress,
    Row,
    TelemetryTarget,
    Transferred,
    TrialPage,
    store_trials,
)

__all__ = ["import_mlos"]

_VERSION = importlib.metadata.version("windtunnel")
_MARK = "mlos_bench"
"""The session that says where an experiment came from."""
_LONGEST_NAME = 255
_WAITING = (Status.PENDING, Status.READY)
_FAILURES = {
    Status.FAILED: "it failed in mlos_bench, which keeps no reason",
    Status.TIMED_OUT: "it timed out in mlos_bench",
    Status.CANCELED: "it was canceled in mlos_bench",
}


async def import_mlos(
    source_url: str,
    target_url: str,
    experiments: Sequence[str] | None = None,
    *,
    prefix: str = "",
    progress: Progress | None = None,
    patience: timedelta = timedelta(seconds=30),
) -> list[Transferred]:
    """Take experiments of an mlos_bench database over, with configurations, trials, metrics and telemetry.

    Trials keep their ids. Those that wait or run there become PENDING here, and get their outcome by a later
    import, unless they were run here before. Times without a zone are UTC. The source is only read.

    :param experiments: their ids; default all.
    :param prefix: put before their ids.
    :param progress: called after every page.
    :param patience: how long to wait while another program has a database locked.
    :returns: what was done, an entry for each experiment.
    :raises ConfigError: if a URL or an id cannot be used.
    :raises NotFound: if the source has no such experiment.
    :raises SchemaMismatch: if the source is no mlos_bench database.
    :raises ExperimentMismatch: if the target has an experiment of that name which is another one.
    :raises StorageError: if one of the databases fails; what was imported stays.
    """
    async with mlos.open_mlos(source_url, patience=patience) as read:
        theirs = await read(mlos.experiments, experiments)
        async with open_prepared(target_url, patience=patience) as target:
            for one in theirs:  # all of them, before anything is written
                await target.read(_check_ours, f"{prefix}{one.exp_id}", _objectives(one))
            return [await _Import(read, target, one, prefix, progress).run() for one in theirs]


class _Import:
    """The import of one experiment."""

    def __init__(
        self,
        read: mlos.Reader,
        target: Database,
        theirs: mlos.Experiment,
        prefix: str,
        progress: Progress | None,
    ) -> None:
        self._read = read
        self._target = target
        self._theirs = theirs
        self._progress = progress
        self._done = Transferred(experiment_id=f"{prefix}{theirs.exp_id}")

    async def run(self) -> Transferred:
        exp_id = self._theirs.exp_id
        seen = await self._read(mlos.values_seen, exp_id)
        inferred = infer(seen, await self._read(mlos.default_values, exp_id))
        key = await self._target.write(_ensure, self._done.experiment_id, self._theirs, inferred)
        telemetry = TelemetryTarget(self._target, key)
        after, incomplete = 0, 0
        while trials := await self._read(mlos.trials_after, exp_id, after):
            after = trials[-1].trial_id
            incomplete += sum(one.config.keys() != inferred.names.keys() for one in trials)
            rows = [_row(one, inferred, next(iter(self._theirs.objectives), None)) for one in trials]
            new, updated = await self._target.write(store_trials, key, TrialPage(rows, []))
            points = await self._import_telemetry(key, telemetry, trials[0].trial_id, after)
            self._tell(len(trials), new, updated, points)
        lost = await self._read(mlos.points_lost, exp_id)
        return replace(self._done, notes=tuple(_notes(inferred, incomplete, lost)))

    def _tell(self, trials: int, new: int, updated: int, points: int) -> None:
        done = self._done
        self._done = replace(
            done,
            trials=done.trials + trials,
            new=done.new + new,
            updated=done.updated + updated,
            points=done.points + points,
        )
        if self._progress is not None:
            self._progress(self._done)

    async def _import_telemetry(self, key: int, telemetry: TelemetryTarget, first: int, last: int) -> int:
        theirs = await self._read(mlos.point_counts, self._theirs.exp_id, first, last)
        before = await telemetry.counts(first, last)
        theirs_alone = await self._target.read(_not_run_here, key, first, last)
        missing = {
            trial_id
            for trial_id, number in theirs.items()
            if trial_id in theirs_alone and before.get((trial_id, 1), 0) < number
        }
        if not missing:
            return 0
        span = (min(missing), max(missing))
        after: mlos.Measured | None = None
        while page := await self._read(mlos.points_after, self._theirs.exp_id, *span, after):
            points = [_point(one) for one in page if one.trial_id in missing]
            await telemetry.add([point for point in points if point is not None])
            after = page[-1]
        now = await telemetry.counts(first, last)
        return sum(now.values()) - sum(before.values())


def _notes(inferred: Inferred, incomplete: int, lost: int) -> list[str]:
    notes = [f"tunable {old!r} is called {new!r} here" for old, new in inferred.names.items() if old != new]
    if incomplete:
        notes.append(f"trials without a value for some tunable, whose default stands in: {incomplete}")
    if lost:
        notes.append(f"points of telemetry without a time or a value, left out: {lost}")
    return notes


# Experiments


def _objectives(theirs: mlos.Experiment) -> dict[str, str]:
    found: dict[str, str] = {}
    for metric, direction in theirs.objectives.items():
        said = (direction or "min").lower()
        if said not in ("min", "max"):
            raise StorageError(
                f"experiment {theirs.exp_id!r}: expected 'min' or 'max' for the objective {metric!r}, "
                f"found {direction!r}; correct it in the source"
            )
        found[metric] = said
    return found


def _check_ours(connection: Connection, name: str, objectives: dict[str, str]) -> None:
    """Check that the experiment can go here.

    :raises ConfigError: if its name cannot be used.
    :raises ExperimentMismatch: if there is one which is another one.
    """
    if not 1 <= len(name) <= _LONGEST_NAME:
        raise ConfigError(f"expected an experiment id of 1 to {_LONGEST_NAME} characters, found {name!r}")
    stored = reads.experiment_named(connection, name)
    if stored is None:
        return
    marks = select(session.c.owner).where(session.c.experiment == stored.id, session.c.owner == _MARK)
    if connection.execute(marks).first() is None:
        raise ExperimentMismatch(
            f"experiment {name!r} is here already and was not imported; import under another name "
            "with a prefix, or rename one of them"
        )
    if (found := directions(stored.goals)) != objectives:
        raise ExperimentMismatch(
            f"experiment {name!r} was imported with objectives {found}, "
            f"not {objectives}; import it under another name with a prefix"
        )


def _ensure(connection: Connection, name: str, theirs: mlos.Experiment, inferred: Inferred) -> int:
    """The key of the experiment, made now if it is not there; its tunables allow every value seen."""
    definition = json.dumps(inferred.tunables.definition())
    stored = reads.experiment_named(connection, name)
    if stored is not None:
        if stored.tunables != definition:
            this = experiment.c.id == stored.id
            connection.execute(update(experiment).where(this).values(tunables=definition))
        return stored.id
    now = clock.now_us(connection)
    connection.execute(
        insert(experiment),
        {
            "name": name,
            "description": theirs.description,
            "root_env_config": theirs.root_env_config,
            "objectives": json.dumps(_objectives(theirs)),
            "tunables": definition,
            "created_us": now,
            "windtunnel": _VERSION,
        },
    )
    key: int = connection.execute(select(experiment.c.id).where(experiment.c.name == name)).scalar_one()
    facts = {
        "imported_from": "mlos_bench",
        "experiment_id": theirs.exp_id,
        "git_repo": theirs.git_repo,
        "git_commit": theirs.git_commit,
    }
    mark = {"owner": _MARK, "experiment": key, "started_us": now, "facts": json.dumps(facts)}
    connection.execute(insert(session), mark)
    return key


# Trials


def _row(theirs: mlos.Trial, inferred: Inferred, objective: str | None) -> Row:
    """A trial in terms of our columns."""
    status = Status.parse(theirs.status)
    created = theirs.started_us or 0
    config = inferred.tunables.assign({inferred.names[name]: text for name, text in theirs.config.items()})
    parameters = {name: _or_none(typed, text) for name, text in theirs.parameters.items()}
    row: Row = dict.fromkeys(column.name for column in trial.columns)
    row |= {
        "trial_id": theirs.trial_id,
        "digest": config.digest,
        "params": values.dump(dict(config)),
        "status": Status.PENDING.value if status in _WAITING else status.value,
        "priority": 0,
        "attempt": 0 if status in _WAITING else 1,
        "token": 0,
        "not_before_us": created,
        "created_us": created,
        "started_us": None if status in _WAITING else created,
        "parameters": values.dump(parameters) if parameters else None,
    }
    if status.is_completed or status is Status.UNKNOWN:
        ended = next((t for t in (theirs.ended_us, theirs.touched_us) if t is not None), created)
        row |= {"ended_us": ended, **_outcome(theirs, status, objective)}
    return row


def _outcome(theirs: mlos.Trial, status: Status, objective: str | None) -> Row:
    metrics = {name: _or_none(measured, text) for name, text in theirs.metrics.items()}
    outcome: Row = {
        "metrics": values.dump(metrics) if metrics or status.is_succeeded else None,
        "score": values.finite(metrics.get(objective)) if objective and status.is_succeeded else None,
        "failure": _FAILURES.get(status),
    }
    if status is Status.UNKNOWN:
        # Nobody knows whether it was run: it is kept, and not run by chance.
        said = f"its status in mlos_bench was {theirs.status!r}"
        outcome |= {"status": Status.CANCELED.value, "failure": said}
    return outcome


def _or_none(read: Any, text: str | None) -> Any:
    return None if text is None else read(text)


# Telemetry


def _not_run_here(connection: Connection, experiment_pk: int, first: int, last: int) -> set[int]:
    """The trials whose only attempt was theirs."""
    mine = and_(trial.c.experiment == experiment_pk, trial.c.trial_id.between(first, last))
    untouched = select(trial.c.trial_id).where(mine, trial.c.token == 0, trial.c.attempt == 1)
    return set(connection.execute(untouched).scalars())


def _point(theirs: mlos.Measured) -> Point | None:
    ts_us = mlos.time_us(theirs.ts)
    if ts_us is None or theirs.value is None:
        return None
    return Point(theirs.trial_id, 1, ts_us, theirs.metric, *values.pack(measured(str(theirs.value))))
