"""What is particular to SQLite files: settings, plans, locks, and files that are not as they should be."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from sqlalchemy import Engine, event

from windtunnel.errors import (
    ConfigError,
    NotADatabase,
    NotFound,
    SchemaMismatch,
    StorageError,
    StorageUnavailable,
)
from windtunnel.model import NewTrial, Status
from windtunnel.storage import Experiment, open_storage, sqlite
from windtunnel.testing.storage_fixtures import (
    LEASE,
    TARGETS,
    TUNABLES,
    StorageFixtures,
    at,
    claim_one,
    ended,
    new,
    point,
)

SHORT = timedelta(milliseconds=50)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.db"


@asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncIterator[Experiment]:
    async with (
        open_storage(f"sqlite:///{path}", **options) as storage,
        storage.experiment(experiment_id="e", tunables=TUNABLES, opt_targets=TARGETS) as experiment,
    ):
        yield experiment


async def _fill(path: Path, trials: int = 5) -> None:
    """A database with this many trials, the first of them done."""
    async with opened(path) as experiment:
        await experiment.add_trials([new(i) for i in range(trials)])
        trial = await claim_one(experiment)
        await experiment.record(trial, [point(1, "m", 1.0)])
        await experiment.finish(trial, ended(7.0))


async def _read_back(path: Path) -> list[dict[str, Any] | None]:
    async with opened(path) as experiment:
        assert len(await experiment.load_telemetry(1)) == 1
        return (await experiment.load()).scores


# Settings and plans


async def test_the_writer_is_durable_and_strict(path: Path) -> None:
    async with open_storage(f"sqlite:///{path}") as storage:
        for pragma, wanted in {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}.items():
            found = await storage._database.write(
                lambda connection, name: connection.exec_driver_sql(f"PRAGMA {name}").scalar(), pragma
            )
            assert found == wanted, pragma


async def test_the_file_itself_is_in_wal_mode(path: Path) -> None:
    await _fill(path)
    assert path.read_bytes()[18:20] == b"\2\2"


class TestPlans(StorageFixtures):
    """No statement of the hot path reads more rows than it needs, with 20 000 trials."""

    @pytest.fixture
    def url(self, path: Path) -> str:
        return f"sqlite:///{path}"

    @pytest.fixture
    def statements(self) -> Iterator[list[tuple[str, Any]]]:
        seen: list[tuple[str, Any]] = []

        def note(_c: object, _cursor: object, sql: str, parameters: Any, _x: object, many: bool) -> None:
            if "FROM trial" in sql or "UPDATE trial" in sql:
                seen.append((sql, parameters[0] if many else parameters))

        event.listen(Engine, "before_cursor_execute", note)
        yield seen
        event.remove(Engine, "before_cursor_execute", note)

    @staticmethod
    def _plans(path: Path, statements: list[tuple[str, Any]]) -> list[str]:
        with closing(sqlite3.connect(path)) as connection:
            plans = [
                " | ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters))
                for sql, parameters in statements
            ]
        assert plans
        return plans

    @pytest.fixture
    def many(self) -> list[NewTrial]:
        """Made before the loop runs, which that would hold up."""
        return [new(i) for i in range(20_000)]

    async def test_claiming(
        self, path: Path, experiment: Experiment, statements: list[tuple[str, Any]], many: list[NewTrial]
    ) -> None:
        await experiment.add_trials(many)
        statements.clear()
        trials = await experiment.claim("w1", limit=50, lease=LEASE)
        reaping, claiming = self._plans(path, statements)
        assert "ix_trial_lease (experiment=? AND lease_until_us<?)" in reaping
        assert "ix_trial_queue (experiment=?)" in claiming
        assert "SEARCH trial USING PRIMARY KEY (experiment=? AND trial_id=?)" in claiming
        assert "TEMP B-TREE" not in claiming

        statements.clear()
        await experiment.extend("w1", lease=LEASE)
        assert all("ix_trial_lease (experiment=?" in plan for plan in self._plans(path, statements))

        statements.clear()
        await experiment.record(trials[0], [point(1, "m", 1.0)])
        await experiment.finish(trials[0], ended())
        await experiment.release(trials[1], reason="test")
        for plan in self._plans(path, statements):
            assert "PRIMARY KEY (experiment=? AND trial_id=?)" in plan
            assert "SCAN" not in plan

    async def test_listing(
        self, path: Path, experiment: Experiment, statements: list[tuple[str, Any]]
    ) -> None:
        await experiment.add_trials([new(i) for i in range(1000)])
        await experiment.claim("w1", limit=5, lease=LEASE)
        statements.clear()
        assert len([t async for t in experiment.pending_trials(at(0), running=True)]) == 1000
        *waiting, running, rest = self._plans(path, statements)
        assert len(waiting) == 5
        for plan in waiting:
            assert "ix_trial_queue (experiment=?" in plan
            assert "TEMP B-TREE" not in plan
        assert "ix_trial_lease" in running
        assert "ix_trial_lease" in rest

    async def test_counting_and_comparing(
        self, path: Path, experiment: Experiment, statements: list[tuple[str, Any]]
    ) -> None:
        await experiment.add_trials([new()])
        await experiment.finish(await claim_one(experiment), ended())
        statements.clear()
        await experiment.counts()
        await experiment.best()
        for plan in self._plans(path, statements):
            assert "SCAN trial" not in plan
            assert "USING COVERING INDEX ix_trial_" in plan or "(experiment=? AND " in plan

    async def test_what_others_did(
        self, path: Path, experiment: Experiment, statements: list[tuple[str, Any]]
    ) -> None:
        added = await experiment.add_trials([new(i) for i in range(100)])
        for trial in await experiment.claim("w1", limit=50, lease=LEASE):
            await experiment.finish(trial, ended(), host="h1")
        statements.clear()
        assert await experiment.hosts_of([added[7].config_id]) == {added[7].config_id: {"h1"}}
        (hosts,) = self._plans(path, statements)
        assert "COVERING INDEX ix_trial_host (experiment=? AND config_id=?" in hosts
        assert "SEARCH trial_attempt USING PRIMARY KEY (experiment=?)" in hosts
        assert "SEARCH trial USING PRIMARY KEY (experiment=? AND trial_id=?)" in hosts

        statements.clear()
        await experiment.outcomes([3, 5])
        await experiment.failed_attempts(3)
        assert len(await experiment.runs()) == 50
        for plan in self._plans(path, statements):
            assert "PRIMARY KEY (experiment=? AND trial_id" in plan
            assert "SCAN" not in plan


# Locks


async def test_a_locked_file_is_waited_for_and_then_named(path: Path) -> None:
    await _fill(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(
            StorageUnavailable, match=r"test\.db: database is locked: another program"
        ) as caught:
            async with opened(path, patience=SHORT):
                pytest.fail("it was opened")
        assert "close that program" in str(caught.value)
    assert await _read_back(path) == [{"score": 7.0}]


async def test_a_new_file_that_is_locked_is_waited_for_too(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StorageUnavailable, match="database is locked"):
            async with opened(path, patience=SHORT):
                pytest.fail("it was opened")


async def test_a_lock_that_is_released_in_time_is_survived(path: Path) -> None:
    async with opened(path) as experiment, anyio.create_task_group() as tasks:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            tasks.start_soon(experiment.add_trials, [new()])
            await anyio.wait_all_tasks_blocked()
            assert (await experiment.counts()).total == 0  # readers are not held up
            other.execute("ROLLBACK")
    assert len(await _read_ids(path)) == 1


async def test_patience_goes_beyond_what_sqlite_waits(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite, "_BUSY_S", 0.01)
    caplog.set_level(logging.DEBUG, "windtunnel.storage")
    async with opened(path) as experiment, anyio.create_task_group() as tasks:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            tasks.start_soon(experiment.add_trials, [new()])
            with anyio.fail_after(5):
                while caplog.text.count("trying again") < 3:
                    await anyio.sleep(0.005)
            other.execute("ROLLBACK")
    assert len(await _read_ids(path)) == 1
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1, "once is enough for an operator"


async def test_a_failing_disk_is_not_taken_for_a_lock(tmp_path: Path) -> None:
    """The file's own name is part of each message."""
    path = tmp_path / "locked.db"
    async with opened(path) as experiment:
        await _limit_pages(experiment, 0)
        with anyio.fail_after(2), pytest.raises(StorageUnavailable, match="disk is full"):
            await experiment.add_trials([new(i) for i in range(5000)])


