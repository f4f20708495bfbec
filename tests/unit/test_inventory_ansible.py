"""Hosts from other files: Ansible inventories, INI and YAML, and lists of hosts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from windtunnel.config.inventory import HostsConfig, find_hosts
from windtunnel.errors import ConfigError
from windtunnel.options import Options, parse_options
from windtunnel.scheduling.hosts import Host
from windtunnel.services.ssh.options import SshOptions

INI = """\
; machines of the lab
lonely ansible_host=10.1.0.1

[db]
db[01:03].lab  ansible_port=2200   # three of them
db9.lab:2222   ansible_user="the boss" disk=nvme0n1

[load]
load-[a:b]

[bench:children]
db
load

[bench:vars]
ansible_user=bench
ansible_ssh_private_key_file = keys/bench
note=for 'benchmarks' only
disk=sda
[db:vars]
disk=sdb  # wins over bench
"""
YAML = """\
all:
  vars: {ansible_user: bench, ansible_ssh_private_key_file: keys/bench, disk: sda}
  hosts:
    lonely: {ansible_host: 10.1.0.1, ansible_user: root}
  children:
    bench:
      vars:
        ansible_ssh_common_args: '-o ProxyJump=gate -v'
      children:
        db:
          hosts:
            db[01:03].lab: {ansible_port: 2200}
            db9.lab: {ansible_port: 2222, secret: '{{ vault }}'}
          vars: {disk: sdb}
        load:
load:
  hosts:
    load-[a:b]:
