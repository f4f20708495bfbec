"""The command line as people and programs use it: real processes, real databases."""

from __future__ import annotations

import json
import os
import pty
import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ
from typing import Any

import pytest

from windtunnel.storage.schema import VERSION_TABLE

WINDTUNNEL = [sys.executable, "-m", "windtunnel"]
EXPERIMENT: dict[str, Any] = {
    "experiment": "mock",
    "objectives": {"score": "min"},
    "trials": 6,
    "repeats": 2,
    "concurrency": 2,
    "optimizer": {"name": "random", "seed": 1},
    "tunables": {"g": {"cost": 1, "params": {"x": {"type": "int", "range": [0, 100], "default": 50}}}},
    "environment": {"class": "MockEnv", "config": {"telemetry": 2}},
}

TRIAL_KEYS = [
    *("trial_id", "config_id", "status", "attempt", "config"),
    *("metrics", "host", "started", "ended", "failure"),
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def described(
    home: Path, *, name: str = "experiment.json", mock: dict[str, Any] | None = None, **changes: Any
) -> str:
    """A file that describes a small experiment; its name."""
    environment = {"class": "MockEnv", "config": {"telemetry": 2, **(mock or {})}}
    (home / name).write_text(json.dumps({**EXPERIMENT, "environment": environment, **changes}))
    return name


def environ(**more: str) -> dict[str, str]:
    kept = {
        key: value for key, value in os.environ.items() if key not in ("COLUMNS", "FORCE_COLOR", "NO_COLOR")
    }
    return {**kept, **more}


def call(home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*WINDTUNNEL, *arguments],
        cwd=home,
        env=environ(**more),
        text=True,
        capture_output=True,
        timeout=20,
        check=False,
    )


def fine(home: Path, *arguments: str) -> str:
    done = call(home, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# The commands


def test_run_then_list_then_show(home: Path) -> None:
    output = fine(home, "run", described(home))
    assert "[6/6] trial" in output
    assert "6 trials: 6 succeeded" in output
    assert "best configuration" in output
    assert "windtunnel show mock" in output
    assert "mock" in fine(home, "list")
    shown = fine(home, "show", "mock")
    assert "6 trials: 6 succeeded" in shown
    assert "best 3 of 3 configurations" in shown
    assert "mean ± standard deviation of 2 trials" in shown
    assert "\x1b" not in output + shown


def test_running_a_complete_experiment_again_says_so(home: Path) -> None:
    file = described(home)
    fine(home, "run", file)
    assert "nothing to do: mock is complete" in fine(home, "run", file)
    assert "8 trials: 8 succeeded" in fine(home, "run", file, "--trials", "8")


def test_options_win_over_the_file(home: Path) -> None:
    file = described(home, experiment="of-$who")
    url = "sqlite:///other.db"
    arguments = ("--storage", url, "--trials", "3", "--concurrency", "3", "--seed", "7", "-g", "who=me")
    output = fine(home, "run", file, *arguments)
    assert "windtunnel show of-me --storage sqlite:///other.db" in output
    assert not (home / "windtunnel.db").exists()
    (listed,) = json.loads(fine(home, "list", "--storage", url, "--json"))
    assert (listed["experiment_id"], listed["trials"]) == ("of-me", 3)


def test_json_holds_what_is_documented(home: Path) -> None:
    done = call(home, "run", described(home, mock={"fail": 0.3}, trials=8), "--json")
    ran = json.loads(done.stdout)
    assert "trials" in done.stderr
    shown = json.loads(fine(home, "show", "mock", "--json"))
    assert list(shown) == ["experiment_id", "objectives", "best", "trials"]
    assert ran == {**shown, "stopped_by": None, "stopped_because": None, "outlier_hosts": []}
    statuses = [one["status"] for one in ran["trials"]]
    assert [one["trial_id"] for one in ran["trials"]] == list(range(1, 9))
    assert {"SUCCEEDED", "FAILED"} == set(statuses)
    for one in ran["trials"]:
        assert list(one) == TRIAL_KEYS
        began, ended = (datetime.fromisoformat(one[key]) for key in ("started", "ended"))
        assert began.tzinfo == UTC
        assert began <= ended
        assert (one["metrics"] is None) == (one["failure"] is not None) == (one["status"] == "FAILED")
    assert list(ran["best"]) == ["trial_id", "config_id", "config", "metrics"]
    assert json.loads(fine(home, "list", "--json")) == [
        {
            "experiment_id": "mock",
            "objectives": {"score": "min"},
            "trials": 8,
            "pending": 0,
            "running": 0,
            "succeeded": statuses.count("SUCCEEDED"),
            "failed": statuses.count("FAILED"),
            "canceled": 0,
            "best": ran["best"],
        }
    ]


def test_what_an_environment_prints_does_not_get_between_the_json(home: Path) -> None:
    (home / "chatty.py").write_text(
        "from windtunnel.environments import MockEnv\n"
        "class ChattyEnv(MockEnv):\n"
        "    async def _run(self):\n"
        "        print('hello')\n"
        "        return await super()._run()\n"
    )
    file = described(home, environment={"class": "chatty.ChattyEnv", "config": {}})
    done = call(home, "run", file, "--json", PYTHONPATH=str(home))
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["trials"]) == 6
    assert "hello" in done.stderr


