"""LocalEnv with real scripts."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from windtunnel.environments import CompositeEnv, Environment, LocalEnv
from windtunnel.errors import CommandFailed, ConfigError, MissingService
from windtunnel.model import Sample, Status
from windtunnel.protocols import LocalExec, Services
from windtunnel.services.local_exec import LocalExecService
from windtunnel.testing.environments import TRIAL, TUNABLES, SampleList, torn_down
from windtunnel.tunables import TunableGroups

SERVICES = Services({LocalExec: LocalExecService()})


@pytest.fixture(autouse=True)
def trial_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where fresh directories are made; none may be left."""
    directory = tmp_path / "fresh"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    yield directory
    assert not list(directory.iterdir()), "a trial's directory was left behind"


def make(global_config: dict[str, Any] | None = None, **config: Any) -> LocalEnv:
    return LocalEnv(
        name="local", config=config, tunables=TUNABLES, service=SERVICES, global_config=global_config
    )


async def run_once(environment: Environment) -> dict[str, Any]:
    """The metrics of one trial that must succeed."""
    async with torn_down(environment):
        assert await environment.setup(TUNABLES, TRIAL), environment.failure
        status, _, metrics = await environment.run()
        assert status is Status.SUCCEEDED, environment.failure
        assert metrics is not None
        return metrics


async def failure_of(environment: Environment) -> str:
    """Why a trial's run failed."""
    async with torn_down(environment):
        assert await environment.setup(TUNABLES, TRIAL), environment.failure
        status, _, metrics = await environment.run()
        assert (status, metrics) == (Status.FAILED, None)
        assert environment.failure is not None
        return environment.failure


async def output_of(environment: LocalEnv) -> str:
    await run_once(environment)
    return environment.outputs["run"].stdout.text


# What scripts see


async def test_parameters_are_exported(tmp_path: Path) -> None:
    environment = make(
        {"config_dir": str(tmp_path), "unrelated": "x"},
        const_args={"rows": 20000, "flag": True, "nothing": None, "text": "$trial_id/$x"},
        shell_env_params=["x", "mode", "rows", "flag", "nothing", "text"],
        shell_env_params_rename={"RENAMED": "y"},
        run=[
            'echo "$x|$mode|$rows|$flag|${nothing-unset}|$text|$RENAMED|${y-unset}|${unrelated-unset}"',
            'echo "$config_dir|$experiment_id|$trial_id|$trial_runner_id|$host"',
        ],
    )
    assert await output_of(environment) == (
        f"50|off|20000|true||1/50|0.5|unset|unset\n{tmp_path}|e|1|0|localhost\n"
    )


async def test_names_that_no_shell_has_get_underscores() -> None:
    environment = make(const_args={"a.b-c": 1}, shell_env_params=["a.b-c"], run=["echo $a_b_c"])
    assert await output_of(environment) == "1\n"


async def test_script_lines_are_not_expanded() -> None:
    environment = make(const_args={"rows": 1}, run=["rows=2; echo $rows '$rows' $$ > /dev/null; echo '$x'"])
    assert await output_of(environment) == "$x\n"


async def test_a_single_string_is_one_line() -> None:
    assert await output_of(make(run="echo one")) == "one\n"


async def test_steps_share_a_fresh_directory() -> None:
    environment = make(
        setup=["mkdir data", "cd data; echo 1 > made"],
        run=["cat data/made; ls | wc -l; pwd"],
        teardown=["pwd; cat data/made"],
    )
    ones, count, first = (await output_of(environment)).split()
    assert (ones, count) == ("1", "1")
    assert environment.outputs["teardown"].stdout.text == f"{first}\n1\n"
    assert (await output_of(environment)).split()[2] != first


async def test_a_fixed_directory_is_made_and_kept(tmp_path: Path) -> None:
    environment = make(temp_dir=f"{tmp_path}/kept/$trial_id", run=["echo 1 > file"])
    await run_once(environment)
    assert (tmp_path / "kept/1/file").read_text() == "1\n"


async def test_parameters_and_meta_are_dumped_before_setup() -> None:
    environment = make(
        const_args={"rows": 5},
        dump_params_file="params.json",
        dump_meta_file="sub/meta.json",
        setup=["cp params.json seen.json"],
        run=["cat seen.json"],
    )
    assert json.loads(await output_of(environment)) == {"rows": 5, "x": 50, "y": 0.5, "mode": "off"}


