"""Reading much: a fixed number of statements, indexes used, and what is said when a library is missing."""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, event

from windtunnel.errors import ConfigError
from windtunnel.storage import Experiment, Storage, blocks, open_storage
from windtunnel.testing.storage_fixtures import LEASE, TARGETS, TUNABLES, at, ended, new, point


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
async def storage(file: Path) -> AsyncIterator[Storage]:
    async with open_storage(f"sqlite:///{file}") as opened:
        yield opened


@pytest.fixture
async def experiment(storage: Storage) -> AsyncIterator[Experiment]:
    async with storage.experiment(experiment_id="e", tunables=TUNABLES, opt_targets=TARGETS) as opened:
        yield opened


@pytest.fixture
def statements() -> Iterator[list[tuple[str, object]]]:
    """The statements that run, with their parameters."""
    seen: list[tuple[str, object]] = []

    def keep(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        seen.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", keep)
    yield seen
    event.remove(Engine, "before_cursor_execute", keep)


async def finish(experiment: Experiment, count: int) -> None:
    await experiment.add_trials([new(i) for i in range(count)])
    for trial in await experiment.claim("w", limit=count, lease=LEASE):
        await experiment.finish(trial, ended(1.0))


async def test_load_takes_as_many_statements_for_many_trials_as_for_few(
    storage: Storage, experiment: Experiment, statements: list[tuple[str, object]]
) -> None:
    async with storage.experiment(experiment_id="b", tunables=TUNABLES, opt_targets=TARGETS) as other:
        await finish(other, 3)
        await experiment.merge(["b"])
        taken: list[int] = []
        for count in (3, 2000):
            await finish(experiment, count)
            statements.clear()
            await experiment.load()
            taken.append(len(statements))
        assert len((await experiment.load()).trial_ids) == 2006
        assert taken[0] == taken[1] <= 6


async def test_a_listing_takes_as_many_statements_for_many_experiments_as_for_few(
    storage: Storage, statements: list[tuple[str, object]]
) -> None:
    taken: list[int] = []
    for names in ("ab", "cdefghij"):
        for name in names:
            async with storage.experiment(
                experiment_id=name, tunables=TUNABLES, opt_targets={"score": "min" if name < "d" else "max"}
            ) as made:
                await made.add_trials([new(1), new(1), new(2), new(3)])
                for trial, score in zip(await made.claim("w", limit=3, lease=LEASE), (1, 4, 3), strict=True):
                    await made.finish(trial, ended(score))
        statements.clear()
        listed = await storage.experiments()
        taken.append(len(statements))
    assert [(one.experiment_id, one.best and one.best.trial_id) for one in listed] == [
        *((name, 1) for name in "abc"),
        *((name, 3) for name in "defghij"),
    ]
    assert taken[1] <= taken[0] + 2, "a transaction more for the other direction"


async def test_points_are_found_by_the_primary_key(
    file: Path, experiment: Experiment, statements: list[tuple[str, object]]
) -> None:
    await experiment.add_trials([new()])
    (trial,) = await experiment.claim("w", limit=1, lease=LEASE)
    await experiment.record(trial, [point(i, "m", i) for i in range(10)])
    statements.clear()
    assert [len(batch) async for batch in experiment.stream_telemetry([1], batch_size=4)] == [4, 4, 2]
    assert len(_telemetry_reads(statements)) == 4
    assert [len(table) async for table in experiment.stream_telemetry_tables(batch_size=4)] == [4, 4, 2]
    reads = _telemetry_reads(statements)
    with closing(sqlite3.connect(file)) as connection:
        for sql, values in reads:
            plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values))  # type: ignore[arg-type]  # as the driver took them
            assert "SEARCH telemetry USING PRIMARY KEY (experiment=? AND" in plan
            assert "ts_us,metric_id)>" in plan
            assert "TEMP B-TREE" not in plan


async def test_attempts_with_few_points_are_read_together(
    experiment: Experiment, statements: list[tuple[str, object]]
) -> None:
    await experiment.add_trials([new(i) for i in range(20)])
    for trial in await experiment.claim("w", limit=20, lease=LEASE):
        await experiment.record(trial, [point(0, "m", 1)])
    statements.clear()
    assert len(await experiment.telemetry_frame(library="arrow")) == 20
    assert len(_telemetry_reads(statements)) <= 4


async def test_metrics_with_large_ids_are_told_apart(file: Path, experiment: Experiment) -> None:
    largest = blocks.METRICS - 1  # that fits
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("INSERT INTO metric (id, name) VALUES (?, 'fits')", [largest])
    await experiment.add_trials([new(0), new(1)])
    first, second = await experiment.claim("w", limit=2, lease=LEASE)
    await experiment.record(first, [point(i, "fits", i) for i in range(6)])
    await experiment.record(second, [point(i, name, i) for i in range(3) for name in ("fits", "beyond")])
    async for table in experiment.stream_telemetry_tables(batch_size=6):
        found = table.to_pydict()
        (trial_id,) = set(found["trial_id"])
        names = ["fits"] * 6 if trial_id == first.trial_id else ["fits", "beyond"] * 3
        seconds = [*range(6)] if trial_id == first.trial_id else [0, 0, 1, 1, 2, 2]
        assert found["metric"] == names
        assert found["timestamp"] == [at(i) for i in seconds]
        assert found["value"] == seconds


def _telemetry_reads(statements: list[tuple[str, object]]) -> list[tuple[str, object]]:
    return [(sql, values) for sql, values in statements if "FROM telemetry" in sql]


@pytest.mark.parametrize(
    ("library", "module"), [("pandas", "pandas"), ("polars", "polars"), ("arrow", "pyarrow")]
)
async def test_a_missing_library_says_what_to_install(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, library: str, module: str
) -> None:
    def without(name: str) -> object:
        if name == module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ConfigError, match=rf"need {module}.*pip install 'windtunnel\[{library}\]'"):
        await experiment.results_frame(library)  # type: ignore[call-overload]  # one of the three
