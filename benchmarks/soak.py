"""Does each trial have exactly one outcome while its workers are killed and frozen, for as long as it lasts?

Some workers share one database file. One of them after another gets SIGKILL and is replaced, or is stopped
for longer than its lease and goes on as a zombie. Each run has a seed of its own, told with ``--seed``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from _report import Figure, parser, report, scratch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a benchmark is run by its path

from tests.acceptance.chaos import Soaked, soak

_MOST_S = 3600.0


def main() -> int:
    options = parser(__doc__, runs=1, peers=False)
    options.add_argument("--trials", type=int, default=4000, metavar="N", help="default 4000")
    options.add_argument("--workers", type=int, default=4, metavar="N", help="default 4")
    options.add_argument("--seed", type=int, default=1, metavar="N", help="of the first run; default 1")
    given = options.parse_args()
    runs = [_soaked(given.trials, given.workers, given.seed + number) for number in range(given.runs)]
    return report(__doc__, _figures(runs, given.trials))


def _soaked(trials: int, workers: int, seed: int) -> Soaked:
    with scratch() as folder:
        return soak(
            folder, trials=trials, workers=workers, seed=seed, most_strikes=sys.maxsize, limit_s=_MOST_S
        )


def _figures(runs: list[Soaked], trials: int) -> dict[str, Figure]:
    def told(action: str) -> list[float]:
        return [run.actions.get(action, 0) for run in runs]

    return {
        "accepted": Figure(unit="outcomes", runs=[run.accepted for run in runs], bar=("at most", trials)),
        "distinct": Figure(unit="trials", runs=[run.distinct for run in runs], bar=("at least", trials)),
        "leased": Figure(unit="trials", runs=[run.leased for run in runs], bar=("at most", 0)),
        "stale_refused": Figure(unit="outcomes", runs=told("stale_refused"), bar=("at least", 1)),
        "failed_workers": Figure(
            unit="processes", runs=[sum(code != 0 for code in run.codes) for run in runs], bar=("at most", 0)
        ),
        "lost": Figure(unit="trials", runs=told("lost")),
        "attempts": Figure(unit="of one trial", runs=[run.attempts for run in runs]),
        "kills": Figure(unit="processes", runs=[run.kills for run in runs]),
        "freezes": Figure(unit="processes", runs=[run.freezes for run in runs]),
        "duration": Figure(unit="s", runs=[run.seconds for run in runs]),
    }


if __name__ == "__main__":
    sys.exit(main())