def test_many_trials_do_not_flood_the_output(home: Path) -> None:
    output = fine(home, "run", described(home, trials=1000, concurrency=50, mock={"telemetry": 0}))
    assert "1000 trials: 1000 succeeded" in output
    assert len(output.splitlines()) < 20


@pytest.mark.parametrize("arguments", [("list",), ("show", "mock")])
def test_looking_makes_no_database(home: Path, arguments: tuple[str, ...]) -> None:
    done = call(home, *arguments)
    assert done.returncode == 2
    assert "there is no database 'windtunnel.db'; name one with --storage" in done.stderr
    assert list(home.iterdir()) == []


def test_a_reader_that_goes_away_stops_nothing(home: Path) -> None:
    file = described(home, mock={"duration": "200ms"}, trials=12)
    command = f"set -o pipefail; '{sys.executable}' -m windtunnel run {file} | head -n 1"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=home,
        env=environ(),
        text=True,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(fine(home, "list", "--json"))[0]["succeeded"] == 12


# Failure


def test_exit_code_and_last_failure_when_nothing_succeeds(home: Path) -> None:
    config = {
        "run": ["echo the disk is missing >&2; exit 3"],
        "results_stdout_pattern": r"(?P<metric>\w+)=(?P<value>\S+)",
    }
    file = described(home, environment={"class": "LocalEnv", "config": config}, trials=2)
    done = call(home, "run", file)
    assert done.returncode == 1
    assert "2 trials: 2 failed" in done.stdout
    assert "last failure: trial" in done.stdout
    assert "the disk is missing" in done.stdout
    assert "failed: no trial succeeded" in done.stdout
    assert "the disk is missing" in fine(home, "show", "mock")