async def _read_ids(path: Path) -> list[int]:
    async with opened(path) as experiment:
        return [trial.trial_id async for trial in experiment.pending_trials(at(0), running=True)]


# Files that are not as they should be


@pytest.mark.parametrize("content", [b"hello\n", b"name,value\n" * 1000])
async def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(NotADatabase, match=r"test\.db: file is not a database: .* choose another file"):
        async with opened(path):
            pytest.fail("it was opened")
    assert path.read_bytes() == content


async def test_a_damaged_database_is_named_as_such(path: Path) -> None:
    await _fill(path, trials=2000)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(NotADatabase, match=r"test\.db: .*malformed.*damaged.*integrity_check"):
        async with opened(path) as experiment:
            await experiment.load()
    assert path.read_bytes() == bytes(content)


async def test_an_empty_file_becomes_a_database(path: Path) -> None:
    path.touch()
    await _fill(path)
    assert await _read_back(path) == [{"score": 7.0}]


async def test_another_programs_database_is_not_touched(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE notes (text)")
        other.execute("INSERT INTO notes VALUES ('mine')")
        other.commit()
    before = path.read_bytes()
    with pytest.raises(SchemaMismatch, match=r"test\.db: it holds another program's tables \(notes\)"):
        async with opened(path):
            pytest.fail("it was opened")
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (
            "UPDATE windtunnel_schema SET version_num = '9999'",
            "'9999' is newer .* install a newer windtunnel",
        ),
        ("DELETE FROM windtunnel_schema", "windtunnel_schema is empty"),
    ],
)
async def test_a_schema_we_do_not_know_is_refused(path: Path, statement: str, said: str) -> None:
    await _fill(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute(statement)
        other.commit()
    with pytest.raises(SchemaMismatch, match=rf"test\.db: .*{said}"):
        async with opened(path):
            pytest.fail("it was opened")


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"there is no folder '.*/nowhere'; create it first"):
        async with opened(tmp_path / "nowhere" / "test.db"):
            pytest.fail("it was opened")