async def test_tunables_are_dumped_alone_and_meta_of_those_that_have_it() -> None:
    marked = {"type": "int", "range": [0, 9], "default": 1, "meta": {"suffix": "M"}}
    plain = {"type": "float", "range": [0, 1], "default": 0.5}
    tunables = TunableGroups({"group": {"params": {"a": marked, "b": plain}}})
    config = {
        "const_args": {"rows": 5},
        "dump_tunables_file": "tunables.json",
        "dump_meta_file": "meta.json",
        "run": ["cat tunables.json meta.json | tr -d '\\n '"],
    }
    environment = LocalEnv(name="local", config=config, tunables=tunables, service=SERVICES)
    async with torn_down(environment):
        assert await environment.setup(tunables, TRIAL), environment.failure
        await environment.run()
        assert environment.outputs["run"].stdout.text == '{"a":1,"b":0.5}{"a":{"suffix":"M"}}'


async def test_scripts_find_the_interpreter_that_runs_us() -> None:
    environment = make(run=['"$WINDTUNNEL_PYTHON" -c "import sys; print(sys.executable)"'])
    assert await output_of(environment) == f"{sys.executable}\n"


async def test_a_server_of_setup_serves_the_run_and_ends_with_the_trial() -> None:
    environment = make(
        setup=["sleep 1000 & echo $! > pid"],
        run=["kill -0 $(cat pid)", "cat pid"],
        teardown=["kill -0 $(cat pid)"],
    )
    pid = int(await output_of(environment))
    # Its first process may not have been reaped yet by whoever does that here.
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def test_the_next_trial_hears_its_own_number() -> None:
    environment = make(run=["echo $trial_id"])
    async with torn_down(environment):
        for trial_id in (1, 2):
            assert await environment.setup(TUNABLES, {**TRIAL, "trial_id": trial_id})
            await environment.run()
            assert environment.outputs["run"].stdout.text == f"{trial_id}\n"


# What comes out of them

PATTERN = r"^(?P<metric>\w+): (?P<value>\S+)$"


async def test_results_come_from_stdout_and_then_from_the_file() -> None:
    environment = make(
        run=[
            "echo 'a: 1'; echo 'b: 2'",
            "echo noise; echo 'name: x'",
            "printf 'b,c\\n3,4.5\\n' > results.csv",
        ],
        results_stdout_pattern=PATTERN,
        read_results_file="results.csv",
    )
    assert await run_once(environment) == {"a": 1, "b": 3, "c": 4.5, "name": "x"}


async def test_results_are_found_far_before_the_kept_end_of_stdout() -> None:
    environment = make(run=["echo 'a: 1'", "seq 1 50000"], results_stdout_pattern=PATTERN)
    assert await run_once(environment) == {"a": 1}
    assert environment.outputs["run"].stdout.dropped > 0


async def test_results_as_json() -> None:
    environment = make(run=["echo '{\"a\": 1}' > r.json"], read_results_file="r.json")
    assert await run_once(environment) == {"a": 1}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("true", "'results.csv' was not written"),
        (": > results.csv", "'results.csv' is empty"),
        ("mkdir results.csv", "cannot be read"),
        ("printf '\\377' > results.csv", "UTF-8"),
        ("echo a,b > results.csv", "0 rows"),
    ],
)
async def test_bad_results_fail_the_trial_only(line: str, reason: str) -> None:
    environment = make(run=[line], read_results_file="results.csv")
    assert reason in await failure_of(environment)
    assert reason in await failure_of(environment)


