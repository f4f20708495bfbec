"""Random search."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import count as numbers
from itertools import islice
from typing import Unpack

from windtunnel.optimizers.base import Given, Optimizer
from windtunnel.optimizers.known import is_continuous, new_ones
from windtunnel.tunables import TunableGroups
from windtunnel.tunables.convert import sample

__all__ = ["RandomSearch"]


class RandomSearch(Optimizer):
    """Draws every configuration independently, as likely as weights and distributions of the tunables say.

    The k-th suggestion depends on the seed and k alone. What was drawn before is drawn anew, as long as that
    helps.
    """

    learns = False

    def __init__(self, **given: Unpack[Given]) -> None:
        super().__init__(**given)
        self._new: Iterator[TunableGroups] | None = None

    def _ask(self, index: int, count: int) -> Sequence[TunableGroups]:
        if self._new is None:
            self._new = self._from(index)
        return list(islice(self._new, count))

    def _from(self, index: int) -> Iterator[TunableGroups]:
        if is_continuous(self.tunables):  # nothing comes again: what was drawn need not be known
            return map(self._drawn, numbers(index))
        begin = len(self.first)
        return islice(new_ones(map(self._drawn, numbers(begin)), self.first), index - begin, None)

    def _drawn(self, index: int) -> TunableGroups:
        return sample(self.tunables, random.Random(f"{self.seed}:{index}"))  # noqa: S311 - reproducible
