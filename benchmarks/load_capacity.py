"""Does the search for the highest rate find what a server can do?

A server that answers so many requests a second and has others wait in line, another number each run: the
search is to be within 5 % of it after at most 15 steps of 2 s, in 9 runs of 10. Steps that are repeated,
as the generator itself was too slow, are told.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import anyio

from _load import on_own_core
from _report import Figure, parser, report
from windtunnel.loadgen.result import Result
from windtunnel.loadgen.search import Found, Tried, find_max_rate
from windtunnel.loadgen.thresholds import Threshold

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a benchmark is run by its path

from tests.integration.load.server import serving


def _searched(per_second: float, seed: int, seconds: float) -> tuple[Found, int]:
    in_vain = 0

    async def count(tried: Tried, _result: Result) -> None:
        nonlocal in_vain
        in_vain += not tried.valid

    async def run() -> tuple[Found, int]:
        with serving("--per-second", str(per_second)) as server:
            plan = {"url": server.url, "rate": 200, "duration": seconds, "seed": seed, "arrivals": "poisson"}
            limits = [Threshold.parse("p90<50ms")]
            return await find_max_rate(plan, limits, directory=Path(), on_step=count), in_vain

    return anyio.run(run)


def main() -> int:
    options = parser(__doc__, runs=10, peers=False)
    options.add_argument("--seconds", type=float, default=2.0, metavar="N", help="of a step (default 2)")
    given = options.parse_args()
    on_own_core()
    chance = random.Random(1)
    off: list[float] = []
    steps: list[float] = []
    repeated: list[float] = []
    for seed in range(given.runs):
        true = chance.uniform(300, 2000)
        found, in_vain = _searched(true, seed, given.seconds)
        off.append(abs(found.capacity.rate / true - 1) * 100)
        steps.append(len(found.tried))
        repeated.append(in_vain)
    good = sum(one <= 5 for one in off) / len(off)
    figures = {
        "within_5_percent": Figure(unit="of the runs", runs=[good], bar=("at least", 0.9)),
        "off": Figure(unit="% of the true rate", runs=off),
        "steps": Figure(unit="steps", runs=[max(steps)], bar=("at most", 15)),
        "repeated": Figure(unit="steps", runs=repeated),
    }
    return report(__doc__, figures)


if __name__ == "__main__":
    sys.exit(main())
