"""Group commit, with a database that only pretends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, cast

import anyio
import pytest

from windtunnel.errors import NotFound, StorageError, StorageUnavailable
from windtunnel.storage.database import Database, open_database
from windtunnel.storage.writer import GroupWriter


class FakeDatabase:
    """Counts commits. Each waits at the gate while that is closed; ``failures`` are raised first."""

    place = "fake"

    def __init__(self) -> None:
        self.commits = 0
        self.failures: list[Exception] = []
        self.gate = anyio.Event()
        self.gate.set()

    async def write(self, query: Callable[[Any], Any]) -> Any:
        await self.gate.wait()
        await anyio.lowlevel.checkpoint()
        if self.failures:
            raise self.failures.pop(0)
        result = query(None)
        self.commits += 1
        return result


log: list[str] = []


def double(_connection: object, payloads: Sequence[int]) -> list[int | StorageError]:
    log.append(f"double {len(payloads)}")
    if 13 in payloads:
        raise ZeroDivisionError("13 is bad")
    return [NotFound("number", p) if p < 0 else 2 * p for p in payloads]


def shout(_connection: object, payloads: Sequence[str]) -> list[str | StorageError]:
    log.append(f"shout {len(payloads)}")
    return [p.upper() for p in payloads]


def forgetful(_connection: object, payloads: Sequence[int]) -> list[int | StorageError]:
    return []


@asynccontextmanager
async def writing(database: FakeDatabase) -> AsyncIterator[GroupWriter]:
    log.clear()
    writer = GroupWriter(cast("Database", database), [shout, double, forgetful])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(writer.run)
        try:
            yield writer
        finally:
            writer.close()


async def _collect(into: dict[int, object], writer: GroupWriter, number: int) -> None:
    try:
        into[number] = await writer.submit(double, number)
    except Exception as exc:  # noqa: BLE001 - the outcome is what is tested
        into[number] = exc


async def _submit_all(writer: GroupWriter, numbers: Sequence[int]) -> dict[int, object]:
    outcomes: dict[int, object] = {}
    async with anyio.create_task_group() as tasks:
        for number in numbers:
            tasks.start_soon(_collect, outcomes, writer, number)
    return outcomes


async def test_one_operation_gives_its_outcome() -> None:
    async with writing(FakeDatabase()) as writer:
        assert await writer.submit(double, 4) == 8


async def test_what_waits_together_is_committed_together() -> None:
    database = FakeDatabase()
    async with writing(database) as writer:
        outcomes = await _submit_all(writer, range(20, 1020))
    assert outcomes == {n: 2 * n for n in range(20, 1020)}
    assert database.commits <= 2


async def test_while_one_group_is_written_the_next_gathers() -> None:
    database = FakeDatabase()
    async with writing(database) as writer, anyio.create_task_group() as tasks:
        database.gate = anyio.Event()
        outcomes: dict[int, object] = {}
        tasks.start_soon(_collect, outcomes, writer, 1)
        await anyio.wait_all_tasks_blocked()
        for number in range(20, 70):
            tasks.start_soon(_collect, outcomes, writer, number)
        await anyio.wait_all_tasks_blocked()
        assert not outcomes  # nobody is told before the commit
        database.gate.set()
    assert len(outcomes) == 51
    assert database.commits == 2


async def test_kinds_stand_in_their_order_whoever_came_first() -> None:
    database = FakeDatabase()
    async with writing(database) as writer, anyio.create_task_group() as tasks:
        for number in (1, 2):
            tasks.start_soon(writer.submit, double, number)
            tasks.start_soon(writer.submit, shout, "x")
    assert log == ["shout 2", "double 2"]
    assert database.commits == 1


async def test_a_refused_operation_fails_alone_in_its_group() -> None:
    database = FakeDatabase()
    async with writing(database) as writer:
        outcomes = await _submit_all(writer, [1, -5, 3])
    assert (outcomes[1], outcomes[3]) == (2, 6)
    assert isinstance(outcomes[-5], NotFound)
    assert database.commits == 1


async def test_a_bad_operation_fails_alone_and_costs_few_commits(caplog: pytest.LogCaptureFixture) -> None:
    database = FakeDatabase()
    async with writing(database) as writer:
        outcomes = await _submit_all(writer, range(256))
    bad = outcomes.pop(13)
    assert isinstance(bad, ZeroDivisionError)
    assert outcomes == {n: 2 * n for n in range(256) if n != 13}
    assert database.commits <= 9  # by halving, not one by one
    assert "a storage operation failed" in caplog.text


async def test_an_apply_that_forgets_an_outcome_is_not_committed() -> None:
    database = FakeDatabase()
    async with writing(database) as writer:
        with pytest.raises(ValueError, match="zip"):
            await writer.submit(forgetful, 1)
        assert database.commits == 0
        assert await writer.submit(double, 1) == 2


async def test_an_unavailable_database_fails_the_group_and_not_the_writer() -> None:
    database = FakeDatabase()
    database.failures = [StorageUnavailable("fake: the disk is full")]
    async with writing(database) as writer:
        outcomes = await _submit_all(writer, [1, 2, 3])
        errors = list(outcomes.values())
        assert all(isinstance(error, StorageUnavailable) and "disk is full" in str(error) for error in errors)
        assert len({id(error) for error in errors}) == 3, "tasks that raise one object share its traceback"
        assert await writer.submit(double, 4) == 8


async def test_a_cancelled_caller_waits_for_its_commit() -> None:
    database = FakeDatabase()
    async with writing(database) as writer:
        with anyio.CancelScope() as scope:
            scope.cancel()
            assert await writer.submit(double, 4) == 8
    assert database.commits == 1


async def test_an_operation_is_done_even_if_asyncio_tears_its_caller_away() -> None:
    """``asyncio.timeout`` and ``Task.cancel`` know nothing of shields."""
    database = FakeDatabase()
    database.gate = anyio.Event()
    async with writing(database) as writer:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await writer.submit(double, 4)
        database.gate.set()
    assert (log, database.commits) == (["double 1"], 1)


async def test_closing_writes_what_is_queued_and_takes_no_more() -> None:
    database = FakeDatabase()
    database.gate = anyio.Event()
    outcomes: dict[int, object] = {}
    async with anyio.create_task_group() as tasks, writing(database) as writer:
        for number in range(5):
            tasks.start_soon(_collect, outcomes, writer, number)
        await anyio.wait_all_tasks_blocked()
        writer.close()
        with pytest.raises(StorageError, match="fake is closed; open the storage again"):
            await writer.submit(double, 9)
        database.gate.set()
    assert outcomes == {n: 2 * n for n in range(5)}


async def test_a_cancelled_owner_still_gets_everything_written() -> None:
    database = FakeDatabase()
    outcomes: dict[int, object] = {}
    with anyio.CancelScope() as scope:
        async with writing(database) as writer, anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(_collect, outcomes, writer, number)
            await anyio.lowlevel.checkpoint()
            scope.cancel()
    assert outcomes == {n: 2 * n for n in range(5)}


async def test_a_writer_that_is_cancelled_by_asyncio_lets_nobody_wait_for_ever() -> None:
    held = anyio.Event()

    async with open_database("sqlite:///:memory:", patience=timedelta(seconds=1)) as database:
        writer = GroupWriter(database, [_noted])
        running = asyncio.get_running_loop().create_task(writer.run())

        async def submit() -> None:
            held.set()
            with pytest.raises(StorageError, match="was closed before this was written"):
                await writer.submit(_noted, 1)

        async with anyio.create_task_group() as group:
            writer._wake = anyio.Event()  # the writer sleeps through it, as if it were cut off just then
            group.start_soon(submit)
            await held.wait()
            running.cancel()
        with pytest.raises(StorageError, match="is closed"):
            await writer.submit(_noted, 2)
        with suppress(asyncio.CancelledError):
            await running


def _noted(_connection: object, payloads: Sequence[int]) -> list[int]:
    return list(payloads)