async def test_live_telemetry_arrives_before_the_script_ends(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    environment = make(
        const_args={"gate": str(tmp_path / "gate")},
        shell_env_params=["gate"],
        run=["echo telemetry qps=12", 'read x < "$gate"', "echo telemetry state=up"],
        telemetry_stdout_pattern=r"^telemetry (?P<metric>\w+)=(?P<value>\S+)$",
    )
    sink = SampleList()

    async def open_gate() -> None:
        await sink.arrived.wait()
        assert [sample[1:] for sample in sink.samples] == [("qps", 12)]
        await anyio.Path(tmp_path / "gate").write_text("go\n")

    async with torn_down(environment), anyio.create_task_group() as group:
        assert await environment.setup(TUNABLES, TRIAL)
        group.start_soon(open_gate)
        with environment.streaming_to(sink):
            assert (await environment.run()).status is Status.SUCCEEDED
    assert [sample[1:] for sample in sink.samples] == [("qps", 12), ("state", "up")]


async def test_the_telemetry_file_is_read_after_the_run() -> None:
    lines = ["seq 1 12000 | sed 's/^/2025-06-01T12:00:00Z,n,/' > t.csv"]
    environment = make(run=lines, read_telemetry_file="t.csv")
    sink = SampleList()
    with environment.streaming_to(sink):
        await run_once(environment)
    assert [sample.value for sample in sink.samples] == list(range(1, 12001))
    assert isinstance(sink.samples[0], Sample)


async def test_a_bad_telemetry_file_fails_the_trial_with_its_line() -> None:
    assert "'t.csv', line 1" in await failure_of(make(run=["echo x > t.csv"], read_telemetry_file="t.csv"))
    assert "'t.csv' was not written" in await failure_of(make(run=[], read_telemetry_file="t.csv"))


# What fails


async def test_a_failing_run_shows_line_status_and_tails() -> None:
    environment = make(run=["seq 1 50", "echo why >&2; exit 3", "echo no"])
    failure = await failure_of(environment)
    assert failure.startswith("run failed: 'echo why >&2; exit 3' ended with status 3\n")
    assert "why" in failure
    assert "\n31\n" in failure
    assert "\n30\n" not in failure


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("echo echo hi > f; ./f", "chmod +x"),
        ("no-such-command-here", "command not found"),
        ("sh -c 'kill -9 $$'", "signal 9"),
    ],
)
async def test_hints(line: str, hint: str) -> None:
    assert hint in await failure_of(make(run=[line]))


