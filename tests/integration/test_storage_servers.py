"""The contract of the storage on real servers, and what only a server can do: go away."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import asyncpg
import pytest
from sqlalchemy import Connection, delete
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncTransaction, create_async_engine

import windtunnel
from tests import servers
from tests.integration.tables import described
from windtunnel import ConfigError, SchemaMismatch, Status, StorageUnavailable
from windtunnel.storage import migrate, open_storage, schema, upgrade_storage
from windtunnel.storage import storage as storage_module
from windtunnel.storage.database import open_database
from windtunnel.storage.urls import parse_url
from windtunnel.testing.storage import SharedStorageContract, StorageContract
from windtunnel.testing.storage_fixtures import LEASE, TARGETS, TUNABLES, claim_one, ended, new, point


@pytest.fixture(scope="module", autouse=True)
def running() -> Iterator[dict[str, str]]:
    """The servers of all tests here: name → URL."""
    with ExitStack() as stack:
        urls = {"postgresql": stack.enter_context(servers.postgresql())}
        if servers.find_mariadb() is not None:
            urls["mariadb"] = stack.enter_context(servers.mariadb())
        yield urls


@pytest.fixture
def postgresql(running: dict[str, str]) -> str:
    return running["postgresql"]


@pytest.fixture
def mariadb(running: dict[str, str]) -> str:
    if "mariadb" not in running:
        pytest.skip("mariadbd is not installed (Debian's package mariadb-server); CI installs it")
    return running["mariadb"]


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> str:
    """Each server in turn."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def own_postgresql() -> Iterator[str]:
    """A server for one test alone."""
    with servers.postgresql() as url:
        yield url


async def emptied(url: str) -> str:
    """The same database without a row: faster than a new one for each test."""
    async with open_storage(url) as storage:  # the first time, it makes the tables
        await storage._database.write(_empty)
    return url


def _empty(connection: Connection) -> None:
    for table in reversed(schema.metadata.sorted_tables):
        if table is not schema.receipt:
            connection.execute(delete(table))


class TestPostgreSQL(StorageContract, SharedStorageContract):
    @pytest.fixture
    async def url(self, postgresql: str) -> str:
        return await emptied(postgresql)


class TestMariaDB(StorageContract, SharedStorageContract):
    @pytest.fixture
    async def url(self, mariadb: str) -> str:
        return await emptied(mariadb)


async def _counted(params: dict[str, Any], emit: Callable[..., Awaitable[None]]) -> dict[str, float]:
    await emit("x", params["x"])
    return {"score": params["x"]}


async def _tuned(url: str, *, trials: int = 150, experiment_id: str = "e") -> windtunnel.Summary:
    return await windtunnel.tune(
        _counted,
        {"g": {"params": {"x": {"type": "int", "range": [0, 9999], "default": 0}}}},
        objectives={"score": "min"},
        optimizer="random",
        trials=trials,
        concurrency=20,
        storage=url,
        experiment_id=experiment_id,
    )


async def _check_complete(url: str, trials: int, experiment_id: str = "e") -> None:
    async with open_storage(url) as storage:
        experiment = await storage.open_experiment(experiment_id)
        found = [record async for record in experiment.trials()]
        assert [record.trial_id for record in found] == list(range(1, trials + 1)), "none lost, none doubled"
        assert {record.status for record in found} == {Status.SUCCEEDED}
        for record in (found[0], found[-1]):
            assert record.metrics is not None
            stored = await experiment.load_telemetry(record.trial_id)
            assert [sample.value for sample in stored] == [record.metrics["score"]]


async def test_connections_that_are_killed_in_mid_run_lose_nothing(server: str) -> None:
    url = await emptied(server)
    kills = 0

    async def kill_again_and_again() -> None:
        nonlocal kills
        async with open_storage(url) as storage:
            while True:
                kills += await storage._database.read(_kill_others)
                await anyio.sleep(0.2)  # a slow machine must get something done in between

    async with anyio.create_task_group() as group:
        group.start_soon(kill_again_and_again)
        summary = await _tuned(url)
        group.cancel_scope.cancel()
    assert summary.succeeded == 150
    assert kills > 0, "it was really struck"
    await _check_complete(url, 150)


