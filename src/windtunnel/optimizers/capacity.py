"""The highest rate that a system serves well, by trials."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Unpack

from pydantic import Field

from windtunnel.errors import ConfigError
from windtunnel.loadgen.capacity import Step, capacity, next_rate
from windtunnel.model import History
from windtunnel.optimizers.base import Given, Optimizer
from windtunnel.options import Options, nearest
from windtunnel.tunables import TunableGroups

__all__ = ["CapacitySearch"]

_COMPARED: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_LIMIT = re.compile(r"\s*(?P<metric>[\w.]+)\s*(?P<sign><=|>=|<|>)\s*(?P<limit>-?\d+(?:\.\d+)?)\s*", re.ASCII)


class _CapacityOptions(Options):
    tunable: str = Field(default="rate", description="the tunable whose highest value is searched for")
    slo: tuple[str, ...] = Field(
        min_length=1, description="what has to be kept, such as p99_ms<50: metric, < <= > or >=, number"
    )
    precision: float = Field(default=0.05, gt=0, lt=1, description="relative; default 0.05")
    steps: int = Field(default=15, ge=1, description="most trials; default 15")


class CapacitySearch(Optimizer):
    """Searches for the highest value of a tunable at which limits are kept, such as a rate of requests.

    By ``loadgen.capacity``: it doubles, then bisects, and tries again what is in doubt. It begins with the
    default and proposes nothing more when the answer is precise enough. Other tunables keep their defaults.
    A trial that failed has kept nothing. Trials side by side disturb each other: see ``concurrency``.

    :param slo: the limits, all of which must be kept.
    :raises ConfigError: if there is no such tunable, it is no range, or a limit is none.
    """

    options_class: ClassVar[type[Options]] = _CapacityOptions

    def __init__(
        self,
        *,
        slo: Sequence[str],
        tunable: str = "rate",
        precision: float = 0.05,
        steps: int = 15,
        **given: Unpack[Given],
    ) -> None:
        super().__init__(**given)
        defaults = self.tunables.defaults()
        if tunable not in defaults:
            raise ConfigError(
                f"there is no tunable {tunable!r}{nearest(tunable, defaults)}", path=("tunable",)
            )
        found = defaults.tunable(tunable).range
        if found is None:
            raise ConfigError(f"expected a tunable with a range, {tunable!r} has values", path=("tunable",))
        self._name = tunable
        self._low, self._high = found
        self._is_whole = isinstance(defaults[tunable], int)
        self._limits = [_limit(text) for text in slo]
        self._precision = precision
        self._most = steps
        self._steps: list[Step] = []
        self._awaited: list[float] = []

    @property
    def steps(self) -> Sequence[Step]:
        """What was tried, in the order it was told."""
        return tuple(self._steps)

    def expect(self, configurations: Sequence[TunableGroups]) -> None:
        self._awaited += [float(one[self._name]) for one in configurations]

    def _ask(self, index: int, count: int) -> Sequence[TunableGroups]:
        found: list[TunableGroups] = []
        while len(found) < count and (chosen := self._next()) is not None:
            self.expect([chosen])
            found.append(chosen)
        return found

    def _next(self) -> TunableGroups | None:
        """As if what is under way had come out as is likely by now."""
        likely = capacity(self._steps).rate
        steps = [*self._steps, *(Step(rate, rate <= likely) for rate in self._awaited)]
        defaults = self.tunables.defaults()
        rate = next_rate(steps, start=float(defaults[self._name]), precision=self._precision, most=self._most)
        if rate is None:
            return None
        value = min(max(rate, self._low), self._high)
        value = round(value) if self._is_whole else value
        return None if self._at_the_end(value) else defaults.assign({self._name: value})

    def _at_the_end(self, value: float) -> bool:
        """Whether the range ends here, and it was seen twice that it does not matter."""
        if value not in (self._low, self._high):
            return False
        is_kept = value == self._high
        return sum(step == (value, is_kept) for step in self._steps) > 1

    def _tell(self, history: History) -> None:
        for config, scores, status in zip(history.configs, history.scores, history.status, strict=True):
            rate = float(config[self._name])
            if rate in self._awaited:
                self._awaited.remove(rate)
            if status.is_canceled:
                continue
            is_kept = status.is_succeeded and all(kept(scores or {}) for kept in self._limits)
            self._steps.append(Step(rate, is_kept))

    def estimate(self) -> float:
        """The highest rate, as far as it is known."""
        return capacity(self._steps).rate


def _limit(text: str) -> Callable[[Mapping[str, Any]], bool]:
    match = _LIMIT.fullmatch(text)
    if match is None:
        raise ConfigError(f"expected a limit such as p99_ms<50, found {text!r}", path=("slo",))
    metric, compared, limit = match["metric"], _COMPARED[match["sign"]], float(match["limit"])

    def is_kept(scores: Mapping[str, Any]) -> bool:
        value = scores.get(metric)
        return isinstance(value, int | float) and compared(value, limit)

    return is_kept
