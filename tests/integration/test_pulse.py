"""Heartbeats: whatever holds up the rest, leases are renewed; and nothing of it is left behind."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from sqlalchemy import Connection, Engine, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from tests import servers
from windtunnel import Experiment, StorageUnavailable, open_storage
from windtunnel.storage import Storage, claiming, leading, pulse
from windtunnel.storage.pulse import Beat, Pulse
from windtunnel.storage.requests import Extension
from windtunnel.storage.schema import optimizer_lease
from windtunnel.storage.schema import trial as trial_table
from windtunnel.testing.detectors import no_stall
from windtunnel.testing.storage_fixtures import LEASE, TARGETS, TUNABLES, claim_one, new

SHORT = timedelta(milliseconds=400)
LIMIT_S = 10.0
SERVERS = ["postgresql", "mariadb"]
ALL = ["file", "memory", *SERVERS]


@pytest.fixture(scope="module", autouse=True)
def running() -> Iterator[dict[str, str]]:
    """The servers of all tests here: name → URL."""
    with ExitStack() as stack:
        urls = {"postgresql": stack.enter_context(servers.postgresql())}
        if servers.find_mariadb() is not None:
            urls["mariadb"] = stack.enter_context(servers.mariadb())
        yield urls


@pytest.fixture(params=ALL)
def url(request: pytest.FixtureRequest, tmp_path: Path, running: dict[str, str]) -> str:
    """Each kind of database in turn, or those that a test names."""
    if request.param == "file":
        return f"sqlite:///{tmp_path / 'test.db'}"
    if request.param == "memory":
        return "sqlite:///:memory:"
    if request.param not in running:
        pytest.skip("mariadbd is not installed (Debian's package mariadb-server); CI installs it")
    return running[request.param]


def on(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("url", kinds, indirect=True)


_names = iter(range(10_000))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[Storage, Experiment]]:
    """A new experiment."""
    async with (
        open_storage(url) as storage,
        storage.experiment(
            experiment_id=f"e{next(_names)}", tunables=TUNABLES, opt_targets=TARGETS
        ) as experiment,
    ):
        yield storage, experiment


class Beats:
    """The beats that came, to be waited for."""

    def __init__(self) -> None:
        self.all: list[Beat] = []
        self._came = anyio.Event()

    def __call__(self, beat: Beat) -> None:
        self.all.append(beat)
        self._came.set()
        self._came = anyio.Event()

    async def next(self, count: int = 1) -> Beat:
        """The last of the next ``count`` beats."""
        wanted = len(self.all) + count
        with anyio.fail_after(LIMIT_S):
            while len(self.all) < wanted:
                await self._came.wait()
        return self.all[wanted - 1]

    async def after(self, beating: Pulse) -> Beat:
        """The first beat that was begun from now on."""
        since = time.monotonic()
        beating.poke()
        while (beat := await self.next()).at < since:
            pass
        return beat


def hearts() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "windtunnel heartbeat"]


def nobody_is_dead(_owner: str) -> bool:
    return False


async def test_leases_are_renewed_while_the_loop_is_blocked(url: str) -> None:
    beats = Beats()
    async with opened(url) as (_, experiment):
        await experiment.add_trials([new()])
        trial = await claim_one(experiment)
        async with experiment.pulse("w1", lease=SHORT, on_beat=beats) as beating:
            await beats.after(beating)
            blocked_at = time.monotonic()
            time.sleep(3 * SHORT.total_seconds())
            assert time.monotonic() - beating.last < SHORT.total_seconds()
            assert await experiment.claim("rival", limit=1, lease=LEASE) == []
            beat = await beats.next()
            assert beat.at > blocked_at + SHORT.total_seconds(), "not one that is long out of date"
            assert beat.held == {trial.trial_id: trial.token}


async def test_a_beat_says_what_is_held_and_who_leads(url: str) -> None:
    beats = Beats()
    async with opened(url) as (_, experiment):
        await experiment.add_trials([new(1), new(2)])
        first, second = await experiment.claim("w1", limit=2, lease=LEASE)
        async with experiment.pulse("w1", lease=LEASE, on_beat=beats) as beating:
            beat = await beats.after(beating)
            assert (beat.held, beat.leads) == ({1: first.token, 2: second.token}, False)
            assert beating.last == beat.at

            assert await experiment.lead("w1", lease=timedelta(milliseconds=1), is_dead=nobody_is_dead)
            assert (await beats.after(beating)).leads
            assert not await experiment.lead("w2", lease=LEASE, is_dead=nobody_is_dead), "it was renewed"

            await experiment.release(first, reason="taken away")
            (stolen,) = await experiment.claim("w2", limit=1, lease=LEASE)
            await experiment.resign("w1")
            assert await experiment.lead("w2", lease=LEASE, is_dead=nobody_is_dead)
            beat = await beats.after(beating)
            assert (beat.held, beat.leads) == ({2: second.token}, False)
            assert stolen.trial_id == first.trial_id


@on("file", "memory", "postgresql")
async def test_heartbeats_are_on_time_while_the_writer_is_busy(url: str) -> None:
    """One transaction follows the other without a pause: there is always somebody who wants the lock."""
    beats, written = Beats(), 0
    async with opened(url) as (storage, experiment):

        async def write_on() -> None:
            nonlocal written
            while len(beats.all) < 7:
                await storage._database.write(_slow)
                written += 1

        async with (
            experiment.pulse("w1", lease=SHORT, on_beat=beats),
            anyio.create_task_group() as group,
        ):
            for _ in range(8):
                group.start_soon(write_on)
    assert written > 6, "it was really busy"
    at = [beat.at for beat in beats.all]
    assert max(later - sooner for sooner, later in pairwise(at)) < SHORT.total_seconds()


def _slow(connection: Connection) -> None:
    asked = {"postgresql": "SELECT pg_sleep(0.03)", "mysql": "SELECT SLEEP(0.03)"}
    if ask := asked.get(connection.dialect.name):
        connection.exec_driver_sql(ask).scalar()
    else:
        time.sleep(0.03)


def _size(readers: Engine | AsyncEngine) -> int:
    pool: Any = readers.pool
    return int(pool.size())


async def hold(readers: Engine | AsyncEngine, held: AsyncExitStack) -> None:
    """Take a connection out of the pool until ``held`` ends."""
    if isinstance(readers, Engine):
        connected = await anyio.to_thread.run_sync(readers.connect)
        held.push_async_callback(anyio.to_thread.run_sync, connected.close)
    else:
        connection = await held.enter_async_context(readers.connect())
        await connection.exec_driver_sql("SELECT 1")


@on("file", *SERVERS)
async def test_heartbeats_need_nothing_of_the_pool(url: str) -> None:
    beats = Beats()
    async with opened(url) as (storage, experiment):
        channel: Any = storage._database._channel
        readers: Engine | AsyncEngine = getattr(channel, "_readers", None) or channel._engine
        async with AsyncExitStack() as held:
            for _ in range(_size(readers)):
                await hold(readers, held)
            async with experiment.pulse("w1", lease=SHORT, on_beat=beats):
                await beats.next(2)


@on(*SERVERS)
async def test_heartbeats_do_not_wait_for_a_slow_transaction_of_another(url: str) -> None:
    beats = Beats()
    async with opened(url) as (_, experiment), open_storage(url) as other:
        await experiment.add_trials([new(1), new(2)])
        mine, rivals = await claim_one(experiment, "w1"), await claim_one(experiment, "w2")
        slow: Any = other._database._channel
        async with slow._engine.begin() as connection:
            this = (trial_table.c.experiment == experiment._key) & (trial_table.c.trial_id == rivals.trial_id)
            await connection.execute(update(trial_table).where(this).values(priority=7))
            async with experiment.pulse("w1", lease=SHORT, on_beat=beats):
                assert (await beats.next(3)).held == {mine.trial_id: mine.token}


@on(*SERVERS)
async def test_a_row_somebody_locks_fails_heartbeats_until_it_is_free_and_holds_up_no_end(url: str) -> None:
    beats = Beats()
    async with opened(url) as (_, experiment), open_storage(url) as other:
        assert await experiment.lead("w1", lease=LEASE, is_dead=nobody_is_dead)
        slow: Any = other._database._channel
        lock = update(optimizer_lease).where(optimizer_lease.c.experiment == experiment._key)
        async with experiment.pulse("w1", lease=SHORT, on_beat=beats) as beating:
            async with slow._engine.begin() as connection:
                await connection.execute(lock.values(lease_until_us=1))
                beating.poke()
                with anyio.fail_after(LIMIT_S):
                    while not beating.failures:
                        await anyio.sleep(0.01)
            assert (await beats.after(beating)).leads
        async with slow._engine.begin() as connection:
            await connection.execute(lock.values(lease_until_us=2))
            async with experiment.pulse("w1", lease=LEASE, on_beat=beats) as beating:
                beating.poke()
                await _waits_for_a_lock(other)
            assert not hearts(), "it ended in the midst of its waiting"


async def _waits_for_a_lock(storage: Storage) -> None:
    asked = {
        "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'",
        "mysql": "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'",
    }

    def waiting(connection: Connection) -> int:
        return int(connection.exec_driver_sql(asked[connection.dialect.name]).scalar_one())

    with anyio.fail_after(LIMIT_S):
        while not await storage._database.read(waiting):
            await anyio.sleep(0.15)  # MariaDB looks anew only if nobody has asked for so long


@on(*SERVERS)
async def test_after_its_connection_was_killed_the_next_beat_works(url: str) -> None:
    beats = Beats()
    async with (
        opened(url) as (_, experiment),
        open_storage(url) as other,
        experiment.pulse("w1", lease=LEASE, on_beat=beats) as beating,
    ):
        await beats.after(beating)
        assert await other._database._channel.read(_kill_others) >= 2
        await beats.after(beating)
        assert beating.failures == 0


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


@on("file")
async def test_a_failed_beat_is_told_and_soon_tried_again(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    beats, failures, genuine = Beats(), iter("12"), leading.renew

    def flaky(*args: Any) -> bool:
        if next(failures, None):
            raise StorageUnavailable("the network is down")
        return genuine(*args)

    monkeypatch.setattr(leading, "renew", flaky)
    async with (
        opened(url) as (_, experiment),
        experiment.pulse("w1", lease=LEASE, on_beat=beats) as beating,
    ):
        beating.poke()
        await beats.next()
        assert beating.failures == 2
    told = [one for one in caplog.records if getattr(one, "action", None) == "heartbeat_failed"]
    assert [one.levelname for one in told] == ["WARNING"], "once, not again and again"
    assert "the network is down" in told[0].getMessage()


@on("file")
async def test_one_that_fails_does_not_fail_the_others(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = claiming.extend

    def picky(connection: Connection, wanted: Sequence[Extension]) -> list[dict[int, int]]:
        if any(one.owner == "bad" for one in wanted):
            raise ValueError("not that one")
        return genuine(connection, wanted)

    monkeypatch.setattr(claiming, "extend", picky)
    good, bad = {name: Beats() for name in "abc"}, Beats()
    async with opened(url) as (_, experiment), anyio.create_task_group() as group:

        async def beat(owner: str, beats: Beats) -> None:
            async with experiment.pulse(owner, lease=SHORT, on_beat=beats) as beating:
                while sum(len(one.all) >= 3 for one in good.values()) < 3:
                    await anyio.sleep(0.01)
                assert beating.failures > 3 if owner == "bad" else beating.failures <= 1

        with anyio.fail_after(LIMIT_S):
            for name, beats in good.items():
                group.start_soon(beat, name, beats)
            await beat("bad", bad)
    assert bad.all == []


@on("file")
async def test_many_experiments_share_one_thread(url: str) -> None:
    all_beats = [Beats() for _ in range(30)]
    async with open_storage(url) as storage, anyio.create_task_group() as group:

        async def one(number: int) -> None:
            async with (
                storage.experiment(
                    experiment_id=f"e{number}", tunables=TUNABLES, opt_targets=TARGETS
                ) as experiment,
                experiment.pulse("w1", lease=SHORT, on_beat=all_beats[number]),
            ):
                await experiment.add_trials([new()])
                trial = await claim_one(experiment)
                assert (await all_beats[number].next(2)).held == {trial.trial_id: trial.token}
                assert len(hearts()) == 1

        for number in range(30):
            group.start_soon(one, number)
    assert not hearts()


async def test_the_end_leaves_nothing_however_it_comes(url: str) -> None:
    """Cancelled at every step from the beginning until it has done a beat; the next one works."""
    async with opened(url) as (_, experiment):
        for step in range(12):
            with anyio.CancelScope() as scope:
                beats = Beats()
                if step == 0:
                    scope.cancel()
                async with experiment.pulse("w1", lease=LEASE, on_beat=beats) as beating:
                    beating.poke()
                    for _ in range(step):
                        await anyio.sleep(0.001)
                    scope.cancel()
                    await anyio.sleep_forever()
            assert not hearts()
            beats_after_the_end = len(beats.all)
            await anyio.wait_all_tasks_blocked()
            assert len(beats.all) == beats_after_the_end
        async with experiment.pulse("w1", lease=LEASE, on_beat=beats) as beating:
            await beats.after(beating)


@on("file", "postgresql")
async def test_a_task_that_is_torn_off_leaves_no_thread(url: str) -> None:
    """Cancelled by asyncio itself, whom no shield holds off, also while it waits for the thread's end."""
    async with opened(url) as (_, experiment):

        async def beat() -> None:
            async with experiment.pulse("w1", lease=LEASE, on_beat=Beats()) as beating:
                beating.poke()
                await asyncio.Event().wait()

        for steps in range(8):
            task = asyncio.get_running_loop().create_task(beat())
            for step in range(steps + 3):
                await asyncio.sleep(0)
                if step >= steps:
                    task.cancel()
            await asyncio.wait([task], timeout=LIMIT_S)
            assert task.cancelled()
            with anyio.fail_after(LIMIT_S):
                while hearts():
                    await anyio.sleep(0.001)


