"""The migrations and the tables say the same, and an older database is upgraded when it is opened."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from sqlalchemy import Connection, Engine, create_engine, event, inspect

from tests.integration.tables import described
from windtunnel.storage import maintenance, migrate, open_storage, schema
from windtunnel.storage import storage as storage_module
from windtunnel.testing.storage_fixtures import LEASE, TARGETS, TUNABLES, claim_one, ended, new

_SECOND = f"""
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{schema.REVISION}"

def upgrade():
    op.add_column("experiment", sa.Column("note", sa.Text()))
"""


def _engine(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}")

    @event.listens_for(engine, "connect")
    def _no_implicit_begin(connection: Any, _record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _described(engine: Engine) -> dict[str, object]:
    """All that the database says of its tables."""
    with engine.connect() as connection:
        tables = described(connection)
        kinds = connection.exec_driver_sql("PRAGMA table_list").mappings()
        for row in kinds:
            if row["name"] in tables:
                tables[row["name"]]["without rowid"] = row["wr"]
        counting = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE '%AUTOINCREMENT%'"
        for name in connection.exec_driver_sql(counting).scalars():
            tables[name]["ids are never reused"] = True
    return dict(tables)


def test_the_migrations_give_the_schema(tmp_path: Path) -> None:
    made, migrated = _engine(tmp_path / "made.db"), _engine(tmp_path / "migrated.db")
    with made.begin() as connection:
        maintenance.create(connection)
    with migrated.begin() as connection:
        migrate.upgrade(connection, migrate.load())
    assert _described(migrated) == _described(made)
    with made.connect() as one, migrated.connect() as other:
        queue = "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY name"
        indexes = one.exec_driver_sql(queue).scalars().all()
        assert other.exec_driver_sql(queue).scalars().all() == indexes
        assert any("priority DESC" in str(sql) and "WHERE status = 1" in str(sql) for sql in indexes)
    made.dispose()
    migrated.dispose()


def test_the_newest_revision_is_the_schemas() -> None:
    assert migrate.load().get_current_head() == schema.REVISION
    assert schema.REVISION in migrate.revisions(migrate.load())


def _migrate(path: Path) -> None:
    engine = _engine(path)
    with engine.begin() as connection:
        migrate.upgrade(connection, migrate.load())
    engine.dispose()


async def test_a_migrated_database_opens_and_works(tmp_path: Path) -> None:
    await anyio.to_thread.run_sync(_migrate, tmp_path / "test.db")
    async with (
        open_storage(f"sqlite:///{tmp_path / 'test.db'}") as storage,
        storage.experiment(experiment_id="e", tunables=TUNABLES, opt_targets=TARGETS) as experiment,
    ):
        await experiment.add_trials([new()])
        await experiment.finish(await claim_one(experiment), ended())
        assert (await experiment.counts()).succeeded == 1


def _release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    """Make this windtunnel one whose schema is 9999."""
    folder = tmp_path / "migrations"
    shutil.copytree(migrate.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "9999_second.py").write_text(script)
    monkeypatch.setattr(migrate, "FOLDER", folder)
    monkeypatch.setattr(storage_module, "REVISION", "9999")


async def _fill(url: str) -> None:
    async with (
        open_storage(url) as storage,
        storage.experiment(experiment_id="e", tunables=TUNABLES, opt_targets=TARGETS) as experiment,
    ):
        await experiment.add_trials([new(i) for i in range(10)])
        await experiment.finish(await claim_one(experiment), ended(3.0))


def _columns_and_revision(path: Path) -> tuple[set[str], str]:
    engine = _engine(path)
    with engine.connect() as connection:
        columns = {column["name"] for column in inspect(connection).get_columns("experiment")}
        revision = maintenance.revision_of(connection)
    engine.dispose()
    assert revision is not None
    return columns, revision


async def test_an_older_database_is_upgraded_with_its_data(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _fill(url)
    _release(monkeypatch, tmp_path, _SECOND)
    for _ in range(2):  # the second time there is nothing to be done
        async with open_storage(url) as storage:
            experiment = await storage.open_experiment("e")
            assert (await experiment.load()).scores == [{"score": 3.0}]
            assert (await claim_one(experiment)).attempt == 1
    columns, revision = await anyio.to_thread.run_sync(_columns_and_revision, tmp_path / "test.db")
    assert "note" in columns
    assert revision == "9999"


@pytest.mark.parametrize("released", ["0001", "0002", "0003"])
async def test_every_released_schema_is_upgraded_with_live_rows(
    url: str, tmp_path: Path, released: str
) -> None:
    """The files are dumps of databases that the released code wrote, with trials in every state."""
    script = (Path(__file__).parent / "schemas" / f"{released}.sql").read_text(encoding="utf-8")
    await anyio.to_thread.run_sync(_restore, tmp_path / "test.db", script)
    async with open_storage(url) as storage:
        first = await storage.open_experiment("first")
        history = await first.load()
        assert history.trial_ids == [1, 2, 3, 4, 5, 6]
        assert [score["ms"] for score in history.scores if score] == [2.0, 38.5]
        assert [s.value for s in await first.load_telemetry(2)] == [177.0, "warm"]
        second = await storage.open_experiment("second")
        counts = await second.counts()
        assert (counts.pending, counts.running) == (3, 1)
        claimed = await second.claim("w1", limit=9, lease=LEASE)
        assert {t.trial_id: t.attempt for t in claimed} == {1: 2, 3: 1, 4: 1}
        await storage.delete_experiment("second", force=True)
        async with storage.experiment(experiment_id="third", tunables=TUNABLES, opt_targets=TARGETS) as third:
            assert third._key == 3
    fresh, upgraded = tmp_path / "fresh.db", tmp_path / "test.db"
    async with open_storage(f"sqlite:///{fresh}"):
        pass
    assert await anyio.to_thread.run_sync(_shape, upgraded) == await anyio.to_thread.run_sync(_shape, fresh)


def _restore(path: Path, script: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(script)
    connection.close()


def _shape(path: Path) -> dict[str, object]:
    engine = _engine(path)
    described = _described(engine)
    engine.dispose()
    return described


async def test_a_migration_that_fails_changes_nothing(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _fill(url)
    with monkeypatch.context() as newer:
        _release(newer, tmp_path, f"{_SECOND}    raise RuntimeError('half way')\n")
        with pytest.raises(RuntimeError, match="half way"):
            async with open_storage(url):
                pytest.fail("it was opened")
    columns, revision = await anyio.to_thread.run_sync(_columns_and_revision, tmp_path / "test.db")
    assert "note" not in columns
    assert revision == schema.REVISION
    async with open_storage(url) as storage:
        experiment = await storage.open_experiment("e")
        assert len(await experiment.claim("w1", limit=99, lease=LEASE)) == 9


_STALL = """
import sqlite3, sys
import anyio
from windtunnel.errors import SchemaMismatch
from windtunnel.storage import open_storage
from windtunnel.testing.detectors import Stalls

