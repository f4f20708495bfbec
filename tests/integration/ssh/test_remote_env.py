"""RemoteEnv and its like, on real OpenSSH servers."""

from __future__ import annotations

import inspect
import json
import os
import signal
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest

from tests.integration.ssh.processes import alive, directories, find, until
from tests.integration.ssh.servers import Server
from windtunnel.environments import CompositeEnv, Environment, LocalFileShareEnv, RemoteEnv
from windtunnel.errors import ConfigError, HostLost, HostUnreachable, MissingService
from windtunnel.model import Status
from windtunnel.protocols import FileShare, HostOps, LocalExec, RemoteExec, Services
from windtunnel.services.local_exec import LocalExecService
from windtunnel.services.ssh import SshService
from windtunnel.services.ssh.files import SshFiles
from windtunnel.testing.environments import (
    TRIAL,
    TUNABLES,
    EnvironmentContract,
    FakeHosts,
    SampleList,
    torn_down,
)

PATTERN = r"^(?P<metric>[\w.]+): (?P<value>\S+)$"
TELEMETRY = r"^telemetry (?P<metric>\w+)=(?P<value>\S+)$"
ON_WEB = {"host": "web", "host_address": "127.0.0.1"}
ROLES = {
    **ON_WEB,
    "server_host": "web",
    "server_address": "10.0.0.1",
    "server_hosts": "web",
    "server_addresses": "10.0.0.1",
    "client_host": "a",
    "client_address": "10.0.0.2",
    "client_hosts": "a,b",
    "client_addresses": "10.0.0.2,10.0.0.3",
}


UNCONNECTED = Services({RemoteExec: SshService()})


@pytest.fixture
async def services(server: Server, tmp_path: Path) -> AsyncIterator[Services]:
    """They know the hosts web, a and b, which are one machine, and none that is called nowhere."""
    there = tmp_path / "there"
    there.mkdir()
    options = server.options(temp_dir=str(there))
    hosts = {"web": options, "a": options, "b": options, "dead": server.options(port=1, attempts=1)}
    async with SshService(hosts=hosts) as service:
        yield Services(
            {
                LocalExec: LocalExecService(),
                RemoteExec: service,
                FileShare: SshFiles(service),
                HostOps: FakeHosts(service),
            }
        )
    assert not directories(there), "something was left on the host"


def make(services: Services, globals_: dict[str, Any] = ON_WEB, **config: Any) -> RemoteEnv:
    return RemoteEnv(
        name="remote", config=config, tunables=TUNABLES, service=services, global_config=globals_
    )


def composite(services: Services, *children: dict[str, Any], **config: Any) -> CompositeEnv:
    return CompositeEnv(
        name="all",
        config={"children": list(children), **config},
        tunables=TUNABLES,
        service=services,
        global_config=ROLES,
    )


def trial(host: str = "web") -> dict[str, Any]:
    """What the scheduler gives to set-up."""
    return {**TRIAL, "host": host}


async def run_once(environment: Environment) -> dict[str, Any]:
    """The metrics of one trial that must succeed."""
    async with torn_down(environment):
        assert await environment.setup(TUNABLES, trial()), environment.failure
        status, _, metrics = await environment.run()
        assert status is Status.SUCCEEDED, environment.failure
        assert metrics is not None
        return metrics


async def failure_of(environment: Environment) -> str:
    """Why a trial failed."""
    async with torn_down(environment):
        if await environment.setup(TUNABLES, trial()):
            assert (await environment.run()).status is Status.FAILED
        return environment.failure or ""


class TestContract(EnvironmentContract):
    """On a host."""

    @pytest.fixture(autouse=True)
    def _serve(self, request: pytest.FixtureRequest) -> None:
        is_async = inspect.iscoroutinefunction(request.function)
        self.services: Services = request.getfixturevalue("services") if is_async else UNCONNECTED

    config: ClassVar[dict[str, Any]] = {
        "host": "web",
        "shell_env_params": ["x"],
        "setup": ["echo 1 > made"],
        "run": ["cat made > /dev/null", 'echo "telemetry seen=$x"', 'echo "score: $x"'],
        "teardown": ["rm made"],
        "telemetry_stdout_pattern": TELEMETRY,
        "results_stdout_pattern": PATTERN,
    }

    def make(self) -> Environment:
        return make(self.services, **self.config)

    def make_endless(self) -> Environment:
        return make(self.services, **{**self.config, "run": ["echo telemetry seen=1", "sleep 1000"]})