@contextmanager
def interrupted_in_the_middle(home: Path, file: str, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A run of which some trials are done and others run."""
    with subprocess.Popen(
        [*WINDTUNNEL, "run", file, *more],
        cwd=home,
        env=environ(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        try:
            assert process.stdout is not None
            while not (line := process.stdout.readline()).startswith("["):
                assert line, process.communicate()[1]
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_left_in_order_and_resumes(home: Path, number: signal.Signals) -> None:
    file = described(home, mock={"duration": "300ms"}, trials=10)
    with interrupted_in_the_middle(home, file) as process:
        process.send_signal(number)
        output, errors = process.communicate(timeout=15)
    assert process.returncode == 3
    assert errors == ""
    assert "stopping: running trials are cancelled and torn down" in output
    assert "run the same command to resume" in output
    (left,) = json.loads(fine(home, "list", "--json"))
    assert left["running"] == 0
    assert left["canceled"] > 0
    assert 0 < left["succeeded"] < 10
    before = json.loads(fine(home, "show", "mock", "--json"))["trials"]
    assert {one["failure"] for one in before if one["status"] == "CANCELED"} == {"interrupted"}

    again = json.loads(fine(home, "run", file, "--json"))["trials"]
    assert [one["status"] for one in again] == ["SUCCEEDED"] * 10
    finished = [one for one in before if one["status"] == "SUCCEEDED"]
    assert [one for one in again if one["trial_id"] in {done["trial_id"] for done in finished}] == finished


def test_a_second_ctrl_c_cuts_the_teardown_short(home: Path) -> None:
    config = {
        "run": ["test $x = 50 || sleep 30; echo score=1"],
        "teardown": ["test $x = 50 || { echo begun > $config_dir/told; sleep 30; }"],
        "shell_env_params": ["x"],
        "results_stdout_pattern": r"(?P<metric>\w+)=(?P<value>\S+)",
    }
    local = {"class": "LocalEnv", "config": config}
    file = described(home, environment=local, trials=4, repeats=1, concurrency=1)
    os.mkfifo(home / "told")
    with interrupted_in_the_middle(home, file) as process:
        process.send_signal(signal.SIGINT)
        assert (home / "told").read_text() == "begun\n"  # waits for the teardown
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=15)
    assert process.returncode == 4
    assert "stopping now" in output
    assert "teardowns were cut short" in output
    assert "was cut off when asked to stop now; something of it may be left behind" in output + errors
    assert "Traceback" not in errors
    (left,) = json.loads(fine(home, "list", "--json"))
    assert (left["running"], left["succeeded"], left["canceled"]) == (0, 1, 1)


def test_ctrl_c_before_anything_runs(home: Path) -> None:
    os.mkfifo(home / "late.yaml")
    with (
        subprocess.Popen(
            [*WINDTUNNEL, "run", "late.yaml"],
            cwd=home,
            env=environ(),
            text=True,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ) as process,
        (home / "late.yaml").open("w"),
    ):  # waits until it is being read
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=15)
    assert (process.returncode, errors) == (3, "interrupted\n")


def test_after_a_kill_the_run_resumes(home: Path) -> None:
    file = described(home, mock={"duration": "300ms"}, trials=8)
    with interrupted_in_the_middle(home, file) as process:
        process.kill()
        process.communicate(timeout=15)
    trials = json.loads(fine(home, "run", file, "--json"))["trials"]
    assert [one["status"] for one in trials] == ["SUCCEEDED"] * 8


# Misuse


def _text(home: Path) -> None:
    (home / "windtunnel.db").write_text("this is no database\n" * 100)


def _foreign(home: Path) -> None:
    with closing(sqlite3.connect(home / "windtunnel.db")) as db:
        db.execute("CREATE TABLE customers (id INTEGER)")
        db.commit()


def _newer(home: Path) -> None:
    fine(home, "run", described(home))
    with closing(sqlite3.connect(home / "windtunnel.db")) as db:
        db.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
        db.commit()


def _folder(home: Path) -> None:
    (home / "windtunnel.db").mkdir()


def _known(home: Path) -> None:
    fine(home, "run", described(home))


def _nothing(_home: Path) -> None:
    pass


def _bad_value(home: Path) -> None:
    params = {"x": {"type": "int", "range": [0, 100], "default": 500}}
    described(home, tunables={"g": {"cost": 1, "params": params}})


def _unknown_key(home: Path) -> None:
    described(home, trails=3)


@pytest.mark.parametrize(
    ("prepare", "arguments", "code", "says"),
    [
        (_nothing, ["run", "absent.yaml"], 2, ["absent.yaml"]),
        (_nothing, ["run", "."], 2, ["directory"]),
        (_nothing, ["run"], 2, ["Missing argument"]),
        (_nothing, ["rnu"], 2, ["No such command 'rnu'"]),
        (_nothing, ["list", "--nope"], 2, ["--nope"]),
        (_nothing, ["run", "x.yaml", "--trials", "many"], 2, ["--trials"]),
        (described, ["run", "experiment.json", "--trials", "0"], 2, ["trials", "at least 1", "0"]),
        (described, ["run", "experiment.json", "-g", "[b]nonsense"], 2, ["NAME=VALUE", "[b]nonsense"]),
        (described, ["run", "experiment.json", "--storage", "runs.db"], 2, ["sqlite:///"]),
        (
            described,
            ["run", "experiment.json", "--storage", "sqlite:///no/x.db"],
            2,
            ["there is no folder"],
        ),
        (_nothing, ["list", "--storage", "runs.db"], 2, ["sqlite:///"]),
        (_bad_value, ["run", "experiment.json"], 2, ["experiment.json:1", "500", "[0, 100]"]),
        (_unknown_key, ["run", "experiment.json"], 2, ["'trails'", "did you mean 'trials'"]),
        (_known, ["show", "mick"], 2, ["there is no experiment 'mick'", "there are: mock"]),
        (_text, ["list"], 1, ["not an SQLite database"]),
        (_foreign, ["list"], 1, ["customers", "another program"]),
        (_foreign, ["show", "mock"], 1, ["customers", "another program"]),
        (_newer, ["list"], 1, ["9999", "install a newer windtunnel"]),
        (_newer, ["run", "experiment.json"], 1, ["9999", "install a newer windtunnel"]),
        (_folder, ["list"], 1, ["is a folder"]),
    ],
)
def test_misuse_gives_one_clear_error(
    home: Path, prepare: Any, arguments: list[str], code: int, says: list[str]
) -> None:
    prepare(home)
    done = call(home, *arguments)
    assert done.returncode == code, done.stderr
    assert all(part in done.stderr for part in says), done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_database_that_another_program_locks(home: Path) -> None:
    fine(home, "run", described(home))
    with closing(sqlite3.connect(home / "windtunnel.db", isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=DELETE")
        db.execute("BEGIN EXCLUSIVE")
        done = call(home, "list")
    assert done.returncode == 1
    assert "locked" in done.stderr
    assert "close that program" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(fine(home, "list", "--json"))[0]["succeeded"] == 6


def test_a_bug_of_ours_is_shown_with_its_traceback(home: Path) -> None:
    code = (
        "import sys, windtunnel.cli.main as m, windtunnel.cli.stored as s\n"
        "def broken(*a, **k): raise RuntimeError('oops')\n"
        "s.list_experiments = broken\n"
        "sys.exit(m.main(['list']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=home, text=True, capture_output=True, timeout=20, check=False
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "please report it" in done.stderr


# Help


def test_version(home: Path) -> None:
    assert fine(home, "--version").startswith("windtunnel 0.")


@pytest.mark.parametrize("command", ["run", "worker", "list", "show", "demo"])
def test_every_command_explains_itself_with_an_example(home: Path, command: str) -> None:
    assert f"\n    windtunnel {command}" in fine(home, command, "--help")


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_loads_nothing_heavy(home: Path, argument: str) -> None:
    code = (
        "import sys; from windtunnel.cli.main import main\n"
        f"code = main([{argument!r}])\n"
        "heavy = {'sqlalchemy', 'pydantic', 'alembic', 'asyncssh', 'aiosqlite', 'ruamel'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=home, text=True, capture_output=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_listing_loads_only_what_it_needs(home: Path) -> None:
    described(home)
    assert call(home, "run", "experiment.json").returncode == 0
    code = (
        "import sys; from windtunnel.cli.main import main\n"
        "code = main(['list'])\n"
        "heavy = {'alembic', 'asyncssh', 'ruamel', 'sqlalchemy.orm', 'sqlalchemy.dialects.mysql'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=home, text=True, capture_output=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr


# A terminal


def on_a_terminal(home: Path, *arguments: str, **more: str) -> tuple[int, str]:
    """The exit code and everything that was written to a terminal of 30 lines and 100 columns."""
    master, slave = pty.openpty()
    ioctl(slave, TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    with subprocess.Popen(
        [*WINDTUNNEL, *arguments],
        cwd=home,
        env=environ(**{"TERM": "xterm-256color", **more}),
        stdin=slave,
        stdout=slave,
        stderr=slave,
    ) as process:
        os.close(slave)
        written = b"".join(iter(lambda: _read(master), b""))
        os.close(master)
    return process.returncode, written.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other end is closed
        return b""


def test_a_terminal_gets_a_live_view(home: Path) -> None:
    file = described(home, mock={"duration": "600ms", "telemetry": 20}, trials=6)
    code, screen = on_a_terminal(home, "run", file)
    assert code == 0, screen
    assert "━━━━━━" in screen
    assert "/6 trials" in screen
    assert "score=" in screen
    assert "localhost" in screen
    assert "\x1b[?25l" in screen
    assert "\x1b[?25h" in screen  # the cursor is back
    assert "6 trials: 6 succeeded" in screen


@pytest.mark.parametrize(
    ("variables", "live"),
    [({"TERM": "dumb"}, False), ({"NO_COLOR": "1"}, True), ({"FORCE_COLOR": "1"}, True)],
)
def test_the_terminal_says_what_it_can(home: Path, variables: dict[str, str], live: bool) -> None:
    code, screen = on_a_terminal(home, "run", described(home), **variables)
    assert code == 0, screen
    assert ("━━━" in screen) == live
    assert ("[6/6] trial" in screen) != live
    assert ("\x1b[32m" in screen or "\x1b[1;32m" in screen) == ("FORCE_COLOR" in variables)


def test_colours_on_request_make_a_pipe_no_terminal(home: Path) -> None:
    done = call(home, "run", described(home), FORCE_COLOR="1")
    assert done.returncode == 0
    assert "\x1b[?25l" not in done.stdout
    assert "[6/6] trial" in done.stdout
