"""What does a file to each of a hundred hosts cost beside bare asyncssh?

1 MB to each host at once, over connections that are there already: real OpenSSH servers on loopback
addresses, all on this machine. Bare asyncssh by SFTP and by a stream into ``cat`` checks nothing and leaves
half a file when it is cut off; ours verifies a checksum, keeps the permissions and gives the file its name
at last.

* files: at most 1.15 times as long as the better of the two
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import anyio
import asyncssh

from _report import Figure, Stopwatch, parser, report, scratch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a benchmark is run by its path

from tests.integration.ssh.servers import Server, fleet

from windtunnel.services.ssh import SshService
from windtunnel.services.ssh.files import SshFiles

SIZE = 1_000_000


async def bare(servers: Sequence[Server], local: Path, folder: Path) -> tuple[float, float]:
    """Seconds by SFTP, and by a stream."""
    key = asyncssh.read_private_key(servers[0].key)
    known = asyncssh.SSHKnownHosts("".join(server.known_hosts.read_text() for server in servers))

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

    connections = await asyncio.gather(*map(connect, servers))
    content = local.read_bytes()

    async def by_sftp(number: int) -> None:
        async with connections[number].start_sftp_client() as sftp:
            await sftp.put(str(local), str(folder / f"sftp{number}"))

    async def by_stream(number: int) -> None:
        command = f"cat >{quote(str(folder / f'stream{number}'))}"
        await connections[number].run(command, input=content, encoding=None, check=True)

    sftp = await timed(by_sftp, len(servers))
    stream = await timed(by_stream, len(servers))
    for connection in connections:
        connection.close()
        await connection.wait_closed()
    return sftp, stream


async def ours(servers: Sequence[Server], local: Path, folder: Path) -> float:
    hosts = {f"host{number}": server.options() for number, server in enumerate(servers)}
    async with SshService(hosts=hosts) as service:
        files = SshFiles(service)
        small = local.with_name("small")
        small.write_bytes(b"")

        async def connect(number: int) -> None:
            await files.upload(f"host{number}", small, str(folder / f"small{number}"))

        await timed(connect, len(servers))

        async def upload(number: int) -> None:
            await files.upload(f"host{number}", local, str(folder / f"ours{number}"))

        return await timed(upload, len(servers))


async def timed(work: Callable[[int], Coroutine[Any, Any, None]], count: int) -> float:
    with Stopwatch() as watch:
        async with anyio.create_task_group() as group:
            for number in range(count):
                group.start_soon(work, number)
    return watch.seconds


def main() -> int:
    options = parser(__doc__, peers=False)
    options.add_argument("--hosts", type=int, default=100, metavar="N", help="default 100")
    arguments = options.parse_args()
    base: list[tuple[float, float]] = []
    own: list[float] = []
    with scratch() as folder, fleet(folder) as started:
        servers = [started.server() for _ in range(arguments.hosts)]
        local = folder / "local"
        for number in range(arguments.runs):
            local.write_bytes(os.urandom(SIZE))
            place = folder / f"run{number}"
            place.mkdir()
            base.append(anyio.run(bare, servers, local, place))
            own.append(anyio.run(ours, servers, local, place))
            _check(local, place, arguments.hosts)
    slower = [mine / min(its) for mine, its in zip(own, base, strict=True)]
    return report(
        __doc__,
        {
            "sftp_bare": Figure(unit="s", runs=[one[0] for one in base]),
            "stream_bare": Figure(unit="s", runs=[one[1] for one in base]),
            "files": Figure(unit="s", runs=own),
            "files_ratio": Figure(unit="", runs=slower, bar=("at most", 1.15)),
        },
    )


def _check(local: Path, folder: Path, hosts: int) -> None:
    content = local.read_bytes()
    for number in range(hosts):
        for kind in ("sftp", "stream", "ours"):
            path = folder / f"{kind}{number}"
            if path.read_bytes() != content:
                raise RuntimeError(f"{path} is not what was sent")
            path.unlink()


if __name__ == "__main__":
    sys.exit(main())