def _kill_others(connection: Connection) -> int:
    if connection.dialect.name == "postgresql":
        ask = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND datname = 'windtunnel'"
        )
        return int(connection.exec_driver_sql(ask).scalar_one())
    ask = "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND db = 'windtunnel'"
    ids = connection.exec_driver_sql(ask).scalars().all()
    for one in ids:
        with suppress(DBAPIError):
            connection.exec_driver_sql(f"KILL {int(one)}")
    return len(ids)


async def test_of_very_many_points_only_the_new_ones_are_added(server: str) -> None:
    """Whichever way of writing is the fastest for so many."""
    url, many = await emptied(server), 2000
    async with (
        open_storage(url) as storage,
        storage.experiment(experiment_id="e", tunables=TUNABLES, opt_targets=TARGETS) as experiment,
    ):
        await experiment.add_trials([new()])
        trial = await claim_one(experiment)
        await experiment.record(trial, [point(i, "x", float(i)) for i in range(many)])
        overlapping = [point(i, "x", -1.0) for i in range(many - 1, 2 * many)]
        await experiment.record(trial, [*overlapping, point(0, "text", "ü"), point(0, "text", "twice")])
        stored = await experiment.load_telemetry(trial.trial_id)
    assert [one.value for one in stored if one.metric == "text"] == ["ü"]
    assert [one.value for one in stored if one.metric == "x"] == [*map(float, range(many)), *[-1.0] * many]


