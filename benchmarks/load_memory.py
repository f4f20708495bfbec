"""Does a load test that goes on for long need more and more memory?

5000 requests a second to nginx for 10 minutes; ``--minutes`` changes that. The generator's memory and that of
the process that follows it, from the 10th second to the last: at most 10 MB more.
"""

from __future__ import annotations

import sys

import psutil

from _load import loaded, nginx
from _report import Figure, parser, report
from windtunnel.loadgen.result import SecondRecord

_SETTLED_S = 10


def main() -> int:
    options = parser(__doc__, runs=1, peers=False)
    options.add_argument("--minutes", type=float, default=10.0, metavar="N", help="default 10")
    given = options.parse_args()
    growths: list[float] = []
    largest: list[float] = []
    with nginx() as server:
        for _ in range(given.runs):
            sizes: list[float] = []

            async def look(second: SecondRecord, sizes: list[float] = sizes) -> None:
                if second.second >= _SETTLED_S:
                    us = psutil.Process()
                    agents = [one for one in us.children() if "windtunnel.loadgen.agent" in one.cmdline()]
                    sizes.append(sum(one.memory_info().rss for one in (us, *agents)) / 1e6)

            loaded({"url": server.url, "rate": 5000, "duration": given.minutes * 60}, watch=look)
            growths.append(max(sizes) - sizes[0])
            largest.append(max(sizes))
    figures = {
        "growth": Figure(unit="MB", runs=growths, bar=("at most", 10)),
        "largest": Figure(unit="MB", runs=largest),
        "minutes": Figure(unit="minutes", runs=[given.minutes]),
    }
    return report(__doc__, figures)


if __name__ == "__main__":
    sys.exit(main())
