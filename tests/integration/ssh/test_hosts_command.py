"""``windtunnel hosts``: what an experiment's hosts are, and which of them are fit for trials."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.ssh.servers import Fleet, Server, write_key

EXPERIMENT = {
    "experiment": "e",
    "objectives": {"score": "min"},
    "environment": {"class": "MockEnv"},
}


def run(tmp_path: Path, hosts: object, *words: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "e.json").write_text(json.dumps({**EXPERIMENT, "hosts": hosts}), encoding="utf-8")
    command = [sys.executable, "-m", "windtunnel", "hosts", "e.json", *words]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)


def reached(server: Server, name: str, **more: object) -> dict[str, object]:
    """The entry of a host that is this server."""
    return {
        "name": name,
        "address": server.address,
        "port": server.port,
        "key": str(server.key),
        "known_hosts": str(server.known_hosts),
        "ssh_config": False,
        **more,
    }


def test_hosts_are_listed_as_their_ranges_come_to(tmp_path: Path) -> None:
    hosts = [
        {"name": "db[1-2]", "address": "10.0.0.[1-2]", "slots": 2, "labels": ["db", "a"], "jump": "gate"},
        {"name": "load", "user": "bench"},
    ]
    done = run(tmp_path, hosts, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    first, second, load = json.loads(done.stdout)
    assert first == {
        "name": "db1",
        "address": "10.0.0.1",
        "port": None,
        "user": None,
        "slots": 2,
        "labels": ["a", "db"],
        "through": "gate",
    }
    assert (second["name"], second["address"]) == ("db2", "10.0.0.2")
    assert (load["address"], load["user"], load["labels"]) == ("load", "bench", [])
    lines = run(tmp_path, hosts, "list").stdout.splitlines()
    assert any(line.split() == ["db2", "10.0.0.2", "2", "a,", "db", "gate"] for line in lines), lines


def test_a_mistake_in_an_inventory_is_one_of_the_command(tmp_path: Path) -> None:
    done = run(tmp_path, [{"name": "a"}, {"name": "b", "adress": "x"}], "check")
    assert done.returncode == 2
    assert "e.json:1" in done.stderr
    assert "did you mean 'address'" in done.stderr


@pytest.mark.timeout(60)
def test_every_host_that_is_not_fit_is_told_with_one_reason(
    servers: Fleet, server: Server, tmp_path: Path
) -> None:
    other = servers.server()
    nobody = tmp_path / "nobody"
    nobody.write_text(f"[{other.address}]:{other.port} {write_key(tmp_path / 'another')}\n")
    stranger = servers.server()
    silent = socket.create_server(("127.0.0.1", 0))  # it never says a word
    port = silent.getsockname()[1]
    hosts = [
        reached(server, "fit"),
        reached(other, "changed", known_hosts=str(nobody)),
        reached(stranger, "refused", key=str(tmp_path / "another")),
        {"name": "nowhere", "address": "127.0.0.1", "port": 1},
        {"name": "silent", "address": "127.0.0.1", "port": port},
        reached(servers.server(), "unknown", known_hosts=str(tmp_path / "none")),
    ]
    with silent:
        done = run(tmp_path, hosts, "check", "--json", "--limit", "8")
    assert done.returncode == 1
    told: dict[str, dict[str, Any]] = {one["name"]: one for one in json.loads(done.stdout)}
    assert {name: (one["ok"], one["host_key"]) for name, one in told.items()} == {
        "fit": (True, "verified"),
        "changed": (False, "changed"),
        "refused": (False, None),
        "nowhere": (False, None),
        "silent": (False, None),
        "unknown": (False, "unknown"),
    }
    fit = told["fit"]
    assert fit["reason"] is None
    assert fit["latency"] > 0
    assert abs(fit["clock_offset"]) < 1
    assert fit["cpus"] >= 1
    reasons = {name: one["reason"] for name, one in told.items() if not one["ok"]}
    assert all(reason.startswith(f"host {name!r}: ") for name, reason in reasons.items()), reasons
    assert f"{str(nobody)!r} line 1 has" in reasons["changed"]
    assert "refuses the login" in reasons["refused"]
    assert "cannot connect to 127.0.0.1 port 1" in reasons["nowhere"]
    assert f"127.0.0.1 port {port} gave no full answer in 8 s" in reasons["silent"]


def test_hosts_that_are_all_fit_are_a_table(server: Server, tmp_path: Path) -> None:
    pin = server.known_hosts.read_text().split(None, 1)[1].strip()
    hosts = [reached(server, "fit", host_key=pin)]
    del hosts[0]["known_hosts"]
    done = run(tmp_path, hosts, "check")
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = [line for line in done.stdout.splitlines() if line.split()[:1] == ["fit"]]
    assert " ok " in row
    assert " ms " in row
    assert row.rstrip().endswith("pinned")
    assert "1 of 1 host can be used" in done.stdout
