"""A database of mlos_bench taken over: with its types, once, and with its odd rows."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from windtunnel.errors import ConfigError, ExperimentMismatch, NotFound, SchemaMismatch, StorageError
from windtunnel.model import Status, TrialRecord
from windtunnel.storage import mlos, open_storage
from windtunnel.storage.importing import import_mlos
from windtunnel.storage.inference import GROUP
from windtunnel.storage.transfer import Transferred
from windtunnel.testing.storage_fixtures import LEASE, TARGETS, TUNABLES, claim_one, ended

SCHEMA = """
CREATE TABLE experiment (exp_id VARCHAR(512) NOT NULL PRIMARY KEY, description VARCHAR(1024),
    root_env_config VARCHAR(1024) NOT NULL, git_repo VARCHAR(1024) NOT NULL, git_commit VARCHAR(40) NOT NULL);
CREATE TABLE objectives (exp_id VARCHAR(512) NOT NULL, optimization_target VARCHAR(512) NOT NULL,
    optimization_direction VARCHAR(4) NOT NULL, weight FLOAT, PRIMARY KEY (exp_id, optimization_target));
CREATE TABLE config (config_id INTEGER NOT NULL PRIMARY KEY, config_hash VARCHAR(64) NOT NULL UNIQUE);
CREATE TABLE config_param (config_id INTEGER NOT NULL, param_id VARCHAR(512) NOT NULL,
    param_value VARCHAR(1024), PRIMARY KEY (config_id, param_id));
CREATE TABLE trial (exp_id VARCHAR(512) NOT NULL, trial_id INTEGER NOT NULL, config_id INTEGER NOT NULL,
    trial_runner_id INTEGER, ts_start DATETIME NOT NULL, ts_end DATETIME, status VARCHAR(16) NOT NULL,
    PRIMARY KEY (exp_id, trial_id));
CREATE TABLE trial_param (exp_id VARCHAR(512) NOT NULL, trial_id INTEGER NOT NULL,
    param_id VARCHAR(512) NOT NULL, param_value VARCHAR(1024), PRIMARY KEY (exp_id, trial_id, param_id));
CREATE TABLE trial_status (exp_id VARCHAR(512) NOT NULL, trial_id INTEGER NOT NULL, ts DATETIME NOT NULL,
    status VARCHAR(16) NOT NULL);
CREATE TABLE trial_result (exp_id VARCHAR(512) NOT NULL, trial_id INTEGER NOT NULL,
    metric_id VARCHAR(512) NOT NULL, metric_value VARCHAR(255), PRIMARY KEY (exp_id, trial_id, metric_id));
CREATE TABLE trial_telemetry (exp_id VARCHAR(512), trial_id INTEGER, ts DATETIME,
    metric_id VARCHAR(512), metric_value VARCHAR(255));
