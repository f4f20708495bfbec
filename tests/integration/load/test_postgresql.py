"""Real SQL by asyncpg, in a user's own Python file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest

from tests import servers
from windtunnel.loadgen.generators import run_load
from windtunnel.loadgen.result import Result, SecondRecord

QUERIES = """
import contextlib, os
import asyncpg

@contextlib.asynccontextmanager
async def resource():
    async with asyncpg.create_pool(os.environ["DATABASE"], min_size=2, max_size=8) as pool:
        yield pool

async def visit(call):
    insert = "INSERT INTO visits VALUES ($1, $2) RETURNING number"
    assert await call.resource.fetchval(insert, call.number, call.row["who"]) == call.number

async def break_it(call):
    await call.resource.execute("SELECT 1 / 0")

async def sleep(call):
    await call.resource.execute("SELECT pg_sleep(60)")
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with servers.postgresql() as url:
        yield url


@pytest.fixture
async def database(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A connection to a database with an empty table; beside it ``queries.py`` in ``tmp_path``."""
    (tmp_path / "queries.py").write_text(QUERIES)
    (tmp_path / "people.csv").write_text("who\nann\nbob\n")
    monkeypatch.setenv("DATABASE", url)
    connection = await asyncpg.connect(url)
    await connection.execute("DROP TABLE IF EXISTS visits; CREATE TABLE visits (number int, who text)")
    yield connection
    await connection.close()


async def run(directory: Path, *functions: str, **options: Any) -> Result:
    scenarios = [{"name": name, "function": f"queries.py:{name}"} for name in functions]
    plan = {"scenarios": scenarios, "resource": "queries.py:resource", "data": "people.csv"}
    watch = options.pop("watch", None)
    return await run_load({**plan, **options}, directory=directory, watch=watch)


async def test_rows_are_as_many_as_answers(database: Any, tmp_path: Path) -> None:
    result = await run(tmp_path, "visit", "break_it", rate=200, duration="2s", workers=2)
    rows = await database.fetch("SELECT number, who FROM visits")
    assert result.offered == result.total.sent == 400
    assert result.total.errors == {"exception": 400 - len(rows)}
    assert "DivisionByZeroError: division by zero" in result.total.messages["exception"]
    assert result.total.completed == result.total.steps["visit"].count == len(rows)
    assert 130 < len(rows) < 270  # every other one, by chance
    # No arrival was done twice, and each had the row of the data that is its own.
    assert len({row["number"] for row in rows}) == len(rows)
    assert all(row["who"] == ("ann", "bob")[row["number"] % 2] for row in rows)


async def test_table_that_is_locked_for_a_second_is_seen_by_those_who_were_due(
    database: Any, tmp_path: Path
) -> None:
    async def lock() -> None:
        async with database.transaction():
            await database.execute("LOCK TABLE visits IN ACCESS EXCLUSIVE MODE")
            await anyio.sleep(1)

    async def in_second_1(second: SecondRecord) -> None:
        if second.second == 0:
            tasks.start_soon(lock)

    async with anyio.create_task_group() as tasks:
        result = await run(tmp_path, "visit", rate=100, duration="4s", watch=in_second_1)
    assert await database.fetchval("SELECT count(*) FROM visits") == result.total.completed == 400
    assert result.total.latency.quantile(1) >= 900_000_000
    assert [one.offered for one in result.seconds][:4] == [100] * 4


async def test_query_that_takes_too_long_is_ended_on_the_server(database: Any, tmp_path: Path) -> None:
    result = await run(tmp_path, "sleep", rate=20, duration="500ms", timeout="300ms")
    assert result.total.errors == {"timeout": 10}
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'"
    with anyio.fail_after(10):
        while await database.fetchval(asleep):
            await anyio.sleep(0.05)
