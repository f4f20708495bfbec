"""What others need for the same work over SSH; each in a process of its own: ``_peers_ssh.py NAME``.

Prints a line of JSON: seconds to connect to all hosts and run ``true`` there, warm commands in a second, and
seconds to bring a file to each. All get one key and no agent; parallel-ssh does not look at host keys.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import Any

__all__ = ["PEERS", "measured"]

COMMANDS = 1000
AT_ONCE = 100
LIMIT_S = 200

Place = tuple[str, int]


def measured(
    name: str, places: Sequence[Place], *, key: Path, known_hosts: Path, file: Path
) -> dict[str, float] | None:
    """What the peer needs; None if it is not installed."""
    if not PEERS[name][0]():
        return None
    given = {"key": str(key), "known_hosts": str(known_hosts), "file": str(file)}
    work = json.dumps({"places": places, **given})
    command = [sys.executable, __file__, name]
    done = subprocess.run(command, input=work, stdout=subprocess.PIPE, text=True, check=True, timeout=LIMIT_S)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def parallel_ssh(places: Sequence[Place], key: str, known_hosts: str, file: str) -> dict[str, float]:
    from gevent import joinall  # only if it is installed
    from pssh.clients import ParallelSSHClient
    from pssh.config import HostConfig

    config = [HostConfig(port=port, private_key=key) for _, port in places]
    hosts = [address for address, _ in places]
    client = ParallelSSHClient(
        hosts, host_config=config, pool_size=AT_ONCE, allow_agent=False, identity_auth=False
    )

    def run() -> None:
        outputs = client.run_command("true")
        client.join(outputs)
        if any(output.exit_code != 0 for output in outputs):
            raise RuntimeError("expected commands that succeed")

    found = {"connect_s": _seconds(run)}
    rounds = COMMANDS // len(places)

    def run_all() -> None:
        for _ in range(rounds):
            run()

    found["warm_per_s"] = rounds * len(places) / _seconds(run_all)
    copies = [{"local_file": file, "remote_file": f"{file}.pssh{number}"} for number in range(len(places))]
    found["file_s"] = _seconds(
        lambda: joinall(client.copy_file("%(local_file)s", "%(remote_file)s", copy_args=copies), True)
    )
    return found


def control_master(places: Sequence[Place], key: str, known_hosts: str, file: str) -> dict[str, float]:
    """OpenSSH's own program, one process a command, over a shared connection."""
    options = ["-F", "none", "-i", key, "-o", "IdentitiesOnly=yes", "-o", f"UserKnownHostsFile={known_hosts}"]
    options += ["-o", "ControlMaster=auto", "-o", "ControlPersist=60"]
    with TemporaryDirectory(prefix="cm") as folder, ThreadPoolExecutor(AT_ONCE) as pool:

        def ssh(number: int, *command: str, **how: Any) -> None:
            address, port = places[number % len(places)]
            way = ["-o", f"ControlPath={folder}/{number % len(places)}", "-p", str(port), address]
            subprocess.run(["ssh", *options, *way, *command], check=True, **how)

        def true(number: int) -> None:
            ssh(number, "true")

        def copy(number: int) -> None:
            with open(file, "rb") as content:
                ssh(number, f"cat >{file}.cm{number}", stdin=content)

        def leave(number: int) -> None:
            way = ["-o", f"ControlPath={folder}/{number}", "-O", "exit", places[number][0]]
            subprocess.run(["ssh", *options, *way], check=True, stderr=subprocess.DEVNULL)

        hosts = range(len(places))
        found = {"connect_s": _seconds(lambda: list(pool.map(true, hosts)))}
        found["warm_per_s"] = COMMANDS / _seconds(lambda: list(pool.map(true, range(COMMANDS))))
        found["file_s"] = _seconds(lambda: list(pool.map(copy, hosts)))
        list(pool.map(leave, hosts))
    return found


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


PEERS: dict[str, tuple[Callable[[], object], Callable[..., dict[str, float]]]] = {
    "parallel_ssh": (lambda: find_spec("pssh"), parallel_ssh),
    "control_master": (lambda: which("ssh"), control_master),
}
"""Name → whether it is installed, and its work."""

if __name__ == "__main__":
    os.environ.pop("SSH_AUTH_SOCK", None)
    print(json.dumps(PEERS[sys.argv[1]][1](**json.load(sys.stdin))))
