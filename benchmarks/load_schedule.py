"""Are requests sent when they are due, and does a stall of the server show?

An open loop against nginx, each on a core of its own:

* 10 000 requests a second for 10 s: schedule error at most 0.3 ms at the 99th percentile, every request sent,
  at most 70 % of a core
* 2000 a second for 10 s, the server stopped for 1 s of them: p99 at least 900 ms, and the median is that of a
  server that was not stopped, within 1 ms
"""

from __future__ import annotations

import os
import signal
import sys

import anyio

from _load import loaded, nginx
from _report import Figure, parser, report
from windtunnel.loadgen.result import Result, SecondRecord


def _stalled(url: str, pid: int) -> Result:
    async def freeze(second: SecondRecord) -> None:
        if second.second == 3:
            os.kill(pid, signal.SIGSTOP)
            await anyio.sleep(1)  # nothing else is told meanwhile, and nothing is lost
            os.kill(pid, signal.SIGCONT)

    return loaded({"url": url, "rate": 2000, "duration": 10}, watch=freeze)


def main() -> int:
    given = parser(__doc__, peers=False).parse_args()
    fast: list[Result] = []
    plain: list[Result] = []
    stalled: list[Result] = []
    with nginx() as server:
        for _ in range(given.runs):
            fast.append(loaded({"url": server.url, "rate": 10_000, "duration": 10}))
            plain.append(loaded({"url": server.url, "rate": 2000, "duration": 5}))
            stalled.append(_stalled(server.url, server.process.pid))

    def ms(results: list[Result], share: float) -> list[float]:
        return [one.total.latency.quantile(share) / 1e6 for one in results]

    figures = {
        "schedule_error_p99": Figure(
            unit="ms", runs=[one.schedule_error_ms for one in fast], bar=("at most", 0.3)
        ),
        "unsent": Figure(
            unit="requests", runs=[one.unsent + one.total.errors.total() for one in fast], bar=("at most", 0)
        ),
        "core": Figure(unit="% of a core", runs=[one.busy * 100 for one in fast], bar=("at most", 70)),
        "stall_p99": Figure(unit="ms", runs=ms(stalled, 0.99), bar=("at least", 900)),
        "stall_p50": Figure(unit="ms", runs=ms(stalled, 0.5)),
        "plain_p50": Figure(unit="ms", runs=ms(plain, 0.5)),
        "p50_disturbed": Figure(
            unit="ms",
            runs=[abs(one - other) for one, other in zip(ms(stalled, 0.5), ms(plain, 0.5), strict=True)],
            bar=("at most", 1),
        ),
        "stall_unsent": Figure(unit="requests", runs=[one.unsent for one in stalled], bar=("at most", 0)),
    }
    return report(__doc__, figures)


if __name__ == "__main__":
    sys.exit(main())
