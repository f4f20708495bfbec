"""Copying and importing across the databases: SQLite, PostgreSQL and MariaDB give and take the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from sqlalchemy import MetaData, Table, create_engine, event, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from tests import servers
from tests.integration.test_copying import contents, fill, url
from tests.integration.test_import_mlos import NOON, Lab
from windtunnel.storage import open_storage
from windtunnel.storage.copying import copy_storage
from windtunnel.storage.importing import import_mlos
from windtunnel.storage.urls import parse_url


@pytest.fixture(scope="module")
def running() -> Iterator[list[str]]:
    """The URLs of the servers."""
    with ExitStack() as stack:
        urls = [stack.enter_context(servers.postgresql())]
        if servers.find_mariadb() is not None:
            urls.append(stack.enter_context(servers.mariadb()))
        yield urls


async def test_a_copy_through_every_database_comes_back_equal(running: list[str], tmp_path: Path) -> None:
    first, last = tmp_path / "first.db", tmp_path / "last.db"
    await fill(first)
    await fill(first, "größer")
    steps = [url(first), *running, url(last)]
    for source, target in pairwise(steps):
        copied = await copy_storage(source, target)
        assert [(one.new, one.points) for one in copied] == [(7, 41), (7, 41)]
        again = await copy_storage(source, target)
        assert [(one.new, one.updated, one.points) for one in again] == [(0, 0, 0), (0, 0, 0)]
    assert contents(last) == contents(first)


async def test_an_import_into_every_server(running: list[str], tmp_path: Path) -> None:
    lab = Lab(tmp_path / "mlos.sqlite")
    lab.config(1, x="1.5", y="ü")
    lab.trial(1, 1, score="2.5")
    lab.trial(2, 1, "RUNNING")
    lab.telemetry((1, NOON, "cpu", "0.5"), (1, NOON, "state", "warm"))
    for server in running:
        (done,) = await import_mlos(lab.url, server)
        assert (done.new, done.points) == (2, 2)
        (again,) = await import_mlos(lab.url, server)
        assert (again.new, again.updated, again.points) == (0, 0, 0)
        async with open_storage(server) as storage:
            experiment = await storage.open_experiment("exp")
            assert (await experiment.load()).scores == [{"score": 2.5}]
            assert [one.value for one in await experiment.load_telemetry(1)] == [0.5, "warm"]
            assert (await experiment.enqueue(best_with={})).trial_id == 3
            await storage.delete_experiment("exp")


async def test_an_import_from_every_server(running: list[str], tmp_path: Path) -> None:
    lab = Lab(tmp_path / "mlos.sqlite")
    lab.config(1, x="1.5", y="ü")
    lab.trial(1, 1, score="2.5")
    lab.trial(2, 1, "RUNNING")
    lab.add("trial_param", ("exp", 1, "is_defaults", "True"))
    lab.add("trial_status", ("exp", 1, NOON, "SUCCEEDED"))
    lab.telemetry((1, NOON, "cpu", "0.5"), (1, NOON, "cpu", "0.5"), (1, NOON, "state", "warm"))
    for position, server in enumerate(running):
        source, target = server.replace("/windtunnel?", "/lab?"), url(tmp_path / f"{position}.db")
        await _move(lab, server, source)
        (done,) = await import_mlos(source, target)
        assert (done.new, done.points) == (2, 2)
        (again,) = await import_mlos(source, target)
        assert (again.new, again.updated, again.points) == (0, 0, 0)
        async with open_storage(target) as storage:
            experiment = await storage.open_experiment("exp")
            history = await experiment.load()
            assert (history.trial_ids, history.scores) == ([1], [{"score": 2.5}])
            assert history.configs == [{"x": 1.5, "y": "ü"}]
            assert [one.status.name async for one in experiment.trials()] == ["SUCCEEDED", "PENDING"]
            times = {one.timestamp for one in await experiment.load_telemetry(1)}
            assert times == {datetime.fromisoformat(NOON).replace(tzinfo=UTC)}
            assert [one.value for one in await experiment.load_telemetry(1)] == [0.5, "warm"]


async def _move(lab: Lab, server: str, source: str) -> None:
    """Make the database ``source`` on the server, with the tables and rows of the lab."""
    tables, rows = await anyio.to_thread.run_sync(_everything, lab)
    here = create_async_engine(parse_url(server).url, isolation_level="AUTOCOMMIT")
    async with here.connect() as creating:
        await creating.execute(text("CREATE DATABASE lab"))
    await here.dispose()
    there = create_async_engine(parse_url(source).url)
    async with there.begin() as filling:
        await filling.run_sync(tables.create_all)
        for table, found in rows.items():
            await filling.execute(table.insert(), found)
    await there.dispose()


def _everything(lab: Lab) -> tuple[MetaData, dict[Table, list[dict[str, Any]]]]:
    """The tables of the lab, and the rows of those that have some."""
    tables, engine = MetaData(), create_engine(lab.url)
    event.listen(tables, "column_reflect", _portable)
    with engine.connect() as connection:
        tables.reflect(connection)
        rows = {table: connection.execute(select(table)).mappings() for table in tables.sorted_tables}
        found = {table: [dict(row) for row in some] for table, some in rows.items()}
    engine.dispose()
    return tables, {table: some for table, some in found.items() if some}


def _portable(_inspector: object, _table: object, column: Any) -> None:
    """The type as mlos_bench has it on a server."""
    column["type"] = column["type"].as_generic()
    if getattr(column["type"], "length", None) == 512:
        column["type"].length = 255  # what MariaDB can have in a key
