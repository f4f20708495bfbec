"""What the clients make of servers that answer well, badly, or not at all."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from tests.integration.load.playing import played
from tests.integration.load.server import Server, closed_port, serving
from windtunnel.errors import ConfigError, LoadFailed


async def counts(server: Server) -> dict[str, int]:
    return await anyio.to_thread.run_sync(server.counts)


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    """One server for all tests that do not count."""
    with serving() as running:
        yield running


# HTTP


@pytest.mark.parametrize(
    "path", ["", "json", "chunked", "huge", "close", "until-eof", "slow-headers", "continue"]
)
async def test_whole_answers_of_all_kinds_are_answers(shared: Server, path: str) -> None:
    found = await played(6, url=f"{shared.url}{path}")
    assert (found.begun, found.completed, found.errors, found.in_flight) == (6, 6, {}, 0)
    assert found.latency.smallest > 0


@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("unavailable", "status", "status 503"),
        ("nowhere", "status", "status 404"),
        ("reset", "reset", "before it answered"),
        ("silent", "reset", "before it answered"),
        ("short", "reset", "in mid-answer"),
        ("garbage", "protocol", "not HTTP"),
        ("never", "timeout", "no answer within 0.2 s"),
    ],
)
async def test_bad_answers_are_errors_of_their_class(
    shared: Server, path: str, kind: str, message: str
) -> None:
    found = await played(5, url=f"{shared.url}{path}", timeout="200ms")
    assert found.errors == {kind: 5}
    assert message in found.messages[kind]
    assert (found.completed, found.in_flight) == (5 if kind == "status" else 0, 0)


async def test_answer_that_nobody_asked_for_is_an_error(shared: Server) -> None:
    found = await played(4, url=f"{shared.url}twice")
    assert found.errors == {"protocol": 4}


async def test_timeouts_count_in_the_latencies(shared: Server) -> None:
    found = await played(5, url=f"{shared.url}never", timeout="200ms")
    assert found.latency.count == 5
    assert found.latency.quantile(0.5) >= 200_000_000


async def test_one_idle_connection_is_used_again_and_again(server: Server) -> None:
    found = await played(30, url=server.url, apart_s=0.005, connections=1)
    seen = await counts(server)
    assert (seen["/"], found.completed) == (30, 30)
    assert seen["connections"] == 2  # ours, and that of whoever asks for the counts
    assert next(agent for agent in seen if agent.startswith("windtunnel/"))


async def test_limit_holds_back_and_says_so(shared: Server) -> None:
    found = await played(12, url=f"{shared.url}slow-headers", apart_s=0, connections=2)
    assert (found.completed, found.errors) == (12, {})
    assert found.held == 10
    assert found.latency.quantile(1) > 4 * found.latency.smallest  # from when they were due


async def test_methods_bodies_and_headers_arrive(shared: Server, tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("user,id\nann,7\n")
    step = {
        "path": "/echo?id=$id",
        "method": "PUT",
        "headers": {"X-User": "$user"},
        "body": "ü=$user",
        "check": {
            "json": {
                "method": "PUT",
                "body": "ü=ann",
                "headers.x-user": "ann",
                "target": "/echo?id=7",
                "headers.authorization": "token",
            }
        },
    }
    found = await played(
        4,
        directory=tmp_path,
        url=shared.url,
        data="users.csv",
        headers={"Authorization": "token"},
        scenarios=[{"steps": [step]}],
    )
    assert (found.completed, found.errors) == (4, {}), found.messages


async def test_head_has_no_body_and_keeps_its_connection(server: Server) -> None:
    steps = [{"method": "HEAD"}, {"path": "/json"}]
    found = await played(5, url=server.url, connections=1, scenarios=[{"steps": steps}])
    assert (found.completed, found.errors) == (10, {}), found.messages
    assert (await counts(server))["connections"] == 2


async def test_session_takes_values_along_and_names_its_steps(server: Server) -> None:
    steps = [
        {"name": "log in", "path": "/json", "save": {"token": "items.0.token"}, "think": "10ms"},
        {"name": "use", "path": "/echo?t=$token", "check": {"json": {"target": "/echo?t=t-42"}}},
    ]
    found = await played(5, url=server.url, scenarios=[{"steps": steps}])
    assert (found.begun, found.completed, found.errors) == (10, 10, {}), found.messages
    assert {name: one.count for name, one in found.steps.items()} == {"log in": 5, "use": 5}
    assert found.steps["use"].quantile(1) < found.steps["use"].quantile(0.5) + 10**9
    assert (await counts(server))["/echo?t=t-42"] == 5


async def test_failed_check_is_an_answer_and_an_error(shared: Server) -> None:
    steps = [{"path": "/", "check": {"body": "goodbye"}}]
    found = await played(3, url=shared.url, scenarios=[{"steps": steps}])
    assert (found.completed, found.errors) == (3, {"check": 3})
    assert "expected 'goodbye' in the body, found 'hello'" in found.messages["check"]


# Reaching it


async def test_nobody_listens() -> None:
    url = f"http://127.0.0.1:{closed_port()}/"
    with pytest.raises(LoadFailed, match="refused"):
        await played(3, url=url)
    found = await played(3, url=url, prepare=0)
    assert found.errors == {"connect": 3}
    assert (found.sent, found.latency.count) == (0, 0)


async def test_name_that_does_not_exist() -> None:
    with pytest.raises(LoadFailed, match=r"does-not-exist\.invalid:80"):
        await played(1, url="http://does-not-exist.invalid/")


@pytest.fixture
def certificate(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A certificate for localhost and its key in one file, valid for the given days."""
    file, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(file)]
    subprocess.run([*command, "-days", "2"], check=True, capture_output=True)
    if getattr(request, "param", "") == "expired":
        subprocess.run(
            ["openssl", "x509", "-in", str(file), "-signkey", str(key), "-out", str(file), "-days", "-1"],
            check=True,
            capture_output=True,
        )
    file.write_text(file.read_text() + key.read_text())
    return file


