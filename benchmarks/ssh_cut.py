"""How long until the trial of a host whose link was cut runs on another one?

Two hosts with a real OpenSSH server, one of them behind a link to a network namespace that is then cut (``ip
link set down``): no packet tells anybody. Trials of a ``RemoteEnv`` run on both. Measured from the cut until
the trial that ran there has begun its ``run`` elsewhere. Takes root and iproute2.

* at most 1 s more than the keep-alive limit
* meanwhile the trials of the other host go on, and none fails
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anyio

from _report import TUNABLES, Figure, parser, report, scratch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a benchmark is run by its path

from tests.integration.ssh.servers import Server, fleet

import windtunnel
from windtunnel.events import StepStarted, TrialFinished

KEEPALIVE_S, KEEPALIVES = 0.5, 3
LIMIT_S = KEEPALIVE_S * (KEEPALIVES + 1)
TRIALS = 60
RUN = ["sleep 0.2", "echo score: 1"]


async def elsewhere(near: Server, far: Server, folder: Path) -> tuple[float, int]:
    """Seconds, and how many trials have succeeded on the other host meanwhile."""
    cut_at, lost, succeeded, seconds = 0.0, None, 0, 0.0
    async with windtunnel.open_scheduler(_described(near, far, folder)) as engine:
        with engine.events() as events:
            async with anyio.create_task_group() as group:
                await group.start(engine.run)
                async for event in events:
                    if isinstance(event, TrialFinished):
                        if event.failure is not None:
                            raise RuntimeError(f"expected no trial that fails, found {event}")
                        succeeded += bool(cut_at)
                    if not isinstance(event, StepStarted) or event.step != "run":
                        continue
                    if not cut_at and event.host == "far":
                        await anyio.to_thread.run_sync(far.cut)
                        cut_at, lost = anyio.current_time(), event.trial.trial_id
                    elif event.trial.trial_id == lost and event.host == "near":
                        seconds = anyio.current_time() - cut_at
                        break
                group.cancel_scope.cancel()
    return seconds, succeeded


def _described(near: Server, far: Server, folder: Path) -> dict[str, Any]:
    return {
        "experiment": "cut",
        "objectives": {"score": "min"},
        "trials": TRIALS,
        "storage": f"sqlite:///{folder / 'cut.db'}",
        "optimizer": {"name": "random", "seed": 1},
        "tunables": TUNABLES,
        "environment": {
            "class": "RemoteEnv",
            "config": {"run": RUN, "results_stdout_pattern": r"^(?P<metric>score): (?P<value>\S+)$"},
        },
        "hosts": [_host("near", near), _host("far", far)],
    }


def _host(name: str, server: Server) -> dict[str, Any]:
    return {
        "name": name,
        "address": server.address,
        "port": server.port,
        "key": str(server.key),
        "known_hosts": str(server.known_hosts),
        "ssh_config": False,
        "keepalive_interval": KEEPALIVE_S,
        "keepalive_count": KEEPALIVES,
        "slots": 1,
    }


def main() -> int:
    options = parser(__doc__, peers=False).parse_args()
    found: list[tuple[float, int]] = []
    with scratch() as folder, fleet(folder) as started:
        near, far = started.server(), started.server(behind_a_link=True)
        for number in range(options.runs):
            place = folder / f"run{number}"
            place.mkdir()
            found.append(anyio.run(elsewhere, near, far, place))
            far.mend()
    return report(
        __doc__,
        {
            "elsewhere": Figure(unit="s", runs=[one[0] for one in found], bar=("at most", LIMIT_S + 1)),
            "succeeded_meanwhile": Figure(unit="trials", runs=[one[1] for one in found], bar=("at least", 1)),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