async def test_a_failing_setup_still_runs_teardown_and_the_next_trial(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    environment = make(setup=[f"[ -e {flag} ]"], run=["true"], teardown=[f"touch {flag}"])
    async with torn_down(environment):
        assert not await environment.setup(TUNABLES, TRIAL)
        assert environment.failure is not None
        assert environment.failure.startswith("setup failed: ")
        assert (await environment.run()).status is Status.PENDING
    await run_once(environment)


async def test_a_failing_teardown_cleans_up_and_then_raises(trial_directories: Path) -> None:
    environment = make(setup=["sleep 1000 &"], run=["true"], teardown=["exit 7"])
    assert await environment.setup(TUNABLES, TRIAL)
    with pytest.raises(CommandFailed, match="teardown failed: 'exit 7' ended with status 7"):
        await environment.teardown()
    assert not list(trial_directories.iterdir())
    await environment.teardown()


async def test_a_directory_that_cannot_be_made_fails_the_setup(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    environment = make(temp_dir=f"{tmp_path}/file/sub", run=["true"])
    async with torn_down(environment):
        assert not await environment.setup(TUNABLES, TRIAL)
        assert "cannot make the trial's directory" in str(environment.failure)


@pytest.mark.parametrize(
    ("config", "path", "message"),
    [
        ({"shel": "x"}, ("config", "shel"), "did you mean 'shell'"),
        ({"run": 5}, ("config", "run"), "expected a list"),
        ({"shell_env_params": ["modes"]}, ("config", "shell_env_params", 0), "did you mean 'mode'"),
        (
            {"shell_env_params_rename": {"A": "modes"}},
            ("config", "shell_env_params_rename", "A"),
            "did you mean 'mode'",
        ),
        ({"shell_env_params_rename": {"A-B": "x"}}, ("config", "shell_env_params_rename"), "'A-B'"),
        ({"results_stdout_pattern": "("}, ("config", "results_stdout_pattern"), "regular expression"),
        ({"telemetry_stdout_pattern": "x"}, ("config", "telemetry_stdout_pattern"), "expected the groups"),
        ({"tunable_params": ["number"]}, ("config", "tunable_params"), "did you mean 'numbers'"),
        ({"required_args": ["where"]}, ("config", "required_args"), "'where'"),
        ({"const_args": {"a": "$wheer"}}, ("config", "const_args"), "$wheer is not defined"),
    ],
)
def test_bad_options_are_refused_at_once(config: dict[str, Any], path: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**config)
    assert message in caught.value.message
    assert caught.value.path[: len(path)] == path


def test_it_needs_a_service() -> None:
    with pytest.raises(MissingService, match="LocalExec"):
        LocalEnv(name="local", config={})


# Cancelled

TEARDOWN = ["[ -e begun ] && touch $keep/torn-down"]


def endless(tmp_path: Path, step: str) -> LocalEnv:
    """An environment that never gets past ``step``, whose teardown leaves a trace."""
    forever = "sleep 1000 & echo $! > begun; echo began; wait; sleep 1000"
    steps: dict[str, Any] = {"setup": ["true"], "run": ["true"], "teardown": TEARDOWN, step: [forever]}
    return make(
        const_args={"keep": str(tmp_path)},
        shell_env_params=["keep"],
        telemetry_stdout_pattern="^(?P<metric>began)(?P<value>)$",
        **steps,
    )


@pytest.mark.parametrize("step", ["setup", "run", "abort"])
async def test_cancelled_during_a_step(tmp_path: Path, trial_directories: Path, step: str) -> None:
    environment = endless(tmp_path, step)
    begun = anyio.Path(trial_directories)

    async def trial() -> None:
        async with torn_down(environment):
            await environment.setup(TUNABLES, TRIAL)
            await environment.run()
            await environment.abort()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(trial)
            while not [path async for path in begun.glob("*/begun")]:
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()
    assert (tmp_path / "torn-down").exists()
    assert environment.outputs[step].exit_status < 0


async def cancelled_in_mid_run(environment: LocalEnv, trial_directories: Path) -> None:
    """Set up, and cancel the run when it has made a file named ``begun``."""
    assert await environment.setup(TUNABLES, TRIAL), environment.failure
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(environment.run)
            while not [path async for path in anyio.Path(trial_directories).glob("*/begun")]:
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()


async def test_abort_comes_between_the_cancelled_run_and_teardown(
    tmp_path: Path, trial_directories: Path
) -> None:
    environment = make(
        shell_env_params=["x"],
        setup=["sleep 1000 & echo $! > server"],
        run=["touch begun", "sleep 1000"],
        abort=["kill -0 $(cat server)", 'echo "$x $trial_id" > told'],
        teardown=[f"cp told {tmp_path}/told"],
    )
    async with torn_down(environment):
        await cancelled_in_mid_run(environment, trial_directories)
        assert "abort" not in environment.outputs
        await environment.abort()
    assert (tmp_path / "told").read_text() == "50 1\n"
    assert not psutil.Process().children()


async def test_an_abort_that_fails_says_so_and_teardown_follows(
    tmp_path: Path, trial_directories: Path
) -> None:
    environment = make(
        run=["touch begun", "sleep 1000"],
        abort=["echo trying", "false", "echo never"],
        teardown=[f"touch {tmp_path}/torn-down"],
    )
    async with torn_down(environment):
        await cancelled_in_mid_run(environment, trial_directories)
        with pytest.raises(CommandFailed, match="abort failed: 'false' ended with status 1"):
            await environment.abort()
        assert "trying" in environment.printed("abort")
        assert "never" not in environment.printed("abort")
    assert (tmp_path / "torn-down").exists()


async def test_a_trial_that_was_not_aborted_runs_no_abort_lines(tmp_path: Path) -> None:
    environment = make(run=["true"], abort=f"touch {tmp_path}/aborted")
    await environment.abort()
    await run_once(environment)
    await environment.abort()
    assert not (tmp_path / "aborted").exists()


async def test_cancelled_during_teardown_still_closes_everything(
    tmp_path: Path, trial_directories: Path
) -> None:
    environment = endless(tmp_path, "teardown")
    assert await environment.setup(TUNABLES, TRIAL)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(environment.teardown)
            while not [path async for path in anyio.Path(trial_directories).glob("*/begun")]:
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()
    assert not list(trial_directories.iterdir())
    await environment.teardown()


async def test_cancelled_before_setup_leaves_nothing() -> None:
    environment = make(setup=["true"], run=["true"])
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with torn_down(environment):
            await environment.setup(TUNABLES, TRIAL)
    await run_once(environment)


# Together


async def test_a_composite_runs_scripts_that_share_parameters() -> None:
    first = {"const_args": {"port": 5432}, "shell_env_params": ["port"], "run": ["echo first: $port"]}
    second = {
        "required_args": ["port"],
        "const_args": {"url": "db://$host:$port"},
        "shell_env_params": ["url"],
        "run": ["echo second: $url"],
    }
    children = [
        {"class": "LocalEnv", "config": {**config, "results_stdout_pattern": PATTERN}}
        for config in (first, second)
    ]
    environment = CompositeEnv(
        name="both", config={"children": children}, tunables=TUNABLES, service=SERVICES
    )
    assert await run_once(environment) == {"first": 5432, "second": "db://localhost:5432"}
