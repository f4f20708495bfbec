"""``windtunnel load``, as a person calls it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.load.server import Server, serving
from windtunnel.cli.main import main


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def load(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "windtunnel", "load", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=18, check=False, cwd=cwd)


def verdict(found: dict[str, Any]) -> tuple[int, str | None]:
    """The exit code, and what is told: on a busy machine the generator may have been too slow."""
    return (0, None) if found["valid"] else (1, "failed: the run is invalid")


def test_json_has_what_programs_ask_for(server: Server) -> None:
    done = load(server.url, "--rate", "200", "--duration", "1s", "--threshold", "errors<1%", "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["problem"]) == verdict(found), done.stderr
    assert (found["sent"], found["completed"], found["errors"], found["offered"]) == (200, 200, 0, 200)
    assert found["rate"] == pytest.approx(200, rel=0.2)
    assert found["duration_s"] == pytest.approx(1, rel=0.2)
    assert {"p50", "p90", "p99", "p999", "max"} <= found["latency_ms"].keys()
    assert found["schedule_error_ms"]["p99"] > 0
    assert isinstance(found["valid"], bool)
    assert found["thresholds"] == [{"threshold": "errors<1%", "value": 0, "kept": True}]
    assert sum(second["sent"] for second in found["seconds"]) == 200
    assert "0 s: 200 sent" in done.stderr or "0 s: 1" in done.stderr


def test_missed_threshold_is_told_and_is_exit_code_1(server: Server) -> None:
    url = f"{server.url}unavailable"
    done = load(url, "--users", "2", "--duration", "500ms", "--threshold", "errors<1%")
    assert done.returncode == 1
    assert "missed: errors<1% (found 100)" in done.stdout
    assert "status: status 503" in done.stdout
    assert "failed: errors<1% was missed" in done.stdout.splitlines()[-1]


def test_run_in_which_every_request_failed_is_exit_code_1(server: Server) -> None:
    done = load(f"{server.url}unavailable", "--rate", "20", "--duration", "500ms", "--json")
    assert done.returncode == 1
    assert "every request failed" in json.loads(done.stdout)["problem"]
    assert "every request failed" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("option", ["--output=none/run.csv", "--steps=none/search.jsonl"])
def test_folder_that_is_missing_is_told_before_the_load(
    server: Server, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["load", server.url, "--find-max-rate", "--slo", "p99<50ms", option]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"error: {option.split('=')[0]}: the folder 'none' does not exist; create it first" in captured.err


def test_plan_in_a_file_with_its_data_and_outputs(server: Server, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user\nann\nbob\n")
    (tmp_path / "shop.yaml").write_text(
        f"""
url: {server.url}
profile:
  - {{rate: 50, for: 500ms}}
  - {{rate: 50, to: 150, for: 500ms}}
data: users.csv
scenarios:
  - name: look
    weight: 3
    steps: [{{path: /echo?u=$user, check: {{status: 200}}}}]
  - name: log in
    steps: [{{path: /json, save: {{id: items.0.id}}}}, {{path: "/echo?id=$id"}}]
"""
    )
    done = load("shop.yaml", "-o", "run.hlog", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert done.returncode == verdict(found)[0], done.stderr
    assert found["offered"] == 75
    assert found["errors"] == 0
    assert found["steps_latency_ms"].keys() == {"look", "log in"}
    log = (tmp_path / "run.hlog").read_text().splitlines()
    assert log[0] == "#[Histogram log format version 1.3]"
    assert log[3].startswith("0.000,")


def test_python_file_is_called(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import asyncio\nasync def load(call):\n    await asyncio.sleep(0.001)\n    assert call.number < 9\n"
    )
    done = load("mine.py", "--rate", "20", "--duration", "1s", "-o", "s.csv", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert (found["sent"], found["errors_by_class"]) == (20, {"check": 11})
    assert (tmp_path / "s.csv").read_text().startswith("second,offered,sent,completed,errors")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["http://127.0.0.1:1/"], 2, "expected one of rate, profile, trace and users, found none"),
        (
            ["http://127.0.0.1:1/", "--rate", "5"],
            1,
            "cannot load 127.0.0.1:1: connection refused; is it running?",
        ),
        (["http://192.0.2.1/", "--rate", "5"], 2, "'192.0.2.1' is not this machine"),
        (["nonsense", "--rate", "5"], 2, "expected a URL such as"),
        (["http://127.0.0.1:1/", "--rate", "5", "--threshold", "p99"], 2, "expected a threshold such as"),
        (["http://127.0.0.1:1/", "--rate", "5", "--threshold", "p99<50"], 2, "write 'p99<50ms' or 'p99<50s'"),
        (["http://127.0.0.1:1/", "--rate", "abc"], 2, "'--rate': expected a number, found 'abc'"),
        (["http://127.0.0.1:1/", "--users", "1.5"], 2, "'--users': expected an integer, found '1.5'"),
        (["http://127.0.0.1:99999/", "--rate", "5"], 2, "expected a url such as http://127.0.0.1:8080/"),
        (["http://127.0.0.1:1/", "--rate", "5", "--generators", "no.yaml"], 2, "there is no inventory"),
        (["http://127.0.0.1:1/", "--find-max-rate"], 2, "--slo 'p99<50ms'"),
        (["missing.py", "--rate", "5"], 2, "cannot read 'missing.py'"),
    ],
)
def test_mistakes_are_told_without_a_traceback(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["load", *arguments]) == code
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told


def test_mistake_in_a_plan_is_told_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text("url: http://127.0.0.1:1/\nrate: 5\nconections: 3\n")
    assert main(["load", str(tmp_path / "bad.yaml")]) == 2
    told = capsys.readouterr().err
    assert "bad.yaml:3:1: unknown key 'conections'; did you mean 'connections'?" in told


def test_ctrl_c_stops_at_once_and_tells_what_there_was(server: Server) -> None:
    command = [sys.executable, "-m", "windtunnel", "load", server.url, "--rate", "50", "--duration", "60s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "0 s: 5" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(timeout=8) == 3
    assert "ended early: stopped" in rest
