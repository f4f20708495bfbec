"""How many trials a second can be run on a hundred hosts over SSH?

1000 trials of a ``RemoteEnv`` whose ``setup``, ``run`` and ``teardown`` have a line or two each, one at a
time on each host, through ``windtunnel.run``: every one durable in an SQLite file, with a line of telemetry
and a metric from the output of ``run``. Real OpenSSH servers on loopback addresses, one a host, all on this
machine, so most of the time is theirs. Measured from the call to its return: connecting to all hosts and
closing is part of it.

* at least 120 trials/s
* processor time of this process, its threads included: at most 3 ms a trial
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from _report import TUNABLES, Figure, Stopwatch, parser, report, scratch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a benchmark is run by its path

from tests.integration.ssh.servers import Server, fleet

import windtunnel

TRIALS = 1000
ENVIRONMENT = {
    "class": "RemoteEnv",
    "config": {
        "shell_env_params": ["x"],
        "setup": ["echo ready >state"],
        "run": ['echo "qps=$x"', 'echo "score: $x"'],
        "teardown": ["rm state"],
        "results_stdout_pattern": r"^(?P<metric>score): (?P<value>\S+)$",
        "telemetry_stdout_pattern": r"^(?P<metric>qps)=(?P<value>\S+)$",
    },
}


class Cost(NamedTuple):
    """Of one trial, on average."""

    rate: float
    """Trials a second."""
    client_ms: float
    server_ms: float


def ours(servers: Sequence[Server], folder: Path, trials: int) -> Cost:
    description = {
        "experiment": "fleet",
        "objectives": {"score": "min"},
        "trials": trials,
        "storage": f"sqlite:///{folder / 'fleet.db'}",
        "optimizer": {"name": "random", "seed": 1},
        "tunables": TUNABLES,
        "environment": ENVIRONMENT,
        "hosts": [_host(number, server) for number, server in enumerate(servers)],
    }
    ours_s, theirs_s = processor_s(), servers_s(servers)
    with Stopwatch() as watch:
        summary = anyio.run(windtunnel.run, description)
    ours_s, theirs_s = processor_s() - ours_s, servers_s(servers) - theirs_s
    if summary.succeeded != trials:
        raise RuntimeError(f"expected {trials} trials that succeed, found {summary}")
    return Cost(trials / watch.seconds, ours_s / trials * 1000, theirs_s / trials * 1000)


def _host(number: int, server: Server) -> dict[str, Any]:
    return {
        "name": f"host{number}",
        "address": server.address,
        "port": server.port,
        "key": str(server.key),
        "known_hosts": str(server.known_hosts),
        "ssh_config": False,
    }


def processor_s() -> float:
    """Of this process so far, without its children."""
    times = os.times()
    return times.user + times.system


def servers_s(servers: Sequence[Server]) -> float:
    """Processor time of the servers so far, with all that has ended below them."""
    ticks = 0
    for server in servers:
        fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> int:
    options = parser(__doc__, peers=False)
    options.add_argument("--hosts", type=int, default=100, metavar="N", help="default 100")
    options.add_argument("--trials", type=int, default=TRIALS, metavar="N", help=f"default {TRIALS}")
    arguments = options.parse_args()
    costs = []
    with scratch() as folder, fleet(folder) as started:
        servers = [started.server() for _ in range(arguments.hosts)]
        for _ in range(arguments.runs):
            with scratch() as database:
                costs.append(ours(servers, database, arguments.trials))
    return report(
        __doc__,
        {
            "trials": Figure(unit="trials/s", runs=[one.rate for one in costs], bar=("at least", 120)),
            "client": Figure(unit="ms", runs=[one.client_ms for one in costs], bar=("at most", 3)),
            "server": Figure(unit="ms", runs=[one.server_ms for one in costs]),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
