"""One database copied into another: nothing lost, nothing doubled, whenever it is cut off."""

from __future__ import annotations

import math
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from windtunnel.errors import ConfigError, ExperimentMismatch, NotFound, SchemaMismatch
from windtunnel.model import FailureKind, Status
from windtunnel.storage import copying, open_storage
from windtunnel.storage.copying import copy_storage
from windtunnel.storage.database import Database
from windtunnel.storage.schema import metadata
from windtunnel.storage.transfer import Transferred
from windtunnel.testing.storage_fixtures import (
    LEASE,
    TARGETS,
    TUNABLES,
    at,
    claim_one,
    ended,
    new,
    point,
)
from windtunnel.tunables import TunableGroups

QUERY = {
    "experiment": "SELECT name, description, root_env_config, objectives, tunables, next_trial_id, "
    "created_us, windtunnel, document, suggested FROM experiment",
    "merges": "SELECT a.name, b.name, merged_us FROM experiment_merge "
    "JOIN experiment a ON a.id = experiment JOIN experiment b ON b.id = merged",
    "session": "SELECT e.name, owner, started_us, facts FROM session JOIN experiment e ON e.id = experiment",
    "host_facts": "SELECT e.name, owner, host, since_us, facts FROM host_facts "
    "JOIN experiment e ON e.id = experiment",
    "trial": "SELECT e.name, t.trial_id, c.digest, c.params, status, priority, attempt, token, "
    "not_before_us, t.created_us, started_us, ended_us, lease_until_us, owner, host, parameters, metrics, "
    "score, failure, failure_kind "
    "FROM trial t JOIN config c ON c.id = t.config_id JOIN experiment e ON e.id = t.experiment",
    "trial_attempt": "SELECT e.name, trial_id, attempt, owner, host, started_us, ended_us, status, reason, "
    "failure_kind FROM trial_attempt JOIN experiment e ON e.id = experiment",
    "telemetry": "SELECT e.name, trial_id, attempt, ts_us, m.name, number, text FROM telemetry "
    "JOIN metric m ON m.id = metric_id JOIN experiment e ON e.id = experiment",
}
"""Everything that tells, without the numbers that each database gives by itself."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source.db"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target.db"


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def contents(path: Path) -> dict[str, list[Any]]:
    with closing(sqlite3.connect(path)) as connection:
        return {what: sorted(connection.execute(sql), key=repr) for what, sql in QUERY.items()}


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


async def fill(path: Path, experiment_id: str = "e", trials: int = 7) -> None:
    """An experiment with trials in most states: the last two wait, one was run twice."""
    async with (
        open_storage(url(path)) as storage,
        storage.experiment(
            experiment_id=experiment_id, tunables=TUNABLES, opt_targets=TARGETS, description="ü"
        ) as experiment,
    ):
        await experiment.add_trials([new(i, priority=i % 2) for i in range(trials)])
        again = await claim_one(experiment)
        await experiment.record(again, [point(0, "m", 0.5)])
        await experiment.retry(
            again, status=Status.FAILED, reason="moved", kind=FailureKind.HOST, host="away"
        )
        await experiment.lead("w1", lease=LEASE, is_dead=lambda _owner: False)
        await experiment.describe('{"trials": 7}')
        await experiment.note_host("w1", "h", {"cpus": 2})
        for trial in await experiment.claim("w1", limit=trials - 2, lease=LEASE):
            values: list[float | str] = [1.0, math.nan, "text", 2**60]
            await experiment.record(trial, [point(i, m, v) for i, v in enumerate(values) for m in "ab"])
            result = ended(float(trial.trial_id), text="ü", nan=math.nan)
            await experiment.finish(trial, result, host="h")


async def test_a_copy_is_equal(source: Path, target: Path) -> None:
    await fill(source)
    await fill(source, "other")
    execute(
        source,
        "INSERT INTO session (owner, experiment, started_us, facts) VALUES ('w1', 1, 5, '{\"cpu\": 2}')",
        "INSERT INTO experiment_merge VALUES (2, 1, 7)",
    )
    await fill(target, "mine")  # so that nothing has the same number
    before = contents(target)
    seen: list[Transferred] = []
    copied = await copy_storage(url(source), url(target), progress=seen.append)
    assert [(one.experiment_id, one.trials, one.new, one.points) for one in copied] == [
        ("e", 7, 7, 41),
        ("other", 7, 7, 41),
    ]
    assert seen == copied
    wanted = {what: sorted(before[what] + rows, key=repr) for what, rows in contents(source).items()}
    assert contents(target) == wanted


async def test_a_second_copy_changes_nothing(source: Path, target: Path) -> None:
    await fill(source)
    await copy_storage(url(source), url(target))
    once = contents(target)
    (again,) = await copy_storage(url(source), url(target))
    assert (again.new, again.updated, again.points) == (0, 0, 0)
    assert contents(target) == once


@pytest.mark.parametrize("writes", range(1, 14, 2))
async def test_a_copy_that_was_cut_off_goes_on(
    source: Path, target: Path, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(source)
    monkeypatch.setattr(copying, "_TRIALS_AT_ONCE", 3)
    monkeypatch.setattr(copying, "TELEMETRY_PAGE", 5)
    async with open_storage(url(target)):
        pass
    with pytest.MonkeyPatch.context() as patch:
        _kill_after(patch, writes)
        with pytest.raises(_Killed):
            await copy_storage(url(source), url(target))
    await copy_storage(url(source), url(target))
    assert contents(target) == contents(source)


class _Killed(BaseException):
    pass


def _kill_after(patch: pytest.MonkeyPatch, writes: int) -> None:
    """Let only so many transactions happen."""
    write, left = Database.write, [writes]

    async def limited(self: Any, *arguments: Any, **named: Any) -> Any:
        if not left[0]:
            raise _Killed
        left[0] -= 1
        return await write(self, *arguments, **named)

    patch.setattr(Database, "write", limited)


async def test_a_running_trial_waits_in_the_copy_until_it_has_ended_in_the_source(
    source: Path, target: Path
) -> None:
    async with (
        open_storage(url(source)) as storage,
        storage.experiment(experiment_id="e", tunables=TUNABLES, opt_targets=TARGETS) as experiment,
    ):
        await experiment.add_trials([new(1)])
        trial = await claim_one(experiment, "w9")
        await experiment.record(trial, [point(1, "m", 1.0)])
        await copy_storage(url(source), url(target))
        async with open_storage(url(target)) as other:
            copy = await other.open_experiment("e")
            (waiting,) = [one async for one in copy.pending_trials(at(1e9), running=False)]
            assert (waiting.trial_id, waiting.attempt) == (1, 1)
        (attempt,) = contents(target)["trial_attempt"]
        assert attempt[2:4] == (1, "w9")
        assert attempt[7:] == (Status.CANCELED.value, "was running elsewhere when it was taken over", None)
        await experiment.record(trial, [point(2, "m", 2.0)])
        await experiment.finish(trial, ended(4.0))
        (done,) = await copy_storage(url(source), url(target))
        assert (done.new, done.updated, done.points) == (0, 1, 1)
    assert contents(target) == contents(source)


async def test_a_trial_that_was_run_in_the_copy_is_left_alone(source: Path, target: Path) -> None:
    await fill(source)
    await copy_storage(url(source), url(target))
    for path, score in ((target, 1.5), (source, 2.5)):
        async with open_storage(url(path)) as storage:
            experiment = await storage.open_experiment("e")
            await experiment.finish(await claim_one(experiment), ended(score))
    mine = contents(target)
    (done,) = await copy_storage(url(source), url(target))
    assert (done.new, done.updated) == (0, 0)
    assert contents(target)["trial"] == mine["trial"]


async def test_trials_added_later_are_brought_and_numbers_go_on(source: Path, target: Path) -> None:
    await fill(source)
    await copy_storage(url(source), url(target))
    async with open_storage(url(source)) as storage:
        await (await storage.open_experiment("e")).enqueue({"size": 77})
    (done,) = await copy_storage(url(source), url(target))
    assert (done.new, done.points) == (1, 0)
    async with open_storage(url(target)) as storage:
        assert (await (await storage.open_experiment("e")).enqueue({"size": 78})).trial_id == 9


async def test_only_what_is_wanted_is_copied_with_what_it_has_merged(source: Path, target: Path) -> None:
    for name in ("a", "b", "c"):
        await fill(source, name)
    execute(source, "INSERT INTO experiment_merge VALUES (3, 1, 7)")
    copied = await copy_storage(url(source), url(target), ["c"])
    assert [one.experiment_id for one in copied] == ["a", "c"]
    assert contents(target)["merges"] == [("c", "a", 7)]
    with pytest.raises(NotFound, match="no experiment 'z'; there are: a, b, c"):
        await copy_storage(url(source), url(target), ["a", "z"])


@pytest.mark.parametrize("what", ["tunables", "objectives"])
async def test_an_experiment_with_other_content_is_refused_before_anything_is_copied(
    source: Path, target: Path, what: str
) -> None:
    await fill(source, "a")
    await fill(source, "e")
    other = TunableGroups({"g": {"params": {"y": {"type": "int", "range": [0, 9], "default": 1}}}})
    async with (
        open_storage(url(target)) as storage,
        storage.experiment(
            experiment_id="e",
            tunables=other if what == "tunables" else TUNABLES,
            opt_targets=TARGETS if what == "tunables" else {"score": "max"},
        ),
    ):
        pass
    before = contents(target)
    with pytest.raises(ExperimentMismatch, match=f"'e' is in the target already, with other {what}"):
        await copy_storage(url(source), url(target))
    assert contents(target) == before


async def test_another_experiment_of_the_same_name_is_refused(source: Path, target: Path) -> None:
    await fill(source)
    await fill(target)
    before = contents(target)
    with pytest.raises(ExperimentMismatch, match="trial 1 is in the target already and is another one"):
        await copy_storage(url(source), url(target))
    assert contents(target) == before


async def test_the_two_ends_are_checked(source: Path, target: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"there is no database .sqlite:.*to copy from"):
        await copy_storage(url(source), url(target))
    assert not source.exists()
    assert not target.exists()
    await fill(source)
    with pytest.raises(ConfigError, match="expected two databases"):
        await copy_storage(url(source), url(tmp_path / "." / "source.db"))
    foreign = tmp_path / "foreign.db"
    execute(foreign, "CREATE TABLE x (y)")
    with pytest.raises(SchemaMismatch):
        await copy_storage(url(source), url(foreign))
    shutil.copy(source, target)
    assert [one.new for one in await copy_storage(url(source), url(target))] == [0]


def test_every_table_is_thought_of() -> None:
    copied = {
        "experiment",
        "experiment_merge",
        "session",
        "host_facts",
        "config",
        "trial",
        "trial_attempt",
        "metric",
        "telemetry",
    }
    of_one_database_only = {"receipt", "optimizer_lease"}
    assert set(metadata.tables) == copied | of_one_database_only, "teach copying.py about the new table"