async def test_a_copy_whose_connection_is_killed_is_done_again(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, many = await emptied(postgresql), 2000
    copy, kills = asyncpg.Connection.copy_records_to_table, 0

    async def killed(connection: Any, *args: Any, **options: Any) -> Any:
        nonlocal kills
        if kills == 0:
            async with open_storage(url) as other:
                kills += await other._database._channel.read(_kill_others)
        return await copy(connection, *args, **options)

    monkeypatch.setattr(asyncpg.Connection, "copy_records_to_table", killed)
    async with (
        open_storage(url) as storage,
        storage.experiment(experiment_id="e", tunables=TUNABLES, opt_targets=TARGETS) as experiment,
    ):
        await experiment.add_trials([new()])
        trial = await claim_one(experiment)
        await experiment.record(trial, [point(i, "x", float(i)) for i in range(many)])
        stored = await experiment.load_telemetry(trial.trial_id)
    assert kills > 0, "it was really struck"
    assert [one.value for one in stored] == [*map(float, range(many))]


@pytest.mark.parametrize("happened", [True, False])
async def test_a_commit_of_unknown_outcome_is_looked_up(
    postgresql: str, monkeypatch: pytest.MonkeyPatch, happened: bool
) -> None:
    """The connection is lost while the commit is under way: once it had happened, once it had not."""
    url = await emptied(postgresql)
    commit, lost = AsyncTransaction.commit, 0

    async def lose(transaction: AsyncTransaction) -> None:
        nonlocal lost
        if lost == 0:
            lost += 1
            await (commit if happened else AsyncTransaction.rollback)(transaction)
            raise ConnectionResetError("the cable was cut")
        await commit(transaction)

    async with (
        open_storage(url) as storage,
        storage.experiment(experiment_id="e", tunables=TUNABLES, opt_targets=TARGETS) as experiment,
    ):
        monkeypatch.setattr(AsyncTransaction, "commit", lose)
        added = await experiment.add_trials([new(i) for i in range(5)])
        assert lost == 1
        assert [trial.trial_id for trial in added] == [1, 2, 3, 4, 5]
        lost = 0
        claimed = await experiment.claim("w1", limit=3, lease=LEASE)
        assert len(claimed) == 3
        assert (await experiment.counts())[:3] == (5, 2, 3), "each was done exactly once"
        assert await experiment.extend("w1", lease=LEASE) == {t.trial_id: t.token for t in claimed}


async def test_postgresql_restarted_at_once_in_mid_run_loses_nothing(own_postgresql: str) -> None:
    async with anyio.create_task_group() as group:
        done: list[windtunnel.Summary] = []

        async def run() -> None:
            done.append(await _tuned(own_postgresql, trials=1200))

        group.start_soon(run)
        for seen in (200, 600):
            await _until_finished(own_postgresql, seen)
            await anyio.to_thread.run_sync(servers.restart_postgresql, own_postgresql)
    assert done[0].succeeded == 1200
    await _check_complete(own_postgresql, 1200)


async def _until_finished(url: str, number: int) -> None:
    """Wait until so many trials are finished."""
    async with open_storage(url) as storage:
        while True:
            found = await storage.experiments()
            if found and found[0].counts.succeeded >= number:
                return
            await anyio.sleep(0.01)


_WORKER = """
import sys, anyio
from datetime import timedelta
from windtunnel.storage import open_storage
from windtunnel.testing.storage_fixtures import ended

async def work(storage, number):
    experiment = await storage.open_experiment("e")
    while claimed := await experiment.claim(f"{sys.argv[2]}-{number}", limit=2, lease=timedelta(minutes=1)):
        for trial in claimed:
            await experiment.finish(trial, ended(1.0))
            print(trial.trial_id, trial.attempt, flush=True)

async def main():
    async with open_storage(sys.argv[1]) as storage, anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(work, storage, number)

anyio.run(main)
"""


async def test_four_processes_drain_one_queue_without_doubles(server: str) -> None:
    url = await emptied(server)
    async with (
        open_storage(url) as storage,
        storage.experiment(experiment_id="e", tunables=TUNABLES, opt_targets=TARGETS) as experiment,
    ):
        await experiment.add_trials([new(i) for i in range(400)])
        outputs: list[str] = []

        async def worker(number: int) -> None:
            done = await anyio.run_process([sys.executable, "-c", _WORKER, url, str(number)])
            outputs.append(done.stdout.decode())

        async with anyio.create_task_group() as group:
            for number in range(4):
                group.start_soon(worker, number)
        assert (await experiment.counts()).succeeded == 400
    ran = [line.split() for output in outputs for line in output.splitlines()]
    assert sorted(int(trial_id) for trial_id, _ in ran) == list(range(1, 401))
    assert {attempt for _, attempt in ran} == {"1"}


async def test_a_database_that_is_being_made_by_two_is_made_once(own_postgresql: str) -> None:
    async def make() -> None:
        async with open_storage(own_postgresql) as storage:
            assert await storage.experiments() == []

    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(make)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:hunter2@localhost:1/x", "cannot be reached"),
        ("mysql://u:hunter2@127.0.0.1:1/x", "is it running"),
        ("postgresql://u:hunter2@/x?host=/nowhere", "cannot be reached"),
        ("postgresql://u:hunter2@localhost", "name of a database"),
    ],
)
async def test_a_server_that_cannot_be_used_is_explained_without_the_password(url: str, said: str) -> None:
    with pytest.raises(windtunnel.WindtunnelError) as caught:
        async with open_storage(url, patience=timedelta(seconds=0.2)):
            pytest.fail("it was opened")
    assert said in str(caught.value)
    assert "hunter2" not in repr(caught.value)


async def test_a_missing_database_is_told_at_once(postgresql: str, mariadb: str) -> None:
    for url in (postgresql, mariadb):
        with pytest.raises(StorageUnavailable, match="there is no such database; create it first"):
            async with open_storage(url.replace("/windtunnel?", "/nothing?")):
                pytest.fail("it was opened")


async def test_a_missing_driver_is_told_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"needs the driver asyncpg; .*'windtunnel\[postgres\]'"):
        async with open_storage("postgresql://localhost/x"):
            pytest.fail("it was opened")


