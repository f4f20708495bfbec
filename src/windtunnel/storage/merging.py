"""What an experiment learns from others: which ones, and their trials in terms of its own tunables.

A trial of another experiment is told under the id ``-(experiment's key * 2**32 + trial_id)``: negative, so it
is never one of the experiment's own, and the same for as long as the database lives.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, insert, or_, select

from windtunnel.errors import ExperimentMismatch, MergeCycle, NotFound, TunableError
from windtunnel.model import FailureKind, History, Status
from windtunnel.objectives import directions
from windtunnel.storage import blocks, clock, reads, values
from windtunnel.storage.schema import config, experiment, experiment_merge, trial
from windtunnel.tunables import Tunable, TunableGroups

__all__ = ["MergedData", "MergedExperiment", "Told", "history", "merge", "merged_data", "told"]

_TOLD = (Status.SUCCEEDED.value, Status.FAILED.value, Status.TIMED_OUT.value)
_TRIAL_IDS = 2**32


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedExperiment:
    """What became of the trials of one experiment that was merged in.

    :ivar trials: how many ``load`` tells.
    :ivar left_out: how many it does not tell, because a value is outside the domain it has today.
    :ivar imputed: tunable → how many told trials lacked it and were given its default.
    :ivar from_parameters: tunable → how many told trials had it as a fixed parameter instead.
    :ivar outside: tunable → how many trials have a value for it that is outside its domain.
    :ivar dropped: tunables of the merged experiment that this one does not have.
    """

    experiment_id: str
    trials: int
    left_out: int
    imputed: Mapping[str, int]
    from_parameters: Mapping[str, int]
    outside: Mapping[str, int]
    dropped: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedData:
    """The trials of every experiment that was merged in, directly or through others.

    :ivar history: as ``load`` gives it, without the experiment's own trials.
    :ivar experiments: one entry each, in the order in which they were made.
    :ivar origins: trial id in ``history`` → (experiment id, trial id there).
    :ivar imputed: trial id in ``history`` → the tunables that were given their defaults; none, no entry.
    """

    history: History
    experiments: tuple[MergedExperiment, ...]
    origins: Mapping[int, tuple[str, int]]
    imputed: Mapping[int, tuple[str, ...]]


# Recording


def merge(connection: Connection, experiment_pk: int, names: Sequence[str]) -> None:
    """Put on record that the experiment learns from those named; what is on record already stays.

    :raises NotFound: if there is no such experiment.
    :raises ExperimentMismatch: if objectives differ or no tunable is shared.
    :raises MergeCycle: if the experiment would learn from itself.
    """
    # Two merges at once could close a circle that neither sees.
    connection.execute(select(experiment.c.id).order_by(experiment.c.id).with_for_update())
    by_name = {row.name: row for row in reads.experiments(connection)}
    own = next(row for row in by_name.values() if row.id == experiment_pk)
    edges = _edges(connection)
    new: list[int] = []
    for name in dict.fromkeys(names):
        other = by_name.get(name)
        if other is None:
            raise NotFound("experiment", name, list(by_name))
        _check_no_cycle(own, other, edges)
        _check_fits(own, other)
        if other.id not in edges.get(own.id, ()):
            new.append(other.id)
    if new:
        now = clock.now_us(connection)
        rows = [{"experiment": own.id, "merged": pk, "merged_us": now} for pk in new]
        connection.execute(insert(experiment_merge), rows)


def _check_no_cycle(own: reads.ExperimentRow, other: reads.ExperimentRow, edges: _Edges) -> None:
    if other.id == own.id:
        raise MergeCycle(f"experiment {own.name!r} cannot be merged into itself; name another one")
    if own.id in _reachable(other.id, edges):
        raise MergeCycle(
            f"experiment {other.name!r} cannot be merged into {own.name!r}, which was merged into "
            f"{other.name!r} before, directly or through others; merge in one direction only"
        )


def _check_fits(own: reads.ExperimentRow, other: reads.ExperimentRow) -> None:
    wanted, found = directions(own.goals), directions(other.goals)
    # The order of the others is free: only the first one is the score.
    if wanted != found or next(iter(wanted), None) != next(iter(found), None):
        raise ExperimentMismatch(
            f"experiment {other.name!r} cannot be merged into {own.name!r}: its objectives are {found}, "
            f"expected {wanted}"
        )
    ours, theirs = (TunableGroups(json.loads(row.tunables)) for row in (own, other))
    if not ours.keys() & theirs.keys():
        raise ExperimentMismatch(
            f"experiment {other.name!r} cannot be merged into {own.name!r}: they share no tunable; "
            f"its tunables are {sorted(theirs)}, expected at least one of {sorted(ours)}"
        )


_Edges = Mapping[int, Sequence[int]]


def _edges(connection: Connection) -> dict[int, list[int]]:
    """experiment → those merged into it."""
    edges: dict[int, list[int]] = {}
    for pk, merged in connection.execute(select(experiment_merge.c.experiment, experiment_merge.c.merged)):
        edges.setdefault(pk, []).append(merged)
    return edges


def _reachable(start: int, edges: _Edges) -> set[int]:
    found: set[int] = set()
    waiting = list(edges.get(start, ()))
    while waiting:
        pk = waiting.pop()
        if pk not in found:
            found.add(pk)
            waiting += edges.get(pk, ())
    return found


# Telling


class Told(NamedTuple):
    """Rows as they are stored: what ``history`` and ``merged_data`` make Python values of.

    :ivar own: trial_id, params, metrics, status.
    :ivar merged: experiment, trial_id, params, metrics, status, parameters.
    :ivar names: experiment → its id for people, of those merged in.
    """

    own: Sequence[Sequence[Any]]
    merged: Sequence[Sequence[Any]]
    names: Mapping[int, str]


_COLUMNS = (trial.c.trial_id, config.c.params, trial.c.metrics, trial.c.status)


def told(connection: Connection, experiment_pk: int, after: int, *, own: bool = True) -> Told:
    """The completed trials after ``after``, and those of merged experiments if it is negative.

    One statement for the experiment's own trials and three for the others, however many there are. Trials
    that were canceled by hand taught nobody anything and are left out.

    :param own: whether the experiment's own trials are wanted.
    """
    rows: Sequence[Sequence[Any]] = []
    if own:
        mine = _trials(*_COLUMNS).where(trial.c.experiment == experiment_pk, trial.c.trial_id > after)
        rows = blocks.raw(connection, mine.order_by(trial.c.trial_id))
    sources = _reachable(experiment_pk, _edges(connection)) if after < 0 else set()
    if not sources:
        return Told(rows, [], {})
    known = select(experiment.c.id, experiment.c.name).where(experiment.c.id.in_(sources))
    names = {row.id: row.name for row in connection.execute(known.order_by(experiment.c.id))}
    theirs = _trials(trial.c.experiment, *_COLUMNS, trial.c.parameters).where(trial.c.experiment.in_(names))
    return Told(rows, blocks.raw(connection, theirs.order_by(trial.c.experiment, trial.c.trial_id)), names)


def _trials(*columns: Any) -> Any:
    joined = select(*columns).join(config, config.c.id == trial.c.config_id)
    # A trial that a pruner stopped has the scores that the optimizer is told, or none.
    return joined.where(or_(trial.c.status.in_(_TOLD), trial.c.failure_kind == FailureKind.ABORTED.value))


def history(tunables: TunableGroups, rows: Told) -> History:
    """Trials of merged experiments first, then the experiment's own, each in order of their ids."""
    whole = merged_data(tunables, rows).history
    if rows.own:
        ids, params, metrics, status = zip(*rows.own, strict=True)
        whole.trial_ids.extend(ids)
        whole.configs.extend(one or {} for one in values.load_all(params))
        whole.scores.extend(values.load_all(metrics))
        whole.status.extend(map(Status, status))
    return whole