"""


class _File(Options):
    hosts: HostsConfig


def _read(tmp_path: Path, text: str, name: str = "inventory.ini", **defaults: Any) -> dict[str, Host]:
    (tmp_path / name).write_text(text, encoding="utf-8")
    raw = {"ansible": name, **defaults} if defaults else name
    hosts = find_hosts(parse_options(_File, {"hosts": raw}).hosts, tmp_path)
    return {host.name: host for host in hosts}


def _refused(tmp_path: Path, text: str, name: str = "inventory.ini") -> str:
    with pytest.raises(ConfigError) as caught:
        _read(tmp_path, text, name)
    return str(caught.value).removeprefix(f"{tmp_path / name}:")


def _ssh(host: Host) -> SshOptions:
    assert isinstance(host.options, SshOptions)
    return host.options


def test_an_ini_inventory(tmp_path: Path) -> None:
    hosts = _read(tmp_path, INI)
    assert list(hosts) == ["lonely", "db01.lab", "db02.lab", "db03.lab", "db9.lab", "load-a", "load-b"]
    lonely, db2, db9, load = (hosts[name] for name in ("lonely", "db02.lab", "db9.lab", "load-a"))
    assert (lonely.address, lonely.user, lonely.port, lonely.labels) == ("10.1.0.1", None, None, frozenset())
    assert (db2.address, db2.user, db2.port, db2.labels) == (
        "db02.lab",
        "bench",
        2200,
        frozenset({"db", "bench"}),
    )
    assert db2.variables == {"disk": "sdb", "note": "for 'benchmarks' only"}
    assert (db9.user, db9.port, db9.variables["disk"]) == ("the boss", 2222, "nvme0n1")
    assert (load.labels, load.variables["disk"]) == (frozenset({"load", "bench"}), "sda")
    assert _ssh(load).key == (tmp_path / "keys/bench",)
    assert _ssh(lonely).key == ()


def test_a_yaml_inventory(tmp_path: Path) -> None:
    hosts = _read(tmp_path, YAML, "inventory.yml")
    assert set(hosts) == {"lonely", "db01.lab", "db02.lab", "db03.lab", "db9.lab", "load-a", "load-b"}
    lonely, db2, db9, load = (hosts[name] for name in ("lonely", "db02.lab", "db9.lab", "load-a"))
    assert (lonely.address, lonely.user, lonely.labels) == ("10.1.0.1", "root", frozenset())
    assert (db2.port, db2.labels, db2.variables) == (2200, frozenset({"db", "bench"}), {"disk": "sdb"})
    assert (db9.port, db9.variables) == (2222, {"disk": "sdb"}), "a template is nothing to us"
    assert (load.labels, load.variables) == (frozenset({"load", "bench"}), {"disk": "sda"})
    assert (_ssh(load).proxy_jump, _ssh(lonely).proxy_jump) == ("gate", None)
    assert _ssh(load).key == (tmp_path / "keys/bench",)


def test_what_is_said_beside_the_path_counts_where_the_inventory_is_silent(tmp_path: Path) -> None:
    hosts = _read(
        tmp_path,
        INI,
        user="me",
        key="my_key",
        slots=4,
        labels=["lab"],
        vars={"disk": "vda", "x": 1},
        known_hosts="kh",
    )
    lonely, db9 = hosts["lonely"], hosts["db9.lab"]
    assert (lonely.user, lonely.slots, lonely.labels) == ("me", 4, frozenset({"lab"}))
    assert lonely.variables == {"disk": "vda", "x": 1}
    assert (_ssh(lonely).key, _ssh(lonely).known_hosts) == ((tmp_path / "my_key",), (tmp_path / "kh",))
    assert (db9.user, db9.labels, db9.variables["disk"]) == (
        "the boss",
        frozenset({"lab", "db", "bench"}),
        "nvme0n1",
    )


def test_a_list_of_hosts(tmp_path: Path) -> None:
    hosts = _read(tmp_path, "- {name: 'n[1-2]', slots: 3}\n- name: m\n", "fleet.yaml", slots=2, user="me")
    assert {host.name: (host.slots, host.user) for host in hosts.values()} == {
        "n1": (3, "me"),
        "n2": (3, "me"),
        "m": (2, "me"),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n[x\n", "2: expected [GROUP], [GROUP:children] or [GROUP:vars], found '[x'"),
        ("[x:childen]\n", "1: unknown kind of section 'childen'; did you mean 'children'?"),
        ("[x]\na b\n", "2: expected a variable as NAME=VALUE, found 'b'"),
        ("[x:vars]\nport\n", "2: expected a variable as NAME=VALUE, found 'port'"),
        ("[x]\na v='1\n", '2: no closing quotation in "a v=\'1"'),
        ("[x]\na[3:1]\n", "2: the range [3:1] is empty; its first end must not be above the last"),
        ("[x]\na[1:2]\n\na2\n", "4: host 'a2' stands twice in one group, first in line 2"),
        ("[servers]\na\n[y:children]\nserver\n", "4: there is no group 'server'; did you mean 'servers'?"),
        ("a\n[x:vars]\nv=1\n", "2: there is no group 'x'; known: all, ungrouped"),
        ("[x:children]\ny\n[y:children]\nx\n[x]\na\n", "the groups are inside each other in a circle: "),
        ("a ansible_port=many\n", "1: port: expected an integer, found 'many'"),
        (
            "a ansible_host='{{ ip }}'\n",
            "1: ansible_host is a template, '{{ ip }}', which only Ansible can fill in",
        ),
        ("a ansible_connection=winrm\n", "1: host 'a' is reached by 'winrm'"),
        (
            "a ansible_host=h\nb ansible_host=h\n",
            "2: name: hosts 'a' and 'b' are one machine, h:22; give it slots",
        ),
        ("# nothing\n", " there is no host in this inventory"),
    ],
)
def test_what_is_wrong_in_an_ini_inventory_is_said_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    assert message in _refused(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x:\n  hots: {a: }\n", "2: unknown key 'hots'; did you mean 'hosts'?"),
        ("x:\n  hosts:\n    - a\n", "2: expected a mapping, found ['a']"),
        ("x:\n  hosts:\n    a:\n    a:\n", "4: key 'a' stands twice, first in line 3"),
        ("x:\n  hosts:\n    a: {ansible_port: 0}\n", "3: port: expected at least 1, found 0"),
        ("x:\n  hosts:\n    a: {ansible_password: !vault x}\n", "3: the tag '!vault' is not supported here"),
        ("x:\n  children:\n    x:\n", "the groups are inside each other in a circle: x → x"),
        ("just text\n", "1: expected a mapping, found 'just text'"),
        ("", " there is no host in this inventory"),
        ("- name: a\n- {name: b,\n   slts: 2}\n", "3: unknown key 'slts'; did you mean 'slots'?"),
        ("- name: a\n- name: b\n- name: a\n", "3: name: host 'a' stands twice, first in line 1"),
    ],
)
def test_what_is_wrong_in_a_yaml_inventory_is_said_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    assert message in _refused(tmp_path, text, "inventory.yaml")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        find_hosts(parse_options(_File, {"hosts": "nowhere.ini"}).hosts, tmp_path)
    assert str(caught.value) == f"hosts: there is no inventory '{tmp_path}/nowhere.ini'"


def test_an_address_is_not_said_for_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="an address belongs to one host"):
        _read(tmp_path, INI, address="10.0.0.1")


def test_passwords_in_an_inventory_are_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        hosts = _read(tmp_path, "[x]\na ansible_password=hunter2\n")
    assert "ansible_password of a is not read; give hosts.password as env:NAME or file:PATH" in caplog.text
    assert "hunter2" not in caplog.text + repr(hosts)