async def test_an_older_server_is_upgraded_on_request_only(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await emptied(server)
    folder = tmp_path / "migrations"
    await anyio.to_thread.run_sync(shutil.copytree, migrate.FOLDER, folder)
    script = f'revision = "9999"\ndown_revision = "{schema.REVISION}"\n\ndef upgrade():\n    pass\n'
    await anyio.Path(folder / "versions" / "9999_next.py").write_text(script)
    monkeypatch.setattr(migrate, "FOLDER", folder)
    monkeypatch.setattr(storage_module, "REVISION", "9999")
    with pytest.raises(SchemaMismatch, match=r"older than this windtunnel's '9999'.*windtunnel db upgrade"):
        async with open_storage(url):
            pytest.fail("it was opened")
    try:
        async with anyio.create_task_group() as group:  # two at once: one waits for the other
            group.start_soon(upgrade_storage, url)
            group.start_soon(upgrade_storage, url)
        async with open_storage(url) as storage:
            assert await storage.experiments() == []
    finally:
        async with open_database(url, patience=LEASE) as database:
            await database.write(
                lambda c: c.exec_driver_sql(f"UPDATE windtunnel_schema SET version_num = '{schema.REVISION}'")
            )


async def test_a_server_of_the_schema_before_is_upgraded_with_live_rows(server: str) -> None:
    """Its rows are those of the dump that SQLite is upgraded from."""
    url = await emptied(server)
    dump = await anyio.Path(Path(__file__).parent / "schemas" / "0002.sql").read_text(encoding="utf-8")
    scripts = await anyio.to_thread.run_sync(migrate.load)
    engine = create_async_engine(parse_url(url).url)
    try:
        async with engine.begin() as connection:
            fresh = await connection.run_sync(described)
            await connection.run_sync(_drop_all)
            await connection.run_sync(migrate.upgrade, scripts, "0002")
            await connection.run_sync(_insert, dump)
        await upgrade_storage(url)
        async with engine.begin() as connection:
            assert await connection.run_sync(described) == fresh
        async with open_storage(url) as storage:
            first, second = [await storage.open_experiment(name) for name in ("first", "second")]
            assert [score["ms"] for score in (await first.load()).scores if score] == [2.0, 38.5]
            assert [s.value for s in await first.load_telemetry(2)] == [177.0, "warm"]
            claimed = await second.claim("w1", limit=9, lease=LEASE)
            assert {t.trial_id: t.attempt for t in claimed} == {1: 2, 3: 1, 4: 1}
    finally:  # the next test makes the tables again
        async with engine.begin() as connection:
            await connection.run_sync(_drop_all)
        await engine.dispose()


def _drop_all(connection: Connection) -> None:
    schema.metadata.drop_all(connection)
    connection.exec_driver_sql(f"DROP TABLE IF EXISTS {schema.VERSION_TABLE}")


def _insert(connection: Connection, dump: str) -> None:
    """The rows of a dump of SQLite, in an order that references allow."""
    rows = re.findall(r"^INSERT INTO \"(\w+)\" (VALUES.*);$", dump, re.MULTILINE)
    for table in schema.metadata.sorted_tables:
        for name, values in rows:
            if name == table.name:
                connection.exec_driver_sql(f"INSERT INTO {name} {values}")


async def test_many_callers_share_few_connections_without_a_deadlock(server: str) -> None:
    """200 tasks that read and write by turns, over a pool of five connections."""
    url = await emptied(server)
    async with (
        open_storage(url) as storage,
        storage.experiment(experiment_id="e", tunables=TUNABLES, opt_targets=TARGETS) as experiment,
    ):
        await experiment.add_trials([new(i) for i in range(200)])

        async def work(number: int) -> None:
            (trial,) = await experiment.claim(f"w{number}", limit=1, lease=LEASE)
            await experiment.counts()
            assert await experiment.extend(f"w{number}", lease=LEASE) == {trial.trial_id: trial.token}
            await experiment.finish(trial, ended(float(number)))
            assert (await experiment.story(trial.trial_id)).trial.status is Status.SUCCEEDED

        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(work, number)
        assert (await experiment.counts()).succeeded == 200
        assert storage._database.in_use == 0


async def test_a_wrong_password_is_told_at_once_and_never_shown(mariadb: str) -> None:
    with pytest.raises(StorageUnavailable, match="check the user and the password") as caught:
        async with open_storage(mariadb.replace("root@", "root:hunter2@")):
            pytest.fail("it was opened")
    assert "hunter2" not in repr(caught.value)
    assert "hunter2" not in repr(caught.value.__cause__)
