"""Checks that hold for every test: nothing blocks the loop, nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import alembic.command  # noqa: F401 - heavy imports are made before any loop runs
import pytest
from blockbuster import BlockBuster

import windtunnel.api  # noqa: F401 - likewise
from windtunnel.testing.detectors import no_stall, nothing_left

_LOOKS_FOR_FILES = {
    "_parse_connect_dsn_and_args",
    "_read_password_from_pgpass",
    "_read_password_file",
    "_parse_connect_arguments",
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    with nothing_left():
        yield


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> Iterator[None]:
    """Calls that sleep or wait in the loop's thread raise, if our code makes them."""
    detector = BlockBuster("windtunnel", excluded_modules=["windtunnel.testing"])
    for function in detector.functions.values():  # looks for a password file; once a connection
        function.can_block_in("asyncpg/connect_utils.py", _LOOKS_FOR_FILES)
    detector.activate()
    try:
        yield
    finally:
        detector.deactivate()


@pytest.fixture
async def _clean_loop() -> AsyncIterator[None]:
    tasks = asyncio.all_tasks()
    async with no_stall():
        yield
    left = [t for t in asyncio.all_tasks() - tasks if not t.done() and not _is_runner(t)]
    assert not left, f"tasks were left: {left}"


def _is_runner(task: asyncio.Task[object]) -> bool:
    """Whether it is the task in which the test plugin runs fixtures."""
    return "TestRunner" in getattr(task.get_coro(), "__qualname__", "")


@pytest.fixture(autouse=True)
def _async_tests_leave_a_clean_loop(request: pytest.FixtureRequest) -> None:
    function = getattr(request, "function", None)
    if inspect.iscoroutinefunction(function):
        request.getfixturevalue("_clean_loop")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'test.db'}"


def pytest_collection_finish() -> None:
    """What is loaded by now stays: the collector need not go through it again and again."""
    gc.collect()
    gc.freeze()
