"""What an experiment tells: to optimizers, and for analysis as rows, tables and configurations compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import anyio.to_thread
from sqlalchemy import Connection

from windtunnel.errors import ConfigError, NotFound
from windtunnel.model import Direction, History, Sample, Status
from windtunnel.storage import blocks, frames, groups, merging, values
from windtunnel.storage.database import Database
from windtunnel.storage.groups import ConfigGroup
from windtunnel.storage.merging import MergedData
from windtunnel.tunables import TunableGroups

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

__all__ = ["Analysis", "ResultRow", "TelemetryRow"]

_POINTS_AT_ONCE = 50_000
_TRIALS_AT_ONCE = 5_000

_Points = Callable[[Connection, int, blocks.Span, blocks.Key, int], blocks.Block]


class ResultRow(NamedTuple):
    """A trial with what came of it. Times are aware UTC.

    :ivar owner: the worker that ran it.
    :ivar result: its metrics; None if it did not succeed.
    """

    experiment_id: str
    trial_id: int
    config_id: int
    status: Status
    attempt: int
    owner: str | None
    host: str | None
    created: datetime
    started: datetime | None
    ended: datetime | None
    failure: str | None
    config: Mapping[str, Any]
    result: Mapping[str, Any] | None


class TelemetryRow(NamedTuple):
    """A point of telemetry, and the attempt of a trial that it was recorded in."""

    trial_id: int
    attempt: int
    sample: Sample


class Analysis:
    """What ``Experiment`` offers for learning and analysis. No transaction is held between two blocks.

    Tables come from pandas, polars or pyarrow: install ``windtunnel[pandas]``, ``[polars]`` or ``[arrow]``.
    The first table imports them, which holds up the event loop for some 0.3 s; import them yourself at start
    where that matters.
    """

    experiment_id: str
    tunables: TunableGroups
    opt_targets: dict[str, Direction]
    _database: Database
    _key: int

    # Learning

    async def load(self, last_trial_id: int = -1) -> History:
        """What an optimizer learns from: succeeded, failed and timed-out trials.

        :param last_trial_id: only the experiment's own trials after this one. If it is negative, all of them,
            after those of every experiment that was merged in, directly or through others: their trial ids
            are negative, unique and always the same. In terms of this experiment's tunables: one they lack
            has its default, unless the trial had it as a fixed parameter. A trial with a value outside
            today's domain is left out; ``load_merged`` tells of all this. What violates today's constraints
            is told: it was measured.
        :returns: (trial_ids, configs, scores, status), parallel lists in order of trial ids.
        """
        told = await self._database.read(merging.told, self._key, last_trial_id)
        return await anyio.to_thread.run_sync(merging.history, self.tunables, told)

    async def merge(self, experiment_ids: Sequence[str]) -> None:
        """Learn from the trials of other experiments too: ``load`` tells them from now on. All or none.

        What was merged before changes nothing, and trials that are added there later count as well.

        :raises NotFound: if there is no such experiment.
        :raises ExperimentMismatch: if its objectives are others or no tunable is shared.
        :raises MergeCycle: if it is this experiment, or this one was merged into it.
        """
        if isinstance(experiment_ids, str):
            raise ConfigError(f"expected a list of experiment ids, found {experiment_ids!r}")
        await self._database.write(merging.merge, self._key, experiment_ids)

    async def load_merged(self) -> MergedData:
        """The merged trials that ``load`` tells, and what was imputed, dropped or left out."""
        told = await self._database.read(merging.told, self._key, -1, own=False)
        return await anyio.to_thread.run_sync(merging.merged_data, self.tunables, told)

    # Rows

    async def stream_results(self, *, batch_size: int = 1000) -> AsyncIterator[list[ResultRow]]:
        """Every trial in order of ids, in lists of at most ``batch_size``; memory stays flat.

        :raises ValueError: if ``batch_size`` is not positive.
        """
        async for rows in self._trial_blocks(_positive(batch_size)):
            yield await anyio.to_thread.run_sync(_result_rows, self.experiment_id, rows)

    async def stream_telemetry(
        self, trial_ids: Sequence[int] | None = None, *, batch_size: int = 4000
    ) -> AsyncIterator[list[TelemetryRow]]:
        """Every point by trial, attempt and time, in lists of at most ``batch_size``; memory stays flat.

        :param trial_ids: only of these trials; default of all.
        :raises NotFound: if there is no such trial.
        :raises ValueError: if ``batch_size`` is not positive.
        """
        names: dict[int, str] = {}
        async for block in self._point_blocks(blocks.points_with_text, trial_ids, _positive(batch_size)):
            new = {row[2] for row in block.rows} - names.keys()
            names |= await self._database.read(blocks.metric_names, list(new)) if new else {}
            yield await anyio.to_thread.run_sync(_telemetry_rows, block.rows, names)

    # Tables

    @overload
    async def results_frame(self, library: Literal["pandas"] = "pandas") -> pandas.DataFrame: ...
    @overload
    async def results_frame(self, library: Literal["polars"]) -> polars.DataFrame: ...
    @overload
    async def results_frame(self, library: Literal["arrow"]) -> pyarrow.Table: ...
    async def results_frame(self, library: frames.Library = "pandas") -> Any:
        """One row a trial: experiment_id, trial_id, config_id, status, attempt, owner, host, times, failure.

        Each tunable is a column ``config.NAME`` and each metric one ``result.NAME``, of numbers if all its
        values are, else of text. What a trial lacks is null. Times (created, started, ended) are UTC.

        :raises ConfigError: if the library is unknown or not installed.
        """
        await anyio.to_thread.run_sync(frames.require, library)
        table = frames.Results(self.experiment_id, self.tunables)
        async for rows in self._trial_blocks(_TRIALS_AT_ONCE):
            await anyio.to_thread.run_sync(table.add, rows)
        return await anyio.to_thread.run_sync(lambda: frames.as_library(table.table(), library))

    @overload
    async def configs_frame(self, library: Literal["pandas"] = "pandas") -> pandas.DataFrame: ...
    @overload
    async def configs_frame(self, library: Literal["polars"]) -> polars.DataFrame: ...
    @overload
    async def configs_frame(self, library: Literal["arrow"]) -> pyarrow.Table: ...
    async def configs_frame(self, library: frames.Library = "pandas") -> Any:
        """One row a configuration: config_id, trials, succeeded (how many of them), and ``config.NAME``.

        :raises ConfigError: if the library is unknown or not installed.
        """
        await anyio.to_thread.run_sync(frames.require, library)
        table, after = frames.Configs(self.tunables), 0
        while rows := await self._database.read(blocks.configs, self._key, after, _TRIALS_AT_ONCE):
            await anyio.to_thread.run_sync(table.add, rows)
            after = rows[-1][0]
        return await anyio.to_thread.run_sync(lambda: frames.as_library(table.table(), library))

    @overload
    async def telemetry_frame(
        self, trial_ids: Sequence[int] | None = None, library: Literal["pandas"] = "pandas"
    ) -> pandas.DataFrame: ...
    @overload
    async def telemetry_frame(
        self, trial_ids: Sequence[int] | None = None, *, library: Literal["polars"]
    ) -> polars.DataFrame: ...
    @overload
    async def telemetry_frame(
        self, trial_ids: Sequence[int] | None = None, *, library: Literal["arrow"]
    ) -> pyarrow.Table: ...
    async def telemetry_frame(
        self, trial_ids: Sequence[int] | None = None, library: frames.Library = "pandas"
    ) -> Any:
        """One row a point, of every attempt: trial_id, attempt, timestamp (UTC), metric, value, text.

        ``value`` is the number, null for text, which is in ``text``. The exact digits of whole numbers beyond
        2**53 are in ``text`` too.

        :param trial_ids: only of these trials; default of all.
        :raises NotFound: if there is no such trial.
        :raises ConfigError: if the library is unknown or not installed.
        """
        await anyio.to_thread.run_sync(frames.require, library)
        table = await self._points_table(trial_ids)
        return await anyio.to_thread.run_sync(frames.as_library, table, library)

    async def stream_telemetry_tables(self, *, batch_size: int = 64_000) -> AsyncIterator[pyarrow.Table]:
        """The points as Arrow tables of at most ``batch_size`` rows, with the columns of ``telemetry_frame``.

        :raises ConfigError: if pyarrow is not installed.
        """
        await anyio.to_thread.run_sync(frames.require, "arrow")
        async for block in self._point_blocks(blocks.points, None, _positive(batch_size)):
            points = frames.Points()
            await anyio.to_thread.run_sync(points.add, block)
            yield await self._named(points)

    # Configurations

    async def config_groups(self, metric: str | None = None, *, most: int | None = None) -> list[ConfigGroup]:
        """The configurations with at least one succeeded trial that gave a finite number, best mean first.

        :param metric: default the first objective. Of a metric that is no objective less is better.
        :param most: how many; default all.
        """
        name = next(iter(self.opt_targets), None) if metric is None else metric
        if name is None:
            return []
        found: defaultdict[int, list[float]] = defaultdict(list)
        after = 0
        while rows := await self._database.read(blocks.scores, self._key, after, _TRIALS_AT_ONCE):
            await anyio.to_thread.run_sync(_collect, rows, name, found)
            after = rows[-1][0]
        chosen = groups.grouped(found, self.opt_targets.get(name, "min"), most)
        params = await self._database.read(blocks.params, [config_id for config_id, _ in chosen])
        return await anyio.to_thread.run_sync(
            lambda: [ConfigGroup.of(pk, values.load(params[pk]), name, numbers) for pk, numbers in chosen]
        )

    async def top(self, k: int = 10) -> list[ConfigGroup]:
        """The ``k`` best configurations by the mean of the first objective, the best first.

        :raises ValueError: if ``k`` is not positive.
        """
        return await self.config_groups(most=_positive(k))

    # Blocks

    async def _trial_blocks(self, size: int) -> AsyncIterator[blocks.Rows]:
        after = 0
        while rows := await self._database.read(blocks.results, self._key, after, size):
            yield rows
            after = rows[-1][0]

    async def _point_blocks(
        self, query: _Points, trial_ids: Sequence[int] | None, size: int
    ) -> AsyncIterator[blocks.Block]:
        for span in await self._spans(trial_ids):
            after = blocks.Key(span.first)
            while (block := await self._database.read(query, self._key, span, after, size)).rows:
                yield block
                after = block.last

    async def _spans(self, trial_ids: Sequence[int] | None) -> Sequence[blocks.Span]:
        if trial_ids is None:
            return [blocks.EVERY_TRIAL]
        spans, unknown = await self._database.read(blocks.spans, self._key, trial_ids)
        if unknown:
            raise NotFound("trial", min(unknown))
        return spans

    async def _points_table(self, trial_ids: Sequence[int] | None) -> Any:
        points = frames.Points()
        async for block in self._point_blocks(blocks.points, trial_ids, _POINTS_AT_ONCE):
            await anyio.to_thread.run_sync(points.add, block)
        return await self._named(points)

    async def _named(self, points: frames.Points) -> Any:
        ids = await anyio.to_thread.run_sync(points.metric_ids)
        names = await self._database.read(blocks.metric_names, ids)
        return await anyio.to_thread.run_sync(points.table, names)


def _positive(count: int) -> int:
    if count < 1:
        raise ValueError(f"expected 1 or more, found {count!r}")
    return count


def _collect(rows: blocks.Rows, metric: str, found: defaultdict[int, list[float]]) -> None:
    for row, metrics in zip(rows, values.load_all([row[2] for row in rows]), strict=True):
        value = groups.number((metrics or {}).get(metric))
        if value is not None:
            found[row[1]].append(value)


def _result_rows(experiment_id: str, rows: blocks.Rows) -> list[ResultRow]:
    *fixed, params, metrics = zip(*rows, strict=True)
    ids, configs, status, attempts, owners, hosts, created, started, ended, failures = fixed
    columns = (
        [experiment_id] * len(rows),
        ids,
        configs,
        map(Status, status),
        attempts,
        owners,
        hosts,
        map(values.from_us, created),
        map(_time, started),
        map(_time, ended),
        failures,
        [one or {} for one in values.load_all(params)],
        values.load_all(metrics),
    )
    return [ResultRow(*row) for row in zip(*columns, strict=True)]


def _time(us: int | None) -> datetime | None:
    return None if us is None else values.from_us(us)


def _telemetry_rows(rows: blocks.Rows, names: Mapping[int, str]) -> list[TelemetryRow]:
    return [
        TelemetryRow(
            combined // blocks.ATTEMPTS,
            combined % blocks.ATTEMPTS,
            Sample(values.from_us(ts_us), names[metric_id], values.unpack(number, text)),
        )
        for combined, ts_us, metric_id, number, text in rows
    ]