# What scripts see, and what comes out of them


async def test_values_arrive_unchanged_and_execute_nothing(services: Services, tmp_path: Path) -> None:
    evil = 'it\'s "q" $(touch oops) `touch oops`; touch oops\n\n\\n ü 世 $HOME *'
    environment = make(
        services,
        const_args={"evil": evil.replace("$", "$$")},
        shell_env_params=["evil"],
        dump_params_file="sub/params.json",
        setup=['[ -z "$(ls | grep -v sub)" ]'],
        run=['printf "%s" "$evil" > evil', "echo \"files: $(ls | tr '\\n' /)\""],
        results_stdout_pattern=PATTERN,
        download=[
            {"from": "evil", "to": f"{tmp_path}/evil"},
            {"from": "sub/params.json", "to": f"{tmp_path}/$trial_id"},
        ],
    )
    assert await run_once(environment) == {"files": "evil/sub/"}
    assert (tmp_path / "evil").read_text() == evil
    assert json.loads((tmp_path / "1").read_text())["evil"] == evil


async def test_results_and_telemetry_files_are_fetched(services: Services) -> None:
    environment = make(
        services,
        setup=["echo 'ready' > state"],
        run=[
            "cat state; echo 'a: 1'; echo 'b: 2'",
            "printf 'b,c\\n3,4.5\\n' > results.csv",
            "printf '2026-01-01T00:00:00Z,qps,5\\n' > telemetry.csv",
        ],
        results_stdout_pattern=PATTERN,
        read_results_file="results.csv",
        read_telemetry_file="telemetry.csv",
    )
    assert await run_once(environment) == {"a": 1, "b": 3, "c": 4.5}
    samples = (await environment.status()).telemetry
    assert [(s.metric, s.value, s.timestamp.year) for s in samples] == [("qps", 5, 2026)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("true", "results file 'results.csv' cannot be fetched"),
        (": > results.csv", "'results.csv' is empty"),
        ("mkdir results.csv", "'results.csv' cannot be fetched"),
        ("nonsense", "on host 'web'; command not found"),
        ("exit 3", "'exit 3' ended with status 3; on host 'web'"),
    ],
)
async def test_bad_ends_fail_the_trial_with_the_hosts_name(
    services: Services, line: str, reason: str
) -> None:
    failure = await failure_of(make(services, run=[line], read_results_file="results.csv"))
    assert reason in failure
    assert "host 'web'" in failure or "empty" in reason


