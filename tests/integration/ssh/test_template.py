"""The project that ``windtunnel new --template ssh`` makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.inprocess import make_call
from tests.integration.ssh.servers import Server


@pytest.mark.timeout(40)
def test_it_runs_on_a_host(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = make_call(tmp_path, capsys, monkeypatch)
    assert call("new", "remote", "--template", "ssh").code == 0
    options = server.options()
    given = {
        "address": server.address,
        "port": server.port,
        "key": server.key,
        "known_hosts": server.known_hosts,
        "mib": 1,
    }
    assert options.hostname == server.address
    names = [word for name, value in given.items() for word in ("-g", f"{name}={value}")]
    done = call("run", tmp_path / "remote" / "experiment.yaml", "--trials", "2", "--json", *names)
    assert done.code == 0, done.err
    assert [trial["status"] for trial in done.data["trials"]] == ["SUCCEEDED", "SUCCEEDED"]
    assert {trial["host"] for trial in done.data["trials"]} == {"server"}
