"""Several rules as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from windtunnel.pruners.base import Abort, Pruner

__all__ = ["Pruners"]


class Pruners(Pruner):
    """Stops a trial as soon as one of its rules does; of several at once the first in the list counts.

    :param rules: made for the same objectives.
    """

    def __init__(self, rules: Sequence[Pruner]) -> None:
        super().__init__(objectives=rules[0].objectives if rules else {})
        self._rules = [(rule, rule.metrics) for rule in rules]
        self._ticking = [rule for rule in rules if rule.ticks]
        self.ticks = bool(self._ticking)

    @property
    def metrics(self) -> frozenset[str] | None:
        wanted = [metrics for _, metrics in self._rules if metrics is not None]
        return frozenset().union(*wanted) if len(wanted) == len(self._rules) else None

    def observe(self, trial_id: int, metric: str, value: float, elapsed_s: float) -> Abort | None:
        verdicts = [  # each hears of every sample, whatever another says
            rule.observe(trial_id, metric, value, elapsed_s)
            for rule, wanted in self._rules
            if wanted is None or metric in wanted
        ]
        return next(filter(None, verdicts), None)

    def tick(self, trial_id: int, elapsed_s: float) -> Abort | None:
        verdicts = [rule.tick(trial_id, elapsed_s) for rule in self._ticking]
        return next(filter(None, verdicts), None)

    def ended(self, trial_id: int, scores: Mapping[str, float] | None) -> None:
        for rule, _ in self._rules:
            rule.ended(trial_id, scores)
