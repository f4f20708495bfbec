"""Hosts as an experiment's file lists them, and what a trial may ask of them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from windtunnel.config.inventory import HostsConfig, find_hosts
from windtunnel.config.roles import HostsPerTrial, as_request, check_hosts
from windtunnel.errors import ConfigError
from windtunnel.options import Options, parse_options
from windtunnel.scheduling.hosts import Host, Request, Role
from windtunnel.services.ssh.options import HostOpsOptions, SshOptions

HERE = Path("/experiments")


class _File(Options):
    hosts: HostsConfig
    hosts_per_trial: HostsPerTrial | None = None


def _found(*entries: object, directory: Path = HERE) -> tuple[Host, ...]:
    return find_hosts(parse_options(_File, {"hosts": list(entries)}).hosts, directory)


def _refused(raw: object, directory: Path = HERE) -> str:
    with pytest.raises(ConfigError) as caught:
        find_hosts(parse_options(_File, {"hosts": raw}).hosts, directory)
    return str(caught.value)


def _ssh(host: Host) -> SshOptions:
    assert isinstance(host.options, SshOptions)
    return host.options


def test_ranges_of_names_and_addresses_go_together() -> None:
    hosts = _found(
        {
            "name": "node[01-64]",
            "address": "10.0.0.[1-64]",
            "port": 2222,
            "user": "bench",
            "slots": 2,
            "labels": ["db", "rack-1"],
            "vars": {"disk": "nvme0n1"},
        },
        {"name": "client"},
    )
    assert len(hosts) == 65
    node = hosts[63]
    assert (node.name, node.address, node.port, node.user) == ("node64", "10.0.0.64", 2222, "bench")
    assert (node.slots, node.labels, node.variables) == (2, frozenset({"db", "rack-1"}), {"disk": "nvme0n1"})
    assert (_ssh(node).hostname, _ssh(node).port, _ssh(node).username) == ("10.0.0.64", 2222, "bench")
    client = hosts[64]
    assert (client.address, client.port, client.user, client.slots) == ("client", None, None, 1)
    assert client.labels == frozenset()


def test_how_a_host_is_started_and_stopped() -> None:
    power = {"start_command": "ipmitool -H $HOST-bmc chassis power on", "boot_timeout": "3m"}
    node, client = _found({"name": "node", "power": power}, {"name": "client"})
    assert isinstance(node.power, HostOpsOptions)
    assert node.power.start_command == "ipmitool -H $HOST-bmc chassis power on"
    assert node.power.boot_timeout == timedelta(minutes=3)
    assert client.power is None
    refused = _refused([{"name": "node", "power": {"start_comand": "true"}}])
    assert refused.startswith("hosts.0.power.start_comand: unknown key 'start_comand'; did you mean 'start_c")


def test_hosts_are_told_apart_by_name() -> None:
    first, again = _found({"name": "a", "labels": "x"}), _found({"name": "a", "labels": "x"})
    assert first == again
    assert hash(first[0]) == hash(again[0]) == hash(_found({"name": "a", "slots": 2})[0])


def test_relative_paths_start_where_the_file_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    (host,) = _found(
        {
            "name": "a",
            "key": "~/.ssh/bench",
            "known_hosts": ["./known_hosts", "/etc/ssh/ssh_known_hosts"],
            "password": "file:secrets/login",
            "passphrase": "env:PASSPHRASE",
            "ssh_config": "ssh_config",
            "jump": "ann@gate:2022",
        }
    )
    options = _ssh(host)
    assert options.key == (Path("/home/ann/.ssh/bench"),)
    assert options.known_hosts == (HERE / "known_hosts", Path("/etc/ssh/ssh_known_hosts"))
    assert (options.password, options.passphrase) == (f"file:{HERE}/secrets/login", "env:PASSPHRASE")
    assert (options.ssh_config, options.proxy_jump) == (HERE / "ssh_config", "ann@gate:2022")


def test_what_is_not_said_is_left_to_the_connection() -> None:
    (host,) = _found({"name": "a"})
    assert _ssh(host) == SshOptions(hostname="a")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"address": "a"}, "hosts.0.name: missing key 'name'"),
        ({"name": "a", "labls": ["x"]}, "hosts.0.labls: unknown key 'labls'; did you mean 'labels'?"),
        ({"name": "a", "slots": 0}, "hosts.0.slots: expected at least 1, found 0"),
        ({"name": "a", "port": 70000}, "hosts.0.port: expected at most 65535, found 70000"),
        ({"name": "n[3-1]"}, "hosts.0.name: the range [3-1] is empty"),
        (
            {"name": "n[1-3]", "address": "10.0.0.[1-4]"},
            "hosts.0.address: expected as many addresses as names",
        ),
        ({"name": "n[1-3]", "address": "10.0.0.1"}, "found 1 for 3"),
        ({"name": "n", "address": "10.0.0.[1-4]"}, "found 4 for 1"),
        ({"name": "a b"}, "hosts.0.name: expected letters"),
        ({"name": "a", "address": "-oProxyCommand=x"}, "hosts.0.address: expected letters"),
        ({"name": "a", "labels": ["x y"]}, "hosts.0.labels.0: "),
        ({"name": "a", "vars": {"not a name": 1}}, "hosts.0.vars.not a name: expected a name"),
        ({"name": "a", "vars": {"x": [1]}}, "hosts.0.vars.x: expected a string, a number"),
        ({"name": "a", "host_keys": "accept-new"}, "host_keys: accept-new needs known_hosts"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(entry: dict[str, Any], message: str) -> None:
    assert message in _refused([entry])


def test_a_secret_does_not_stand_in_the_file() -> None:
    message = _refused([{"name": "a", "password": "hunter2"}])
    assert "hosts.0.password" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["n[1-3]", "n3"], "hosts.1.name: host 'n3' stands twice, first hosts.0"),
        (
            [("a", "10.0.0.1"), ("b", "10.0.0.1")],
            "hosts.1.name: hosts 'a' and 'b' are one machine, 10.0.0.1:22",
        ),
    ],
)
def test_a_host_stands_there_once(entries: list[str | tuple[str, str]], message: str) -> None:
    raw = [{"name": one} if isinstance(one, str) else {"name": one[0], "address": one[1]} for one in entries]
    assert message in _refused(raw)


def test_one_address_may_be_several_machines() -> None:
    at = {"address": "10.0.0.1"}
    hosts = _found(
        {"name": "a", **at}, {"name": "b", **at, "port": 2222}, {"name": "c", **at, "jump": "gate"}
    )
    assert [host.name for host in hosts] == ["a", "b", "c"]


@pytest.mark.parametrize("raw", [[], 3, None, True])
def test_hosts_are_a_list_or_a_file(raw: object) -> None:
    assert "hosts: expected a list of hosts or the path of an inventory" in _refused(raw)


# hosts_per_trial


def _asked(roles: object) -> Request | None:
    return as_request(
        parse_options(_File, {"hosts": [{"name": "a"}], "hosts_per_trial": roles}).hosts_per_trial
    )


def test_a_trial_asks_for_one_host_unless_it_says_otherwise() -> None:
    assert as_request(None) is None
    assert _asked(
        {"server": {"labels": ["db"]}, "client": {"count": 2, "labels": "load"}, "rest": 3}
    ) == Request(
        {
            "server": Role(1, frozenset({"db"})),
            "client": Role(2, frozenset({"load"})),
            "rest": Role(3),
        }
    )


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({}, "hosts_per_trial: expected at least 1 of them"),
        ({"a b": {}}, "hosts_per_trial"),
        ({"server": {"count": 0}}, "hosts_per_trial.server.count: expected at least 1, found 0"),
        (
            {"server": {"lables": []}},
            "hosts_per_trial.server.lables: unknown key 'lables'; did you mean 'labels'?",
        ),
        ({f"r{n}": {} for n in range(9)}, "hosts_per_trial: expected at most 8 of them"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(roles: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _asked(roles)
    assert message in str(caught.value)


def test_there_must_be_enough_hosts_for_one_trial() -> None:
    hosts = [Host(name="a", labels=frozenset({"db", "load"})), Host(name="b", slots=4)]
    db, load = Role(1, frozenset({"db"})), Role(1, frozenset({"load"}))
    check_hosts(Request({"server": db, "client": Role()}), hosts)
    with pytest.raises(ConfigError) as caught:
        check_hosts(Request({"client": Role(2, frozenset({"load"}))}), hosts)
    assert str(caught.value) == "hosts_per_trial.client: expected 2 hosts labelled load, found 1 among hosts"
    with pytest.raises(ConfigError) as caught:
        check_hosts(Request({"server": db, "client": load}), hosts)
    assert str(caught.value) == (
        "hosts_per_trial: expected 2 hosts labelled db or load for server and client together, "
        "found 1 among hosts"
    )
