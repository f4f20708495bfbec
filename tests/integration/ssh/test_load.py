"""Load tests whose generators are on other hosts."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psutil
import pytest

from tests.integration.load.server import Server as Target
from tests.integration.load.server import serving
from tests.integration.ssh.processes import until
from tests.integration.ssh.servers import Fleet, Server, kill
from windtunnel.cli.main import main
from windtunnel.config.generators import Generators, find_generators
from windtunnel.errors import ConfigError, HostFailed, LoadFailed
from windtunnel.loadgen.generators import run_load
from windtunnel.loadgen.result import Result, SecondRecord

HOUR_NS = 3600 * 10**9


@pytest.fixture
def target() -> Iterator[Target]:
    with serving() as running:
        yield running


@pytest.fixture(scope="session")
def pair(servers: Fleet) -> tuple[Server, Server]:
    """Two hosts that nobody harms."""
    return servers.server(), servers.server()


def entry(name: str, server: Server, **more: Any) -> dict[str, Any]:
    given = {"address": server.address, "port": server.port, "key": str(server.key), "ssh_config": False}
    return {"name": name, **given, "known_hosts": str(server.known_hosts), "attempts": 1, **more}


@contextlib.asynccontextmanager
async def generators(*hosts: dict[str, Any]) -> AsyncIterator[Generators]:
    found = await anyio.to_thread.run_sync(find_generators, list(hosts), Path())
    assert found.ssh is not None
    async with found.ssh:
        yield found


async def run(found: Generators, target: Target, directory: Path = Path(), **options: Any) -> Result:
    watch = options.pop("watch", None)
    raw = {"url": target.url, "python": sys.executable, **options}
    return await run_load(raw, directory=directory, places=found.places, watch=watch)


async def counts(target: Target) -> dict[str, int]:
    return await anyio.to_thread.run_sync(target.counts)


def agents(python: str) -> list[int]:
    """The generators that this program runs on any host."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if words[:1] == [python] and ("windtunnel.loadgen.agent" in words or "generator-" in words[-1]):
                found.append(process.pid)
    return found


def program(path: Path, text: str) -> str:
    """A program on the hosts, which are all this machine."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


async def test_two_hosts_send_together_what_one_would(
    pair: tuple[Server, Server], target: Target, tmp_path: Path
) -> None:
    (tmp_path / "users.csv").write_text("user\nann\nbob\n")
    step = {"path": "/echo?u=$user", "check": {"status": 200}}
    plan = {"rate": 200, "duration": "2s", "data": "users.csv", "scenarios": [{"steps": [step]}]}
    async with generators(entry("a", pair[0]), entry("b", pair[1])) as found:
        result = await run(found, target, tmp_path, workers=2, **plan)
    seen = await counts(target)
    assert (result.offered, result.total.sent, result.total.completed) == (400, 400, 400), result.lost
    # The data went with the plan: each generator takes its own rows of it.
    assert (seen["/echo?u=ann"], seen["/echo?u=bob"], seen["total"]) == (200, 200, 400)
    assert (result.generators, result.lost, result.total.errors.total()) == (4, [], 0)
    assert list(result.clocks) == ["a worker 1", "a worker 2", "b worker 1", "b worker 2"]
    for clock in result.clocks.values():  # it is the same clock
        assert abs(clock.offset_ns) <= clock.error_ns + 1000
    assert await anyio.to_thread.run_sync(agents, sys.executable) == []


async def test_host_without_windtunnel_gets_a_copy_once(
    pair: tuple[Server, Server], target: Target, tmp_path: Path
) -> None:
    """It has nothing but Python's standard library."""
    home = tmp_path / "home"
    bare = program(tmp_path / "python", f'HOME={home} exec "{sys.executable}" -I -S "$@"')
    async with generators(entry("a", pair[0])) as found:
        result = await run(found, target, rate=100, duration="1s", python=bare)
        (copy,) = (home / ".cache" / "windtunnel").iterdir()
        made = copy.stat().st_ctime_ns
        again = await run(found, target, rate=100, duration="1s", python=bare)
    assert result.total.completed == again.total.completed == 100
    assert (await counts(target))["/"] == 200
    assert copy.stat().st_ctime_ns == made


@pytest.mark.usefixtures("openssh")  # the stand-in does not say which server it is
async def test_clock_that_is_an_hour_ahead_makes_no_difference(
    pair: tuple[Server, Server], target: Target, tmp_path: Path
) -> None:
    """All hosts of a test are one machine and have one clock: one generator is lied to about its own."""
    ahead = f"import time; real = time.time_ns; time.time_ns = lambda: real() + {HOUR_NS}\n"
    (tmp_path / "sitecustomize.py").write_text(ahead)
    text = f"""\
case $SSH_CONNECTION in *" {pair[1].address} "*) export PYTHONPATH={tmp_path} ;; esac
exec "{sys.executable}" "$@" """
    python = program(tmp_path / "python", text)
    async with generators(entry("a", pair[0]), entry("b", pair[1])) as found:
        result = await run(found, target, rate=100, duration="2s", python=python)
    a, b = result.clocks["a"], result.clocks["b"]
    assert abs(a.offset_ns) <= a.error_ns + 1000
    assert abs(b.offset_ns - HOUR_NS) <= b.error_ns + 1000
    assert b.error_ns < 10**9
    assert (result.total.sent, (await counts(target))["/"]) == (200, 200)
    # Had it begun by its own clock, all of its requests would have been due for an hour.
    assert result.total.latency.quantile(1) < 10 * 10**9
    assert [one.sent for one in result.seconds][:2] == pytest.approx([100, 100], abs=30)