async def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable, match="is a folder; name a file"):
        async with opened(tmp_path):
            pytest.fail("it was opened")


async def test_the_folder_a_program_moves_to_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    async with open_storage("sqlite:///here.db") as storage:
        monkeypatch.chdir(tmp_path / "elsewhere")
        async with storage.experiment(
            experiment_id="e", tunables=TUNABLES, opt_targets=TARGETS
        ) as experiment:
            await experiment.add_trials([new()])
            listings = [experiment.pending_trials(at(0), running=False) for _ in range(3)]
            assert [len([t async for t in listing]) for listing in listings] == [1, 1, 1]
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.fixture
def anybodys() -> Iterator[Path]:
    """A folder in which permissions bind, also when the tests are run by root."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
        os.seteuid(os.getuid())
        Path(name).chmod(0o700)


def _become_anybody() -> None:
    if os.geteuid() == 0:
        os.seteuid(65534)


async def test_a_file_that_may_not_be_written_is_named(anybodys: Path) -> None:
    path = anybodys / "test.db"
    await _fill(path)
    path.chmod(0o444)
    anybodys.chmod(0o777)
    before = path.read_bytes()
    _become_anybody()
    async with open_storage(f"sqlite:///{path}") as storage:
        assert [one.counts.succeeded for one in await storage.experiments()] == [1]  # reading is fine
        with pytest.raises(
            StorageUnavailable, match=r"test\.db: .*readonly.*it is read-only; change its perm"
        ):
            async with storage.experiment(experiment_id="f", tunables=TUNABLES, opt_targets=TARGETS):
                pytest.fail("it was written")
    assert path.read_bytes() == before


async def test_a_folder_that_may_not_be_written_is_named(anybodys: Path) -> None:
    anybodys.chmod(0o555)
    _become_anybody()
    with pytest.raises(
        StorageUnavailable, match=r"test\.db: unable to open database file: .* may be written"
    ):
        async with opened(anybodys / "test.db"):
            pytest.fail("it was opened")


async def _limit_pages(experiment: Experiment, more: int) -> None:
    """Let the file grow by this many pages and no more, as a disk that is nearly full does."""

    def limit(connection: Any) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + more}")

    await experiment._database.write(limit)


async def test_a_full_disk_loses_nothing_that_was_finished(path: Path) -> None:
    await _fill(path)

    async def add_many(experiment: Experiment) -> None:
        for size in range(100):
            await experiment.add_trials([new(size * 1000 + i) for i in range(100)])

    async with opened(path) as experiment:
        await _limit_pages(experiment, 3)
        with pytest.raises(StorageUnavailable, match=r"test\.db: .*disk is full.*make room and run again"):
            await add_many(experiment)
        held = await claim_one(experiment)  # what needs no room goes on
        assert held.status is Status.RUNNING
        before = await experiment.counts()
        await _limit_pages(experiment, 10_000)
        await experiment.add_trials([new()])  # and so does everything when there is room again
        assert (await experiment.counts()).total == before.total + 1
    assert await _read_back(path) == [{"score": 7.0}]


async def test_a_writer_in_the_way_of_its_trials_is_a_storage_error(path: Path) -> None:
    async with opened(path) as experiment:
        await experiment.add_trials([new()])
        trial = await claim_one(experiment)
        with closing(sqlite3.connect(path)) as other:
            other.execute("DROP TABLE telemetry")
            other.commit()
        with pytest.raises(StorageError, match=r"test\.db: no such table: telemetry"):
            await experiment.record(trial, [point(1, "m", 1.0)])
        await experiment.finish(trial, ended())


# URLs


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "expected a URL such as sqlite:///windtunnel.db, found ''"),
        ("test.db", "expected a URL such as sqlite:///windtunnel.db, found 'test.db'"),
        ("sqllite:///test.db", "found one of 'sqllite', which is not supported; did you mean 'sqlite'"),
        ("oracle://user:secret@host/db", "found one of 'oracle', which is not supported"),
        ("postgresql://user:secret@host:port/db", r"found 'postgresql://\*\*\*@host:port/db'"),
        ("postgresql//user:secret@host/db", r"found 'postgresql//\*\*\*@host/db'"),
        ("user:se/cret@host", r"found '.*\*\*\*@host'"),
        ("oracle://host/db?password=secret", "found one of 'oracle'"),
        ("sqlite://test.db", "expected three slashes before a relative path"),
        ("sqlite:///test.db?mode=ro", r"takes no options, found \['mode'\]"),
    ],
)  # fmt: skip
async def test_a_url_that_cannot_be_used_is_explained(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        async with open_storage(url):
            pytest.fail("it was opened")
    assert str(caught.value).startswith("storage: ")
    assert "secret" not in str(caught.value)
    assert "cret@" not in str(caught.value)


async def test_a_storage_knows_its_place(path: Path) -> None:
    async with open_storage(f"sqlite+aiosqlite:///{path}") as storage:
        assert storage.place == f"sqlite:///{path}"


# Cancellation


async def _read(experiment: Experiment) -> None:
    await experiment.load()
    await experiment.counts()
    await experiment.load_telemetry(1)


async def _torn_by_scope(steps: int, experiment: Experiment) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_read, experiment)
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()


async def _torn_by_asyncio(steps: int, experiment: Experiment) -> None:
    """As ``asyncio.wait_for`` and other foreign code does it, which knows nothing of our shields."""
    task = asyncio.ensure_future(_read(experiment))
    for _ in range(steps):
        await anyio.lowlevel.checkpoint()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("tear", [_torn_by_scope, _torn_by_asyncio])
@pytest.mark.parametrize("in_memory", [False, True])
async def test_readers_torn_away_at_any_step_give_their_connection_back(
    path: Path, tear: Callable[[int, Experiment], Awaitable[None]], in_memory: bool
) -> None:
    async with opened(Path(":memory:") if in_memory else path) as experiment:
        await experiment.add_trials([new()])
        await experiment.finish(await claim_one(experiment), ended())
        for steps in range(40):
            await tear(steps, experiment)
        assert (await experiment.load()).trial_ids == [1]
        while experiment._database.in_use:  # asyncio leaves a thread that ends by itself
            await anyio.lowlevel.checkpoint()
