"""A planted secret is looked for in all that comes out: the database, output, logs, errors, arguments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.inprocess import Call, make_call

FROM_ENVIRONMENT = "hunter2-from-the-environment"
FROM_FILE = "hunter2-from-a-file"
PROGRAM = [sys.executable, "-m", "windtunnel"]
# The script does what scripts do: it shows its environment when it fails, and lists all processes' arguments.
SCRIPT = """\
cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' > "$config_dir/arguments.txt"
test -n "$token" && test -n "$key" || exit 9
echo "score: 1"
if [ "$x" -gt 4 ]; then env; env >&2; echo "telemetry noise=1"; exit 3; fi
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLANTED", FROM_ENVIRONMENT)
    (tmp_path / "key.txt").write_text(f"{FROM_FILE}\n")
    (tmp_path / "bench.sh").write_text(SCRIPT)
    describe(tmp_path)
    return tmp_path


def describe(home: Path, **changes: Any) -> None:
    config: dict[str, Any] = {
        "const_args": {"token": "$PLANTED", "key": "${file:key.txt}"},
        "shell_env_params": ["token", "key", "x"],
        "run": ['sh "$config_dir/bench.sh"'],
        "teardown": ['test "$x" -le 6 || { echo "$token" >&2; exit 4; }'],
        "results_stdout_pattern": r"^(?P<metric>\w+): (?P<value>\S+)$",
    }
    described: dict[str, Any] = {
        "experiment": "planted",
        "objectives": {"score": "max"},
        "trials": 6,
        "retries": {"run": {"times": 1, "pause": "1ms"}},
        "optimizer": {"name": "grid", "points": 6},
        "tunables": {"g": {"params": {"x": {"type": "int", "range": [0, 9], "default": 1}}}},
        "environment": {"class": "LocalEnv", "config": {**config, **changes.pop("config", {})}},
    }
    (home / "e.json").write_text(json.dumps({**described, **changes}, indent=1))


@pytest.fixture
def call(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    return make_call(home, capsys, monkeypatch)


def found_in(text: str) -> list[str]:
    return [line for line in text.splitlines() if "hunter2" in line]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_nothing_that_a_run_leaves_holds_it(home: Path, log_format: str) -> None:
    done = subprocess.run(
        [*PROGRAM, "run", "e.json", "-vv", "--log-format", log_format],
        cwd=home,
        env={**os.environ, "PLANTED": FROM_ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert "3 failed" in done.stdout or "failed" in done.stdout, (
        "the trials that print their environment fail"
    )
    assert "teardown of trial" in done.stderr, "what fails in a teardown is logged"
    assert found_in(done.stdout + done.stderr) == []
    assert "$PLANTED" in done.stdout + done.stderr, "where it stood, its reference stands"
    for file in home.glob("windtunnel.db*"):
        assert b"hunter2" not in file.read_bytes(), file
    arguments = (home / "arguments.txt").read_text()
    assert "bench.sh" in arguments
    assert found_in(arguments) == []


def test_nothing_that_other_commands_print_holds_it(home: Path, call: Call) -> None:
    assert call("run", "e.json").code in (0, 1)
    for command in (
        ("list",),
        ("list", "--json"),
        ("show", "planted"),
        ("show", "planted", "--json"),
        ("show", "planted", "--trial", "6"),
        ("show", "planted", "--trial", "6", "--json"),
        ("export", "planted", "--format", "jsonl"),
        ("export", "planted", "--telemetry"),
        ("validate", "e.json"),
        ("show-config", "e.json"),
        ("show-config", "e.json", "--json"),
        ("run", "e.json", "--dry-run"),
        ("run", "e.json", "--dry-run", "--json"),
        ("resume", "planted", "--trials", "7"),
        ("watch", "planted", "--once"),
        ("watch", "planted", "--once", "--json"),
        ("copy", "sqlite:///windtunnel.db", "sqlite:///copy.db"),
    ):
        done = call(*command)
        assert "Traceback" not in done.err
        assert done.code in (0, 1), (command, done.err)
        assert found_in(done.out + done.err) == [], command
    assert b"hunter2" not in (home / "copy.db").read_bytes()
    assert (
        "exit status 3" in call("show", "planted", "--trial", "6").out
        or "status 3" in call("show", "planted", "--trial", "6").out
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"trials": "$PLANTED"},
        {"objectives": {"score": "${file:key.txt}"}},
        {"optimizer": "$PLANTED"},
        {"environment": {"class": "$PLANTED"}},
        {"storage": "nonsuch://me:${file:key.txt}@db/x"},
        {"storage": "sqlite:////nonsuch/$PLANTED/x.db"},
        {"hosts": [{"name": "a", "address": "192.0.2.1", "password": "$PLANTED"}]},
        {"tunables": {"g": {"params": {"x": {"type": "$PLANTED", "default": 1}}}}},
        {"config": {"shell_env_params": ["$PLANTED"]}},
        {"environment": {"class": "FunctionEnv", "config": {"function": "$PLANTED:bench"}}},
    ],
    ids=str,
)
def test_no_error_tells_it(home: Path, call: Call, changes: dict[str, Any]) -> None:
    describe(home, **changes)
    for command in ("run", "validate", "show-config"):
        done = call(command, "e.json")
        assert found_in(done.out + done.err) == [], command
        assert "Traceback" not in done.err
    assert call("run", "e.json").code in (1, 2)


@pytest.mark.parametrize(
    "url",
    [
        "nonsuch://me:hunter2-in-the-url@127.0.0.1/bench",
        "postgresql://me:hunter2-in-the-url@127.0.0.1:port/bench",
        "postgresql://me:hunter2-in/the#url@here@127.0.0.1:port/bench",
        "sqlite://me:hunter2-in-the-url@127.0.0.1/bench",
    ],
)
def test_no_error_tells_the_password_of_a_database(call: Call, url: str) -> None:
    for command in (
        ("run", "e.json", "--storage", url),
        ("list", "--storage", url),
        ("show", "planted", "--storage", url),
        ("copy", url, "sqlite:///x.db"),
    ):
        done = call(*command)
        assert done.code in (1, 2), command
        assert found_in(done.out + done.err) == [], command
        assert "Traceback" not in done.err, done.err


def test_a_server_that_cannot_be_reached_is_told_without_its_password(call: Call) -> None:
    done = call("list", "--storage", "postgresql://me:hunter2-in-the-url@127.0.0.1:1/bench")
    assert done.code == 1
    assert "postgresql://me:***@127.0.0.1:1/bench: cannot be reached" in done.err
    assert found_in(done.out + done.err) == []
