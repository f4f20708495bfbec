"""What an engine knows: outcomes in terms of its own space, and which configurations are not new any more."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from windtunnel.errors import TunableError
from windtunnel.model import History, Status
from windtunnel.objectives import Objective
from windtunnel.tunables import Tunable, TunableGroups
from windtunnel.tunables.convert import has_weight, sample

__all__ = ["ATTEMPTS", "Known", "Outcome", "is_continuous", "new_ones"]

logger = logging.getLogger(__name__)

ATTEMPTS = 10
"""How often an engine that thinks for milliseconds is asked for something new."""
_DRAWS = 100
"""Draws by chance that may be known, before one is repeated."""


class Outcome(NamedTuple):
    """What came of one run.

    :ivar losses: one for each objective, smaller is better; None if it did not end well, or, of a trial that
        was stopped early, if nothing is known of it. What such a trial has is what it had come to by then.
    """

    configuration: TunableGroups
    status: Status
    losses: tuple[float, ...] | None


class Known:
    """Every configuration that was proposed or told, so that the next proposal is another one.

    :param space: with its default values.
    :param objectives: metric → objective.
    """

    def __init__(self, space: TunableGroups, objectives: Mapping[str, Objective], seed: int) -> None:
        self._space = space
        self._signs = {name: 1.0 if one.direction == "min" else -1.0 for name, one in objectives.items()}
        self._seed = seed
        self._seen: set[TunableGroups] = set()
        self._size = math.prod(map(_values_of, space.tunables.values()))
        self._weighted = {
            name: one for name, one in space.tunables.items() if one.values_weights or one.special_weights
        }
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, configuration: TunableGroups) -> None:
        """This one is not new any more."""
        self._seen.add(configuration)

    def outcomes(self, history: History) -> Iterator[Outcome]:
        """Completed trials as the engine takes them; those outside its space are left out, and counted."""
        defaults, dropped = self._space.defaults(), self._dropped
        for _, config, scores, status in zip(*history, strict=True):
            try:
                configuration = defaults.assign(config)
            except TunableError:
                self._dropped += 1
                continue
            self._seen.add(configuration)
            yield Outcome(configuration, status, self._losses(scores))
        if self._dropped > dropped:
            logger.warning(
                "%d trials are not learnt from: they lie outside of the space as it is now",
                self._dropped - dropped,
                extra={"action": "trials_dropped"},
            )

    def new(
        self, index: int, propose: Callable[[int], TunableGroups | None], attempts: int = ATTEMPTS
    ) -> TunableGroups:
        """A proposal that is feasible and was not known before; it is known now.

        An engine that finds none is helped out by chance. A configuration is repeated only if chance does not
        find another one either, as when there are none.

        :param index: of the suggestion.
        :param propose: what the engine gives at its first, second, … attempt; None if it gives nothing.
        :param attempts: proposals that may be known or infeasible, before chance takes the engine's place.
        :raises OptimizerError: if nothing is found that keeps the constraints.
        """
        found: TunableGroups | None = None
        for attempt in range(attempts):
            proposed = propose(attempt)
            if proposed is not None and proposed.is_feasible and self._has_weight(proposed):
                found = proposed
                if found not in self._seen:
                    break
                if len(self._seen) >= self._size:
                    break
        else:
            found = self._by_chance(index, found)
        assert found is not None, "chance gives one, or raises"  # noqa: S101
        self._seen.add(found)
        return found

    def draw(self, index: int, attempt: int = 0) -> TunableGroups:
        """A configuration drawn as weights and distributions say; the same each time it is asked for.

        :raises OptimizerError: if none keeps the constraints.
        """
        return sample(self._space, random.Random(f"{self._seed}:{index}:{attempt}"))  # noqa: S311

    def _has_weight(self, configuration: TunableGroups) -> bool:
        """Whether no value was chosen that has weight 0."""
        return all(
            has_weight(tunable, configuration[name])
            for name, tunable in self._weighted.items()
            if name in configuration.active
        )

    def _by_chance(self, index: int, found: TunableGroups | None) -> TunableGroups:
        drawn = (self.draw(index, attempt) for attempt in range(ATTEMPTS, ATTEMPTS + _DRAWS))
        new = next((one for one in drawn if one not in self._seen), None)
        return new or found or self.draw(index)

    def _losses(self, scores: Mapping[str, object] | None) -> tuple[float, ...] | None:
        if scores is None:
            return None
        losses: list[float] = []
        for name, sign in self._signs.items():
            value = scores.get(name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                return None
            losses.append(sign * value)
        return tuple(losses)


def new_ones(drawn: Iterable[TunableGroups], known: Iterable[TunableGroups]) -> Iterator[TunableGroups]:
    """What was not drawn before, nor is among ``known``; something again only if nothing new is found."""
    seen, in_vain = set(known), 0
    for one in drawn:
        in_vain = in_vain + 1 if one in seen else 0
        if in_vain in (0, _DRAWS):
            in_vain = 0
            seen.add(one)
            yield one


def is_continuous(space: TunableGroups) -> bool:
    """Whether configurations drawn by chance are all different: a float makes them so."""
    return any(
        not (one.is_categorical or one.special or one.when) and one.cardinality is None
        for one in space.tunables.values()
    )


def _values_of(tunable: Tunable) -> float:
    """How many values can be proposed for it."""
    if tunable.is_categorical:
        return sum(has_weight(tunable, value) for value in tunable.values)
    if tunable.cardinality is None:
        return math.inf
    return tunable.cardinality + sum(not tunable.in_range(value) for value in tunable.special)
