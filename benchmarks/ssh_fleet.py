"""What does driving a hundred hosts over SSH cost beside bare asyncssh?

Real OpenSSH servers on loopback addresses, one a host, all on this machine: most of the time is theirs. Bare
asyncssh is tuned: one key, parsed known hosts, no agent, no configuration file, no search for certificates.

* connect to all hosts and run ``true``: at most 1.15 times as long as bare asyncssh
* 1000 warm commands: at least 0.8 of what bare asyncssh, which cannot end what it started, does in a second
* 200 running scripts cancelled, two on each host, until no process of theirs is left: at most 3 s

Others do the same in the same run where they are installed: parallel-ssh, and OpenSSH's own program with a
shared connection for each host.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import asyncssh
import psutil

from _peers_ssh import PEERS, measured
from _report import Figure, Stopwatch, parser, report, scratch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a benchmark is run by its path

from tests.integration.ssh.servers import Server, fleet

from windtunnel.services.ssh import SshService

COMMANDS = 1000
SCRIPTS_A_HOST = 2
MARKER = "WINDTUNNEL_BENCHMARK"


async def bare(servers: Sequence[Server]) -> tuple[float, float]:
    """Seconds to connect and run ``true``, and warm commands in a second."""
    key = asyncssh.read_private_key(servers[0].key)
    known = asyncssh.read_known_hosts(str(servers[0].known_hosts))

    async def connect(server: Server) -> asyncssh.SSHClientConnection:
        connection = await asyncssh.connect(
            server.address,
            server.port,
            config=None,
            known_hosts=known,
            client_keys=[key],
            agent_path=None,
            gss_host=None,
            x509_trusted_certs=None,
        )
        await connection.run("true", check=True)
        return connection

    with Stopwatch() as connecting:
        connections = await asyncio.gather(*map(connect, servers))

    async def work(number: int) -> None:
        await connections[number % len(connections)].run("true", check=True)

    with Stopwatch() as warm:
        await spread(work)
    for connection in connections:
        connection.close()
        await connection.wait_closed()
    return connecting.seconds, COMMANDS / warm.seconds


async def ours(servers: Sequence[Server]) -> tuple[float, float, float]:
    """The same of ours, and the seconds until all scripts are cancelled."""
    hosts = {f"host{number}": server.options() for number, server in enumerate(servers)}
    async with SshService(hosts=hosts) as service, AsyncExitStack() as stack:
        sessions = [service.session(name) for name in hosts]

        async def connect(number: int) -> None:
            await sessions[number].__aenter__()
            await sessions[number].run(["true"], env={})

        with Stopwatch() as connecting:
            await together(connect, len(sessions))
        for session in sessions:
            stack.push_async_exit(session)

        async def work(number: int) -> None:
            result = await sessions[number % len(sessions)].run(["true"], env={})
            if result.exit_status != 0:
                raise RuntimeError(f"expected a command that succeeds, found {result}")

        with Stopwatch() as warm:
            await spread(work)
        running = SCRIPTS_A_HOST * len(sessions)
        begun = 0

        async def endless(number: int) -> None:
            async def on_line(_: str) -> None:
                nonlocal begun
                begun += 1

            lines = ["sleep 1000 & echo begun; sleep 1000"]
            await sessions[number % len(sessions)].run(lines, env={MARKER: str(os.getpid())}, on_line=on_line)

        async with anyio.create_task_group() as group:
            for number in range(running):
                group.start_soon(endless, number)
            while begun < running:
                await anyio.sleep(0.01)
            began = time.perf_counter()
            group.cancel_scope.cancel()
        while left():
            await anyio.sleep(0.01)
        cancelling = time.perf_counter() - began
    return connecting.seconds, COMMANDS / warm.seconds, cancelling


async def spread(work: Callable[[int], Coroutine[Any, Any, None]]) -> None:
    """All commands, from a hundred tasks."""

    async def several(first: int) -> None:
        for number in range(first, COMMANDS, 100):
            await work(number)

    await together(several, 100)


async def together(work: Callable[[int], Coroutine[Any, Any, None]], count: int) -> None:
    async with anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(work, number)


def share_known_hosts(servers: Sequence[Server], folder: Path) -> Path:
    """Let one file know all of them, as it does in life."""
    shared = folder / "known_hosts"
    shared.write_text("".join(server.known_hosts.read_text() for server in servers))
    for server in servers:
        server.known_hosts = shared
    return shared


def left() -> bool:
    """Whether a process of a script is left on any host."""
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARKER) == str(os.getpid()) and process.status() != psutil.STATUS_ZOMBIE:
                return True
        except psutil.Error:
            continue
    return False


def main() -> int:
    options = parser(__doc__, peers=False)
    options.add_argument("--peers", action="store_true", help="also measure others")
    options.add_argument("--hosts", type=int, default=100, metavar="N", help="default 100")
    arguments = options.parse_args()
    base: list[tuple[float, float]] = []
    own: list[tuple[float, float, float]] = []
    others: dict[str, list[dict[str, float]]] = {}
    with scratch() as folder, fleet(folder) as started:
        servers = [started.server() for _ in range(arguments.hosts)]
        known_hosts = share_known_hosts(servers, folder)
        file = folder / "file"
        file.write_bytes(os.urandom(1_000_000))
        places = [(server.address, server.port) for server in servers]
        for _ in range(arguments.runs):
            base.append(anyio.run(bare, servers))
            own.append(anyio.run(ours, servers))
            for name in PEERS if arguments.peers else ():
                found = measured(name, places, key=servers[0].key, known_hosts=known_hosts, file=file)
                if found is None:
                    print(f"{name} is not installed: not measured", file=sys.stderr)
                else:
                    others.setdefault(name, []).append(found)
    slower = [mine[0] / its[0] for mine, its in zip(own, base, strict=True)]
    rate = [mine[1] / its[1] for mine, its in zip(own, base, strict=True)]
    return report(
        __doc__,
        {
            "connect_bare": Figure(unit="s", runs=[one[0] for one in base]),
            "connect": Figure(unit="s", runs=[one[0] for one in own]),
            "connect_ratio": Figure(unit="", runs=slower, bar=("at most", 1.15)),
            "warm_bare": Figure(unit="commands/s", runs=[one[1] for one in base]),
            "warm": Figure(unit="commands/s", runs=[one[1] for one in own]),
            "warm_ratio": Figure(unit="", runs=rate, bar=("at least", 0.8)),
            "cancel": Figure(unit="s", runs=[one[2] for one in own], bar=("at most", 3)),
            **{
                f"{work}_{name}": Figure(unit=unit, runs=[one[work] for one in found])
                for name, found in others.items()
                for work, unit in (("connect_s", "s"), ("warm_per_s", "commands/s"), ("file_s", "s"))
            },
        },
    )


if __name__ == "__main__":
    sys.exit(main())