"""
NOON = "2024-05-01 12:00:00.000000"


class Lab:
    """An mlos_bench database."""

    def __init__(self, path: Path) -> None:
        self.url = f"sqlite:///{path}"
        self.path = path
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(SCHEMA)
        self.experiment("exp")

    def add(self, table: str, *rows: tuple[object, ...]) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            marks = ",".join("?" * len(rows[0]))
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)

    def execute(self, statement: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(statement)

    def experiment(self, name: str) -> None:
        self.add("experiment", (name, "about ü", "env.jsonc", "https://example.org/repo", "abc123"))
        self.add("objectives", (name, "score", "max", None), (name, "cost", "min", None))

    def config(self, config_id: int, **params: str | None) -> None:
        self.add("config", (config_id, f"hash{config_id}"))
        self.add("config_param", *((config_id, name, value) for name, value in params.items()))

    def trial(
        self,
        trial_id: int,
        config_id: int,
        status: str | None = "SUCCEEDED",
        *,
        exp: str = "exp",
        **metrics: Any,
    ) -> None:
        end = None if status in ("PENDING", "RUNNING") else "2024-05-01 12:10:00.250000"
        self.add("trial", (exp, trial_id, config_id, None, NOON, end, str(status)))
        if metrics:
            self.add("trial_result", *((exp, trial_id, name, value) for name, value in metrics.items()))

    def telemetry(self, *rows: tuple[object, ...]) -> None:
        self.add("trial_telemetry", *(("exp", *row) for row in rows))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "mlos bench.sqlite")


async def taken(lab: Lab, url: str, **options: Any) -> Transferred:
    (done,) = await import_mlos(lab.url, url, **options)
    return done


async def trials(url: str, experiment_id: str = "exp") -> dict[int, TrialRecord]:
    async with open_storage(url) as storage:
        experiment = await storage.open_experiment(experiment_id)
        return {one.trial_id: one async for one in experiment.trials()}


def rows(url: str, sql: str) -> list[Any]:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        return connection.execute(sql).fetchall()


async def test_values_get_their_types_back(lab: Lab, url: str) -> None:
    lab.config(1, size="64", ratio="0.5", mode="on", version="1.10", code="007")
    lab.config(2, size="8", ratio="1", mode="off", version="1.9", code="010")
    lab.trial(1, 1, score="10.50", cost="3", note="fine", odd="nan", gone=None)
    lab.trial(4, 2, score="12", cost="3.5")
    lab.add("trial_param", ("exp", 4, "is_defaults", "True"), ("exp", 4, "vm", "a1"), ("exp", 4, "n", "3"))
    done = await taken(lab, url)
    assert (done.experiment_id, done.trials, done.new, done.notes) == ("exp", 2, 2, ())
    found = await trials(url)
    assert found[1].config == {"code": "007", "mode": "on", "ratio": 0.5, "size": 64, "version": "1.10"}
    assert found[4].config["ratio"] == 1.0
    metrics = dict(found[1].metrics or {})
    assert str(metrics.pop("odd")) == "nan"
    assert metrics == {"score": 10.5, "cost": 3, "note": "fine", "gone": None}
    assert found[1].started == datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert found[1].ended == datetime(2024, 5, 1, 12, 10, 0, 250_000, tzinfo=UTC)
    (parameters,) = rows(url, "SELECT parameters FROM trial WHERE trial_id = 4")[0]
    assert json.loads(parameters) == {"is_defaults": "True", "vm": "a1", "n": 3}
    async with open_storage(url) as storage:
        experiment = await storage.open_experiment("exp")
        assert experiment.opt_targets == {"score": "max", "cost": "min"}
        best = await experiment.best()
        assert best is not None
        assert best.trial_id == 4
        assert experiment.tunables.definition()[GROUP]["params"] == {
            "code": {"type": "categorical", "default": "010", "values": ["007", "010"]},
            "mode": {"type": "categorical", "default": "off", "values": ["off", "on"]},
            "ratio": {"type": "float", "default": 1.0, "range": [0.5, 1.0]},
            "size": {"type": "int", "default": 8, "range": [8, 64]},
            "version": {"type": "categorical", "default": "1.9", "values": ["1.10", "1.9"]},
        }
        history = await experiment.load()
        assert history.trial_ids == [1, 4]
    ((about, config, facts),) = rows(
        url, "SELECT description, root_env_config, facts FROM experiment JOIN session ON experiment = id"
    )
    assert (about, config) == ("about ü", "env.jsonc")
    assert json.loads(facts)["git_commit"] == "abc123"


async def test_odd_statuses_and_missing_metrics(lab: Lab, url: str) -> None:
    lab.config(1, x="1")
    for trial_id, status in enumerate(
        ["SUCCEEDED", "FAILED", "CANCELED", "TIMED_OUT", "PENDING", "READY", "RUNNING", "UNKNOWN", "what"],
        start=1,
    ):
        lab.trial(trial_id, 1, status)
    lab.execute("UPDATE trial SET ts_end = NULL WHERE trial_id = 2")
    lab.add("trial_status", ("exp", 2, "2024-05-01 12:03:00+00:00", "FAILED"))
    lab.execute("UPDATE trial SET ts_start = 'never', ts_end = 'never' WHERE trial_id = 3")
    await taken(lab, url)
    found = await trials(url)
    assert [found[i].status.name for i in range(1, 10)] == [
        *(
            "SUCCEEDED",
            "FAILED",
            "CANCELED",
            "TIMED_OUT",
            "PENDING",
            "PENDING",
            "PENDING",
            "CANCELED",
            "CANCELED",
        )
    ]
    assert (found[1].metrics, found[2].metrics) == ({}, None)
    assert found[2].ended == datetime(2024, 5, 1, 12, 3, tzinfo=UTC)
    assert found[3].ended == datetime(1970, 1, 1, tzinfo=UTC)
    assert found[9].failure == "its status in mlos_bench was 'what'"
    assert found[2].failure == "it failed in mlos_bench, which keeps no reason"
    assert [found[i].attempt for i in (1, 5, 7)] == [1, 0, 1]
    assert rows(url, "SELECT trial_id, attempt, status FROM trial_attempt") == [(7, 1, Status.CANCELED.value)]
    async with open_storage(url) as storage:
        experiment = await storage.open_experiment("exp")
        assert await experiment.recover(lambda _owner: True) == 0
        claimed = await experiment.claim("w1", limit=10, lease=LEASE)
        assert [one.trial_id for one in claimed] == [5, 6, 7], "they can be run here"


async def test_telemetry_comes_with_its_times_and_types(
    lab: Lab, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlos, "_POINTS_AT_ONCE", 2)
    monkeypatch.setattr(mlos, "_TRIALS_AT_ONCE", 2)
    lab.config(1, x="1")
    for trial_id in (1, 2, 3):
        lab.trial(trial_id, 1, score="1")
    lab.trial(4, 1, "PENDING")
    lab.telemetry(
        (1, NOON, "cpu", "0.5"),
        (1, NOON, "cpu", "0.5"),
        (1, "2024-05-01 14:00:01.5+02:00", "cpu", "1.50"),
        (1, NOON, "state", "warm"),
        (1, NOON, "nothing", None),
        (1, None, "cpu", "1"),
        (3, NOON, "cpu", str(2**60)),
        (3, NOON, "load", "inf"),
        (4, NOON, "cpu", "1"),
    )
    done = await taken(lab, url)
    assert done.points == 5
    assert done.notes == ("points of telemetry without a time or a value, left out: 2",)
    async with open_storage(url) as storage:
        experiment = await storage.open_experiment("exp")
        noon = datetime(2024, 5, 1, 12, tzinfo=UTC)
        first = {tuple(one) for one in await experiment.load_telemetry(1)}
        assert first == {
            (noon, "cpu", 0.5),
            (noon.replace(second=1, microsecond=500_000), "cpu", 1.5),
            (noon, "state", "warm"),
        }
        assert [one.value for one in await experiment.load_telemetry(3)] == [2**60, float("inf")]
        assert await experiment.load_telemetry(4) == []


async def test_a_second_import_adds_only_what_is_new(lab: Lab, url: str) -> None:
    lab.config(1, x="1", y="a")
    lab.trial(1, 1, score="1")
    lab.trial(2, 1, "RUNNING")
    lab.telemetry((1, NOON, "cpu", "1"), (1, NOON, "cpu", "1"), (2, NOON, "cpu", "2"))
    await taken(lab, url)
    everything = "SELECT * FROM trial", "SELECT * FROM telemetry", "SELECT * FROM experiment"
    before = [rows(url, sql) for sql in everything]
    again = await taken(lab, url)
    assert (again.new, again.updated, again.points) == (0, 0, 0)
    assert [rows(url, sql) for sql in everything] == before

    lab.execute("UPDATE trial SET status = 'SUCCEEDED' WHERE trial_id = 2")
    lab.add("trial_result", ("exp", 2, "score", "9"))
    lab.config(2, x="2.5", y="b")
    lab.trial(3, 2, score="3")
    lab.telemetry((2, "2024-05-01 12:00:01", "cpu", "3"), (3, NOON, "mem", "4"))
    later = await taken(lab, url)
    assert (later.trials, later.new, later.updated, later.points) == (3, 1, 1, 2)
    found = await trials(url)
    assert found[2].metrics == {"score": 9}
    assert rows(url, "SELECT count(*) FROM trial_attempt") == [(0,)]
    async with open_storage(url) as storage:
        experiment = await storage.open_experiment("exp")
        assert experiment.tunables.definition()[GROUP]["params"]["x"] == {
            "type": "float",
            "default": 1.0,
            "range": [1.0, 2.5],
        }
        assert len((await experiment.load()).configs) == 3
        assert (await experiment.enqueue({"x": 2})).trial_id == 4


async def test_a_trial_that_was_run_here_is_left_alone(lab: Lab, url: str) -> None:
    lab.config(1, x="1")
    lab.trial(1, 1, "PENDING")
    await taken(lab, url)
    async with open_storage(url) as storage:
        experiment = await storage.open_experiment("exp")
        await experiment.finish(await claim_one(experiment), ended(5.0))
    lab.execute("UPDATE trial SET status = 'FAILED'")
    lab.telemetry((1, NOON, "cpu", "1"))
    again = await taken(lab, url)
    assert (again.updated, again.points) == (0, 0)
    assert (await trials(url))[1].metrics == {"score": 5.0}


async def test_incomplete_configurations_and_odd_names(lab: Lab, url: str) -> None:
    lab.config(1, **{"/proc/x y": "1", "z": "3"})
    lab.config(2, **{"/proc/x y": "2", "z": None, "w": None})
    for trial_id in (1, 2):
        lab.trial(trial_id, trial_id)
    done = await taken(lab, url)
    assert done.notes == (
        "tunable '/proc/x y' is called '_proc_x_y' here",
        "trials without a value for some tunable, whose default stands in: 1",
    )
    assert (await trials(url))[2].config == {"_proc_x_y": 2, "z": 3}


async def test_an_experiment_without_trials_or_objectives(lab: Lab, url: str) -> None:
    lab.execute("DELETE FROM objectives")
    done = await taken(lab, url)
    assert (done.trials, done.points) == (0, 0)
    async with open_storage(url) as storage:
        assert (await storage.open_experiment("exp")).opt_targets == {}


async def test_only_what_is_wanted_and_under_another_name(lab: Lab, url: str) -> None:
    lab.experiment("second")
    lab.config(1, x="1")
    lab.trial(1, 1, exp="second", score="2")
    done = await import_mlos(lab.url, url, ["second"], prefix="old-")
    assert [(one.experiment_id, one.new) for one in done] == [("old-second", 1)]
    async with open_storage(url) as storage:
        assert [one.experiment_id for one in await storage.experiments()] == ["old-second"]
    with pytest.raises(NotFound, match="no experiment 'third'; there are: exp, second"):
        await import_mlos(lab.url, url, ["third"])


async def test_an_experiment_that_was_not_imported_is_not_touched(lab: Lab, url: str) -> None:
    lab.config(1, x="1")
    lab.trial(1, 1)
    async with (
        open_storage(url) as storage,
        storage.experiment(experiment_id="exp", tunables=TUNABLES, opt_targets=TARGETS) as experiment,
    ):
        await experiment.enqueue({})
    with pytest.raises(ExperimentMismatch, match=r"'exp' is here already and was not imported; .* prefix"):
        await taken(lab, url)
    assert len(await trials(url)) == 1
    assert (await taken(lab, url, prefix="old-")).new == 1


async def test_the_source_is_only_read(lab: Lab, url: str) -> None:
    lab.config(1, x="1")
    lab.trial(1, 1)
    before = lab.path.read_bytes()
    lab.path.chmod(0o400)
    await taken(lab, url)
    assert lab.path.read_bytes() == before
    assert [one.name for one in lab.path.parent.iterdir() if one.name.startswith(lab.path.name)] == [
        lab.path.name
    ]


async def test_what_cannot_be_imported(lab: Lab, url: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"there is no database .sqlite:///.*/nowhere.db.; .* import from"):
        await import_mlos(f"sqlite:///{tmp_path / 'nowhere.db'}", url)
    with pytest.raises(ConfigError, match="expected a URL"):
        await import_mlos("mlos_bench.sqlite", url)
    text = tmp_path / "text.db"
    text.write_text("no database" * 100)
    with pytest.raises(StorageError, match="not a database"):
        await import_mlos(f"sqlite:///{text}", url)
    lab.execute("UPDATE objectives SET optimization_direction = 'up'")
    with pytest.raises(StorageError, match="expected 'min' or 'max' for the objective 'score', found 'up'"):
        await taken(lab, url)
    lab.execute("DROP TABLE trial_param")
    with pytest.raises(SchemaMismatch, match="found none named trial_param"):
        await taken(lab, url)