async def main():
    stalls = Stalls()
    async with open_storage("sqlite:///" + sys.argv[1]):
        pass
    assert "alembic" not in sys.modules, "loaded for a database that needs no upgrade"
    with sqlite3.connect(sys.argv[1]) as connection:
        connection.execute("UPDATE windtunnel_schema SET version_num = '9999'")
    connection.close()
    stalls.start()
    try:
        async with open_storage("sqlite:///" + sys.argv[1]):
            pass
    except SchemaMismatch:
        pass
    await anyio.sleep(0.02)
    stalls.stop()
    assert "alembic" in sys.modules
    print(stalls.worst_s)

anyio.run(main)
"""


async def test_an_upgraded_database_checks_references_again(url: str, tmp_path: Path) -> None:
    """The upgrade runs without: a table that others refer to is put in another's place."""
    script = (Path(__file__).parent / "schemas" / "0002.sql").read_text(encoding="utf-8")
    await anyio.to_thread.run_sync(_restore, tmp_path / "test.db", script)
    async with open_storage(url) as storage:
        for channel in (storage._database.write, storage._database.read):
            assert await channel(lambda c: c.exec_driver_sql("PRAGMA foreign_keys").scalar()) == 1
        await storage.delete_experiment("first", force=True)
        assert [one.experiment_id for one in await storage.experiments()] == ["second"]
        left = await storage._database.read(
            lambda c: c.exec_driver_sql("SELECT count(*) FROM trial WHERE experiment = 1").scalar()
        )
        assert left == 0


def test_loading_alembic_does_not_hold_up_the_loop(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _STALL, str(tmp_path / "test.db")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.05
