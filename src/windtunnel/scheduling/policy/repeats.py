"""Which configurations deserve another run: promising ones that noise may have flattered."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from windtunnel.aggregates import Aggregate
from windtunnel.model import Direction
from windtunnel.quantiles import student_t
from windtunnel.scheduling.policy.ranking import Ranking
from windtunnel.scheduling.policy.runs import Run, aggregate

__all__ = ["AdaptiveRepeats", "Repeats", "further_repeats"]

_OWN = 3
"""Runs from which a configuration's own spread is used; with fewer, that of all configurations together."""

_CLOSE = 0.05
"""Relative distance from the best within which a score is close to it, as long as no spread is known."""

_LARGEST = 1e140
"""Scores are cut off here: the sums of their squares stay finite."""

_Place = tuple[int, bool]
"""Where a configuration is ranked: its runs if fewer than `_OWN`, else 0; and whether it may run again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveRepeats:
    """Further runs of promising configurations, until they are told apart from the best.

    After TUNA (EuroSys 2025): noise is met by runs on further hosts, and they are spent where they matter.

    :ivar most: runs of one configuration, those that failed among them.
    :ivar confidence: of the intervals that must separate, above 0 and below 1.
    :ivar score: what stands for several runs.
    """

    most: int = 10
    confidence: float = 0.95
    score: Aggregate = "mean"


def further_repeats(
    runs: Mapping[int, Sequence[Run]],
    *,
    under_way: Mapping[int, int],
    least: int,
    options: AdaptiveRepeats,
    direction: Direction,
) -> list[int]:
    """What ``Repeats`` would say after these runs: for a decision that is made once.

    :param runs: config_id → its runs that have ended.
    """
    repeats = Repeats(options, direction, least=least)
    for run in itertools.chain.from_iterable(runs.values()):
        repeats.add(run)
    return repeats.due(under_way)


class Repeats:
    """Which configurations to run once more; a run that ends, and a decision, take O(log n) of them.

    Of two configurations, the worse is told apart if the confidence intervals of their scores do not overlap,
    by Student's t. The best is compared with all others; it and those that are not told apart from it run
    again, as in LUCB (Kalyanakrishnan et al., ICML 2012). The interval of a mean is taken for every kind of
    score.

    :param least: runs that every configuration gets anyway; it is judged when they have ended.
    """

    def __init__(self, options: AdaptiveRepeats, direction: Direction, *, least: int = 1) -> None:
        self._options = options
        self._direction = direction
        self._least = least
        self._sign = 1 if direction == "min" else -1
        self._configs: dict[int, _Config] = {}
        self._by_score = Ranking()
        self._by_bound: dict[_Place, Ranking] = {
            (runs, may_run): Ranking() for runs in range(_OWN) for may_run in (True, False)
        }
        self._squares = 0.0
        self._freedom = 0

    def add(self, run: Run) -> None:
        """A run has ended; one without a score counts as a run and says nothing."""
        config = self._configs.get(run.config_id)
        if config is None:
            config = self._configs[run.config_id] = _Config()
        config.ended += 1
        if run.score is not None and math.isfinite(run.score):
            self._note(config, run, min(max(run.score, -_LARGEST), _LARGEST))
        if config.runs and config.ended >= self._least:
            self._rank(run.config_id, config)

    def score(self, config_id: int) -> float | None:
        """What stands for a configuration's runs; None if none gave a score."""
        config = self._configs.get(config_id)
        return self._sign * config.score if config is not None and config.runs else None

    def due(self, under_way: Mapping[int, int], at_most: int | None = None) -> list[int]:
        """The configurations to run once more now, the best first, then the most promising.

        Most promising is the one that would be best if each were as good as its interval allows. A
        configuration never has more runs under way than have given scores: further ones build on results.

        :param under_way: config_id → its trials that wait or run.
        """
        if len(self._by_score) < 2:
            return []
        wanted = (pk for pk in self._promising() if self._has_room(pk, under_way))
        return list(itertools.islice(wanted, at_most))

    def _note(self, config: _Config, run: Run, score: float) -> None:
        self._freedom += len(config.runs) > 0
        self._squares += config.spread_by(score)
        config.runs.append(run._replace(score=score))
        config.score = self._sign * aggregate(config.runs, self._options.score, self._direction)

    def _rank(self, config_id: int, config: _Config) -> None:
        self._by_score.put(config_id, config.score)
        self._by_bound[config.place].drop(config_id)
        runs = len(config.runs)
        config.place = (runs if runs < _OWN else 0, config.ended < self._options.most)
        own = self._own_margin(config) if runs >= _OWN else 0.0
        self._by_bound[config.place].put(config_id, config.score - own)

    def _has_room(self, config_id: int, under_way: Mapping[int, int]) -> bool:
        config, more = self._configs[config_id], max(0, under_way.get(config_id, 0))
        return more < len(config.runs) and config.ended + more < self._options.most

    def _promising(self) -> Iterator[int]:
        _, best = next(iter(self._by_score))
        bound = self._configs[best].score + self._margin(self._configs[best])
        open_ = self._below(bound, best, may_run=True)
        if not self._freedom or next(self._below(bound, best), None) is not None:
            yield best
        yield from open_

    def _below(self, bound: float, best: int, *, may_run: bool | None = None) -> Iterator[int]:
        """The others whose intervals reach below ``bound``, the most promising first."""
        rankings = (
            _reaching(ranking, bound, self._pooled_margin(runs) if runs else 0.0)
            for (runs, open_), ranking in self._by_bound.items()
            if may_run in (None, open_) and len(ranking)
        )
        return (pk for _, pk in heapq.merge(*rankings) if pk != best)

    def _margin(self, config: _Config) -> float:
        runs = len(config.runs)
        return self._own_margin(config) if runs >= _OWN else self._pooled_margin(runs)

    def _own_margin(self, config: _Config) -> float:
        runs = len(config.runs)
        t = student_t(runs - 1, self._options.confidence)
        return t * math.sqrt(config.squares / (runs - 1) / runs)

    def _pooled_margin(self, runs: int) -> float:
        if not self._freedom:
            best_score, _ = next(iter(self._by_score))
            return _CLOSE / 2 * abs(best_score)
        t = student_t(self._freedom, self._options.confidence)
        return t * math.sqrt(self._squares / self._freedom / runs)


class _Config:
    """The runs of one configuration so far.

    :ivar score: of its runs; negative if more is better.
    :ivar squares: the sum of squared deviations from their mean.
    """

    __slots__ = ("ended", "mean", "place", "runs", "score", "squares")

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.ended = 0
        self.mean = self.squares = self.score = 0.0
        self.place: _Place = (0, True)

    def spread_by(self, score: float) -> float:
        """By how much one more score makes the sum of squares grow, after Welford (1962)."""
        before = len(self.runs)
        apart = score - self.mean
        self.mean += apart / (before + 1)
        growth = apart * apart * before / (before + 1)
        self.squares += growth
        return growth


def _reaching(ranking: Ranking, bound: float, margin: float) -> Iterator[tuple[float, int]]:
    return itertools.takewhile(lambda entry: entry[0] < bound, ((key - margin, pk) for key, pk in ranking))
