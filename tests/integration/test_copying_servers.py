"""Copying and importing across the databases: SQLite, PostgreSQL and MariaDB give and take the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest

from tests import servers
from tests.integration.test_copying import contents, fill, url
from tests.integration.test_import_mlos import NOON, Lab
from windtunnel.storage import open_storage
from windtunnel.storage.copying import copy_storage
from windtunnel.storage.importing import import_mlos


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