async def test_live_telemetry_arrives_before_the_script_ends(services: Services, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    environment = make(
        services,
        const_args={"gate": str(tmp_path / "gate")},
        shell_env_params=["gate"],
        run=["echo telemetry qps=12", 'read x < "$gate"', "echo telemetry state=up"],
        telemetry_stdout_pattern=TELEMETRY,
    )
    sink = SampleList()
    async with torn_down(environment):
        assert await environment.setup(TUNABLES, trial())
        with environment.streaming_to(sink):
            async with anyio.create_task_group() as group:
                group.start_soon(environment.run)
                await sink.arrived.wait()
                assert [(sample.metric, sample.value) for sample in sink.samples] == [("qps", 12)]
                await anyio.Path(tmp_path / "gate").write_text("go\n")
    assert [sample.metric for sample in sink.samples] == ["qps", "state"]


async def test_a_directory_of_ones_own_is_made_and_kept(services: Services, tmp_path: Path) -> None:
    environment = make(
        services,
        temp_dir=f"{tmp_path}/it's kept/$trial_id",
        upload=[{"from": "input", "to": "sub/input"}],
        globals_={**ON_WEB, "config_dir": str(tmp_path)},
        run=["cat sub/input > output; echo ${config_dir-none} >> output"],
    )
    (tmp_path / "input").write_text("data\n")
    await run_once(environment)
    assert (tmp_path / "it's kept/1/output").read_text() == "data\nnone\n"
    failure = await failure_of(make(services, temp_dir="/proc/nothing/here"))
    assert "cannot make the trial's directory" in failure


# What ends a run


@pytest.mark.parametrize("how", ["time limit", "cancel"])
async def test_a_run_that_is_cut_off_leaves_no_process_there(services: Services, how: str) -> None:
    marker = uuid.uuid4().hex
    environment = make(
        services,
        const_args={"marker": marker},
        shell_env_params_rename={"MARKER": "marker"},
        setup=["sleep 1000 &"],
        run=["sleep 1000 & (sleep 1000 | sleep 1000) & echo telemetry up=1; sleep 1000"],
        telemetry_stdout_pattern=TELEMETRY,
        teardown=["echo torn down"],
    )
    sink = SampleList()
    async with torn_down(environment):
        assert await environment.setup(TUNABLES, trial())
        with environment.streaming_to(sink):
            async with anyio.create_task_group() as group:
                group.start_soon(environment.run)
                await sink.arrived.wait()
                await until(lambda: len(find(marker)) >= 5)
                if how == "cancel":
                    group.cancel_scope.cancel()
                else:
                    group.cancel_scope.deadline = anyio.current_time()
        # The scripts of set-up run on until teardown has been.
        assert len(await alive(marker)) == 1
    assert environment.outputs["teardown"].stdout.text == "torn down\n"
    assert not await alive(marker)


@pytest.mark.usefixtures("openssh")
async def test_a_lost_host_is_not_a_failed_trial(services: Services) -> None:
    marker = uuid.uuid4().hex
    environment = make(
        services,
        const_args={"marker": marker},
        shell_env_params_rename={"MARKER": "marker"},
        run=["echo telemetry pid=$(cut -d ' ' -f 4 /proc/$PPID/stat); sleep 1000"],
        telemetry_stdout_pattern=TELEMETRY,
        teardown=["true"],
    )
    sink, raised = SampleList(), []
    assert await environment.setup(TUNABLES, trial())

    async def run() -> None:
        with pytest.raises(HostLost) as caught:
            await environment.run()
        raised.append(caught.value)

    with environment.streaming_to(sink), anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await sink.arrived.wait()
            os.kill(int(sink.samples[0].value), signal.SIGKILL)
    assert raised[0].host == "web"
    # Nobody waits for a host that is gone; that its teardown was not run is told.
    with pytest.raises(HostLost):
        await environment.teardown()
    await until(lambda: not find(marker))
    # The same environment serves again when the host is back.
    assert await environment.setup(TUNABLES, trial()), environment.failure
    await environment.teardown()


async def test_a_host_that_is_not_there_is_not_a_failed_trial(services: Services) -> None:
    environment = make(services, host="dead", teardown=["true"])
    with pytest.raises(HostUnreachable, match="'dead'"):
        await environment.setup(TUNABLES, trial())
    await environment.teardown()
    assert environment.is_clean


async def test_it_waits_until_the_host_has_booted(services: Services) -> None:
    hosts = services.get(HostOps)  # type: ignore[type-abstract]
    assert isinstance(hosts, FakeHosts)
    environment = make(services, wait_boot=True)
    async with torn_down(environment):
        assert await environment.setup(TUNABLES, trial())
    assert hosts.calls == ["wait for web"]


def test_what_it_needs_is_asked_for_at_once() -> None:
    with pytest.raises(MissingService, match="RemoteEnv works on other hosts"):
        make(Services())
    make(UNCONNECTED)
    for config in ({"wait_boot": True}, {"read_results_file": "x"}, {"upload": [{"from": "a", "to": "b"}]}):
        with pytest.raises(MissingService):
            make(UNCONNECTED, **config)


# Several hosts


async def test_children_are_on_the_hosts_of_their_roles(services: Services) -> None:
    show = 'echo "$name: $host/$host_address/${host_index-none}/$server_address"'
    common = {"shell_env_params": ["name", "server_address"], "results_stdout_pattern": PATTERN}
    environment = composite(
        services,
        {"class": "LocalEnv", "config": {**common, "const_args": {"name": "here"}, "run": show}},
        {
            "class": "RemoteEnv",
            "on": "server",
            "config": {**common, "const_args": {"name": "server"}, "run": show},
        },
        {
            "class": "RemoteEnv",
            "on": "client",
            "config": {**common, "const_args": {"name": "client"}, "run": show},
        },
    )
    assert await run_once(environment) == {
        "here": "web/127.0.0.1/none/10.0.0.1",
        "server": "web/10.0.0.1/0/10.0.0.1",
        "client.0": "a/10.0.0.2/0/10.0.0.1",
        "client.1": "b/10.0.0.3/1/10.0.0.1",
    }
    assert environment.pprint().splitlines()[3:] == [
        "    Replicas :: 'RemoteEnv on client'",
        "        RemoteEnv :: 'RemoteEnv.0'",
        "        RemoteEnv :: 'RemoteEnv.1'",
    ]


async def test_several_clients_run_at_once_and_are_summed_up(services: Services, tmp_path: Path) -> None:
    """Each waits for the other."""
    for name in "ab":
        os.mkfifo(tmp_path / name)
    environment = composite(
        services,
        {
            "class": "RemoteEnv",
            "on": "client",
            "aggregate": {"qps": "sum", "p99": "max", "*": "mean"},
            "config": {
                "run": [
                    f"cd {tmp_path}",
                    "if [ $host = a ]; then read x < a; echo > b; else echo > a; read x < b; fi",
                    "echo telemetry load=$host_index",
                    'echo "qps: $((100 + host_index))"; echo "p99: $host_index"; echo "mem: $host_index"',
                    'echo "name: $host"',
                ],
                "results_stdout_pattern": PATTERN,
                "telemetry_stdout_pattern": TELEMETRY,
            },
        },
    )
    sink = SampleList()
    with environment.streaming_to(sink), anyio.fail_after(10):
        metrics = await run_once(environment)
    assert {name: value for name, value in metrics.items() if "." not in name} == {
        "qps": 201,
        "p99": 1,
        "mem": 0.5,
    }
    assert (metrics["qps.0"], metrics["qps.1"], metrics["name.1"]) == (100, 101, "b")
    assert sorted((sample.metric, sample.value) for sample in sink.samples) == [("load.0", 0), ("load.1", 1)]


async def test_the_first_client_that_fails_ends_the_others(services: Services) -> None:
    marker = uuid.uuid4().hex
    environment = composite(
        services,
        {
            "class": "RemoteEnv",
            "name": "load",
            "on": "client",
            "config": {
                "const_args": {"marker": marker},
                "shell_env_params_rename": {"MARKER": "marker"},
                "run": "[ $host = a ] && sleep 1000; exit 4",
            },
        },
    )
    with anyio.fail_after(10):
        failure = await failure_of(environment)
    assert "load on client: load.1: run failed" in failure
    assert "on host 'b'" in failure
    assert not await alive(marker)


async def test_children_may_run_at_the_same_time(services: Services, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    environment = composite(
        services,
        {"class": "RemoteEnv", "on": "server", "config": {"run": f"read x < {tmp_path}/gate"}},
        {"class": "LocalEnv", "config": {"run": f"echo > {tmp_path}/gate; echo 'a: 1'"}},
        concurrent=True,
    )
    with anyio.fail_after(10):
        assert await run_once(environment) == {}


def test_a_role_that_no_trial_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="no hosts of the role 'clint'; did you mean 'client'") as caught:
        composite(UNCONNECTED, {"class": "RemoteEnv", "on": "clint"})
    assert caught.value.path == ("config", "children", 0, "on")


# Files around local scripts


async def test_local_scripts_prepare_files_and_read_what_comes_back(
    services: Services, tmp_path: Path
) -> None:
    there = f"{tmp_path}/on host/$trial_id"
    environment = composite(
        services,
        {
            "class": "LocalFileShareEnv",
            "config": {
                "setup": "echo input > input",
                "upload": [{"from": "$PWD/input", "to": f"{there}/input"}],
            },
        },
        {"class": "RemoteEnv", "on": "server", "config": {"temp_dir": there, "run": "cat input > output"}},
        {
            "class": "LocalFileShareEnv",
            "config": {
                "download": [{"from": f"{there}/output", "to": "sub/output"}],
                "run": 'echo "got: $(cat sub/output)"',
                "results_stdout_pattern": PATTERN,
            },
        },
    )
    assert await run_once(environment) == {"got": "input"}


async def test_a_file_that_cannot_be_fetched_fails_the_trial(services: Services) -> None:
    environment = LocalFileShareEnv(
        name="files",
        config={"download": [{"from": "/nothing/there", "to": "x"}]},
        tunables=TUNABLES,
        service=services,
    )
    failure = await failure_of(environment)
    assert "/nothing/there" in failure
    assert "'web'" in failure
