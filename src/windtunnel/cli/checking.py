"""``windtunnel hosts``: what hosts an experiment has, and whether trials can run on them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import anyio
from rich.text import Text

from windtunnel.cli import tables
from windtunnel.cli.console import make_console
from windtunnel.cli.data import as_json
from windtunnel.cli.logs import set_up_logging
from windtunnel.cli.verdict import FAILED, OK
from windtunnel.cli.words import plain
from windtunnel.config.fleet import Fleet, find_fleet
from windtunnel.config.load import LoadedConfig
from windtunnel.errors import ConfigError, HostKeyRefused, HostUnreachable, WindtunnelError
from windtunnel.protocols import HostFacts
from windtunnel.scheduling.slots import Host
from windtunnel.services.ssh.options import SshOptions
from windtunnel.texts import many

__all__ = ["check_hosts", "list_hosts"]

_HERE = "this machine"
_TRUSTED = {"verify": "verified", "accept-new": "accepted", "off": "not verified"}
_WORST_CLOCK_S = 1.0


class _Checked(NamedTuple):
    """:ivar problem: why no trial can run there; None if one can."""

    host: Host
    facts: HostFacts | None = None
    problem: WindtunnelError | None = None

    @property
    def host_key(self) -> str | None:
        """How it was judged, in a word; None if it did not come to that."""
        if isinstance(self.problem, HostKeyRefused):
            return self.problem.state
        if self.facts is None or not isinstance(self.host.options, SshOptions):
            return None
        return "pinned" if self.host.options.host_key else _TRUSTED[self.host.options.host_keys]


def list_hosts(loaded: LoadedConfig, *, as_data: bool) -> None:
    """Print the hosts of an experiment.

    :raises ConfigError: if its inventory cannot be used.
    """
    fleet = _found(loaded)
    if as_data:
        sys.stdout.write(as_json([_described(host) for host in fleet.hosts]))
        return
    table = tables.plain_table("host", "address", ">port", "user", ">slots", "labels", "through")
    for host in fleet.hosts:
        told = _described(host)
        told["labels"] = ", ".join(told["labels"])
        table.add_row(*(Text(plain("" if value is None else str(value))) for value in told.values()))
    make_console(sys.stdout).print(table)


def check_hosts(loaded: LoadedConfig, *, limit_s: float, at_once: int, as_data: bool) -> int:
    """Connect to all hosts of an experiment and print what came of it.

    :returns: the exit code.
    :raises ConfigError: if its inventory cannot be used.
    """
    set_up_logging(make_console(sys.stderr))
    checked = anyio.run(_check, _found(loaded), limit_s, at_once)
    bad = [one for one in checked if one.problem is not None]
    if as_data:
        sys.stdout.write(as_json([_data(one) for one in checked]))
    else:
        _print(checked, bad)
    return FAILED if bad else OK


def _found(loaded: LoadedConfig) -> Fleet:
    try:
        return find_fleet(loaded, here="localhost")
    except ConfigError as exc:
        raise loaded.locate(exc) from None


# Checking


async def _check(fleet: Fleet, limit_s: float, at_once: int) -> list[_Checked]:
    """All hosts, in their order."""
    found: dict[str, _Checked] = {}
    limiter = anyio.CapacityLimiter(at_once)

    async def check(host: Host) -> None:
        async with limiter:
            found[host.name] = await _check_one(fleet, host, limit_s)

    if fleet.ssh is None:
        return [_Checked(host) for host in fleet.hosts]
    async with fleet.ssh, anyio.create_task_group() as tasks:
        for host in fleet.hosts:
            tasks.start_soon(check, host, name=f"checking {host.name}")
    return [found[host.name] for host in fleet.hosts]


async def _check_one(fleet: Fleet, host: Host, limit_s: float) -> _Checked:
    if host.address is None or fleet.operations is None:
        return _Checked(host)
    try:
        with anyio.move_on_after(limit_s):
            return _Checked(host, await fleet.operations.facts(host.name))
    except WindtunnelError as exc:
        return _Checked(host, problem=exc)
    place = f"{host.address} port {host.port or 22}"
    return _Checked(host, problem=HostUnreachable(host.name, f"{place} gave no full answer in {limit_s:g} s"))


# Telling


def _described(host: Host) -> dict[str, Any]:
    options = host.options if isinstance(host.options, SshOptions) else None
    return {
        "name": host.name,
        "address": host.address,
        "port": host.port,
        "user": host.user,
        "slots": host.slots,
        "labels": sorted(host.labels),
        "through": None if options is None else options.proxy_jump,
    }


def _data(one: _Checked) -> dict[str, Any]:
    facts = asdict(HostFacts() if one.facts is None else one.facts)
    return {
        "name": one.host.name,
        "address": one.host.address,
        "ok": one.problem is None,
        "reason": None if one.problem is None else str(one.problem),
        "host_key": one.host_key,
        **facts,
    }


def _print(checked: Sequence[_Checked], bad: Sequence[_Checked]) -> None:
    table = tables.plain_table("host", "state", ">latency", "system", ">cpus", ">clock", "host key")
    for one in checked:
        table.add_row(*_row(one))
    console = make_console(sys.stdout)
    console.print(table)
    for one in bad:
        console.print(Text(plain(str(one.problem)), style="red"), soft_wrap=True)
    told = f"{len(checked) - len(bad)} of {many(len(checked), 'host')} can be used"
    console.print(Text(told, style="bold red" if bad else "bold green"))


def _row(one: _Checked) -> list[Text]:
    facts = HostFacts() if one.facts is None else one.facts
    state = Text("ok", style="green") if one.problem is None else Text("failed", style="red")
    system = facts.os or ("-" if one.host.address else _HERE)
    return [
        Text(plain(one.host.name), style="bold"),
        state,
        Text("-" if facts.latency is None else f"{facts.latency * 1e3:.1f} ms"),
        Text(plain(system)),
        Text("-" if facts.cpus is None else str(facts.cpus)),
        _clock(facts),
        Text(one.host_key or "-", style="yellow" if one.host_key == "not verified" else ""),
    ]


def _clock(facts: HostFacts) -> Text:
    """How far it is ahead; times that hosts write into files are wrong by that."""
    if facts.clock_offset is None:
        return Text("-")
    return Text(
        f"{facts.clock_offset:+.3f} s", style="yellow" if abs(facts.clock_offset) > _WORST_CLOCK_S else ""
    )