def merged_data(tunables: TunableGroups, rows: Told) -> MergedData:
    """The trials of merged experiments in terms of ``tunables``, and what had to be done for that."""
    sources = {pk: _Source(name) for pk, name in rows.names.items()}
    whole = History([], [], [], [])
    origins: dict[int, tuple[str, int]] = {}
    imputed: dict[int, tuple[str, ...]] = {}
    for pk, trial_id, params, metrics, status, parameters in _loaded(rows.merged):
        source = sources[pk]
        fitted = source.fit(tunables, params, parameters)
        if fitted is None:
            continue
        told_as = -(pk * _TRIAL_IDS + trial_id)
        origins[told_as] = (source.name, trial_id)
        if fitted.imputed:
            imputed[told_as] = fitted.imputed
        whole.trial_ids.append(told_as)
        whole.configs.append(fitted.config)
        whole.scores.append(metrics)
        whole.status.append(Status(status))
    reports = tuple(source.report() for source in sources.values())
    return MergedData(history=whole, experiments=reports, origins=origins, imputed=imputed)


def _loaded(rows: Sequence[Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
    if not rows:
        return iter(())
    pks, ids, params, metrics, status, parameters = zip(*rows, strict=True)
    texts = map(values.load_all, (params, metrics, parameters))
    params, metrics, parameters = (tuple(one) for one in texts)
    return zip(pks, ids, params, metrics, status, parameters, strict=True)


class _Fitted(NamedTuple):
    config: dict[str, Any]
    imputed: tuple[str, ...]


@dataclass(slots=True)
class _Source:
    """One merged experiment, counted as its trials pass."""

    name: str
    trials: int = 0
    left_out: int = 0
    imputed: Counter[str] = field(default_factory=Counter)
    from_parameters: Counter[str] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, None] = field(default_factory=dict)

    def fit(
        self,
        space: TunableGroups,
        config: Mapping[str, Any] | None,
        parameters: Mapping[str, Any] | None,
    ) -> _Fitted | None:
        """The trial's configuration as one of ``space``; None if a value is outside its domain."""
        config, parameters, tunables = config or {}, parameters or {}, space.tunables
        self.dropped.update(dict.fromkeys(name for name in config if name not in tunables))
        fixed = [name for name in tunables if name not in config and parameters.get(name) is not None]
        imputed = tuple(name for name in tunables if name not in config and name not in fixed)
        given = {name: parameters[name] for name in fixed}
        given |= {name: value for name, value in config.items() if name in tunables}
        if outside := _outside(tunables, given):
            self.left_out += 1
            self.outside.update(outside)
            return None
        self.trials += 1
        self.imputed.update(imputed)
        self.from_parameters.update(fixed)
        return _Fitted(dict(space.defaults().assign(given)), imputed)

    def report(self) -> MergedExperiment:
        return MergedExperiment(
            experiment_id=self.name,
            trials=self.trials,
            left_out=self.left_out,
            imputed=dict(self.imputed),
            from_parameters=dict(self.from_parameters),
            outside=dict(self.outside),
            dropped=tuple(self.dropped),
        )


def _outside(tunables: Mapping[str, Tunable], config: Mapping[str, Any]) -> list[str]:
    """The names of those whose value is outside their domain."""

    def fits(name: str, value: object) -> bool:
        try:
            tunables[name].check(value)
        except TunableError:
            return False
        return True

    return [name for name, value in config.items() if not fits(name, value)]