@pytest.mark.usefixtures("openssh")
async def test_host_that_dies_is_told_and_its_share_taken_over(
    servers: Fleet, pair: tuple[Server, Server], target: Target
) -> None:
    dying = await anyio.to_thread.run_sync(servers.server)

    async def kill_host(second: SecondRecord) -> None:
        if second.second == 0:
            # The server's processes for our connection, and the one that listens.
            await anyio.to_thread.run_sync(lambda: kill(dying.pid, *dying.sessions()))

    async with generators(entry("a", pair[0]), entry("b", pair[1]), entry("c", dying)) as found:
        result = await run(found, target, rate=150, duration="4s", watch=kill_host)
    assert [one.partition(" ")[0] for one in result.lost] == ["c"]
    assert any(reason.startswith("a generator was lost: c after") for reason in result.invalid_because)
    # What it did in its last moments is not known, and later the others do it.
    assert 0 < result.unsent == 600 - result.total.begun < 150
    assert result.total.begun <= (await counts(target))["/"] <= 600
    assert result.seconds[3].sent >= 150 * 0.9
    await until(lambda: agents(sys.executable) == [])


async def test_cancelled_run_leaves_no_generator_on_its_hosts(
    pair: tuple[Server, Server], target: Target
) -> None:
    async with generators(entry("a", pair[0]), entry("b", pair[1])) as found:
        with anyio.move_on_after(10) as scope:

            async def cancel(_: SecondRecord) -> None:
                assert len(await anyio.to_thread.run_sync(agents, sys.executable)) == 2
                scope.cancel()

            await run(found, target, rate=50, duration="15s", watch=cancel)
        assert scope.cancelled_caught
        assert await anyio.to_thread.run_sync(agents, sys.executable) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"python": "/nowhere/python3"}, LoadFailed, "host 'a': no generator can run there"),
        ({"url": "http://127.0.0.1:1/"}, LoadFailed, "from host 'a': cannot load 127.0.0.1:1: connection"),
        ({"workers": 7}, ConfigError, "expected at most 6 workers on another host, found 7"),
        ({"data": "none.csv"}, ConfigError, "there is no file 'none.csv'"),
    ],
)
async def test_what_cannot_be_run_there_says_where_and_why(
    pair: tuple[Server, Server], target: Target, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    async with generators(entry("a", pair[0])) as found:
        with pytest.raises(error) as caught:
            await run(found, target, rate=5, **options)
    assert message in str(caught.value)


async def test_python_of_another_version_is_told(
    pair: tuple[Server, Server], target: Target, tmp_path: Path
) -> None:
    old = 'echo \'{"abi": "cpython-36m-x86_64-linux-gnu", "python": "3.6.8", "version": null}\''
    async with generators(entry("a", pair[0])) as found:
        with pytest.raises(LoadFailed) as caught:
            await run(found, target, rate=5, python=program(tmp_path / "python", old))
    assert "host 'a': its Python 3.6.8 (cpython-36m-x86_64-linux-gnu) cannot run a generator" in str(
        caught.value
    )
    assert "install windtunnel[load]" in str(caught.value)


async def test_host_that_is_down_fails_the_run(pair: tuple[Server, Server], target: Target) -> None:
    async with generators(entry("a", pair[0]), entry("b", pair[1], port=1)) as found:
        with pytest.raises(HostFailed) as caught:
            await run(found, target, rate=5)
    assert caught.value.host == "b"
    assert await anyio.to_thread.run_sync(agents, sys.executable) == []


def test_hosts_are_named_in_an_inventory_or_in_the_plan(
    pair: tuple[Server, Server], target: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts = json.dumps([entry("a", pair[0]), entry("b", pair[1])])
    plan = {"url": target.url, "rate": 50, "duration": "1s", "python": sys.executable}
    (tmp_path / "hosts.yaml").write_text(hosts)
    (tmp_path / "plan.json").write_text(json.dumps({**plan, "generators": "hosts.yaml"}))
    code = main(["load", str(tmp_path / "plan.json"), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["completed"], found["generators"], list(found["clocks_ms"])) == (50, 2, ["a", "b"])
    assert code == (0 if found["valid"] else 1)
    (tmp_path / "plan.json").write_text(json.dumps({**plan, "generators": [{"name": "a", "prt": 5}]}))
    assert main(["load", str(tmp_path / "plan.json")]) == 2
    assert "unknown key 'prt'; did you mean 'port'?" in capsys.readouterr().err


EXPERIMENT = """
experiment: far
objectives: {completed: max}
optimizer: oneshot
trials: 1
hosts_per_trial: {client: 2}
environment:
  class: CompositeEnv
  config:
    children:
      - class: LoadEnv
        on: client
        config:
          keep_invalid: true
          load: {rate: 60, duration: 1s}
"""


def test_role_of_a_trial_puts_one_load_together(
    pair: tuple[Server, Server], target: Target, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts = json.dumps([entry("a", pair[0]), entry("b", pair[1])])
    text = EXPERIMENT.replace("{rate", f'{{url: "{target.url}", python: "{sys.executable}", rate')
    (tmp_path / "far.yaml").write_text(f"hosts: {hosts}\n{text}")
    storage = f"sqlite:///{tmp_path / 'runs.db'}"
    assert main(["run", str(tmp_path / "far.yaml"), "--storage", storage, "--json"]) == 0
    (trial,) = json.loads(capsys.readouterr().out)["trials"]
    assert (trial["metrics"]["sent"], trial["metrics"]["completed"]) == (60, 60)
    seen = target.counts()
    assert (seen["/"], seen["connections"] >= 3) == (60, True)  # one of each host, and ours