async def test_tls_with_a_certificate_that_is_trusted(certificate: Path) -> None:
    with serving("--certificate", str(certificate)) as server:
        url = f"https://localhost:{server.port}/"
        found = await played(6, url=url, ca_file=str(certificate))
        assert (found.completed, found.errors) == (6, {})
        with pytest.raises(LoadFailed, match="certificate is not accepted: self-signed"):
            await played(1, url=url)
        assert (await played(2, url=url, insecure=True)).completed == 2


@pytest.mark.parametrize("certificate", ["expired"], indirect=True)
async def test_expired_certificate_is_named(certificate: Path) -> None:
    with serving("--certificate", str(certificate)) as server:
        url = f"https://localhost:{server.port}/"
        with pytest.raises(LoadFailed, match="expired"):
            await played(1, url=url, ca_file=str(certificate))


async def test_missing_certificates_are_told() -> None:
    with pytest.raises(ConfigError, match=r"missing\.pem"):
        await played(1, url="https://localhost:1/", ca_file="missing.pem")


# Functions


FUNCTIONS = """
import asyncio
from contextlib import asynccontextmanager

events = []

@asynccontextmanager
async def resource():
    events.append("opened")
    yield events
    events.append("closed")

async def load(call):
    call.resource.append(call.number)
    await asyncio.sleep(0.002)

async def check(call):
    assert call.row["user"] == "ann", "it is not ann"

async def refused(call):
    await asyncio.open_connection("127.0.0.1", 1)

async def slow(call):
    await asyncio.sleep(30)

async def broken(call):
    raise KeyError("x")

def plain(call):
    pass
"""


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    (tmp_path / "users.csv").write_text("user\nann\nbob\n")
    return tmp_path


async def call(functions: Path, name: str, count: int = 6, **options: Any) -> Any:
    scenarios = [{"function": f"mine.py:{name}", "name": name}]
    return await played(count, directory=functions, scenarios=scenarios, **options)


async def test_function_is_called_once_an_arrival(functions: Path) -> None:
    found = await call(functions, "load", resource="mine.py:resource")
    assert (found.begun, found.completed, found.errors) == (6, 6, {})
    assert found.latency.smallest >= 2_000_000
    assert found.steps["load"].count == 6


@pytest.mark.parametrize(
    ("name", "errors", "message"),
    [
        ("check", {"check": 3}, "it is not ann"),
        ("refused", {"connect": 6}, "refused"),
        ("slow", {"timeout": 6}, "no end within 0.1 s"),
        ("broken", {"exception": 6}, "KeyError"),
    ],
)
async def test_what_a_function_raises_is_classified(
    functions: Path, name: str, errors: dict[str, int], message: str
) -> None:
    found = await call(functions, name, data="users.csv", timeout="100ms")
    assert found.errors == errors
    assert message in found.messages[next(iter(errors))].lower() or message in str(found.messages)


async def test_function_that_is_not_there_is_told(functions: Path) -> None:
    with pytest.raises(ConfigError, match="no function 'lod'; did you mean 'load'"):
        await call(functions, "lod")
    with pytest.raises(ConfigError, match=r"cannot import 'other\.py'"):
        await played(1, directory=functions, scenarios=[{"function": "other.py:load"}])