@on("file")
async def test_a_loop_that_is_dead_for_good_does_not_keep_its_trials(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = timedelta(milliseconds=150)
    monkeypatch.setattr(pulse, "SILENT_S", 0.0)
    monkeypatch.setattr(pulse, "SILENT_LEASES", 3)
    beats = Beats()
    async with opened(url) as (_, experiment):
        await experiment.add_trials([new()])
        trial = await claim_one(experiment)
        async with experiment.pulse("w1", lease=lease, on_beat=beats) as beating:
            await beats.after(beating)
            time.sleep(2 * lease.total_seconds())
            assert _lease_left_s(url) > 0, "not dead yet"
            time.sleep(4 * lease.total_seconds())
            assert _lease_left_s(url) < 0
            blocked_until = time.monotonic()
            while (beat := await beats.next()).at < blocked_until:
                pass
            assert beat.held == {trial.trial_id: trial.token}, "it lives after all, and nobody took it"


def _lease_left_s(url: str) -> float:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    try:
        (until_us,) = connection.execute("SELECT lease_until_us FROM trial").fetchone()
    finally:
        connection.close()
    return float(until_us / 1e6 - time.time())


@on("file", "postgresql")
async def test_ten_thousand_trials_do_not_hold_up_the_loop(url: str) -> None:
    beats, many = Beats(), 10_000
    async with opened(url) as (_, experiment):
        await experiment.add_trials([new(i % 100) for i in range(many)])
        await experiment.claim("w1", limit=many, lease=LEASE)
        async with experiment.pulse("w1", lease=LEASE, on_beat=beats) as beating, no_stall(0.02):
            assert len((await beats.after(beating)).held) == many
            await beats.after(beating)
