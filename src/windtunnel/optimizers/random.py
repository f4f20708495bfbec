"""Random search."""

from __future__ import annotations

import random
from collections.abc import Sequence

from windtunnel.optimizers.base import Optimizer
from windtunnel.tunables import TunableGroups
from windtunnel.tunables.convert import sample

__all__ = ["RandomSearch"]


class RandomSearch(Optimizer):
    """Draws every configuration independently, as likely as weights and distributions of the tunables say.

    The k-th suggestion depends on the seed and k alone. In a small space a configuration can come again.
    """

    learns = False

    def _ask(self, index: int, count: int) -> Sequence[TunableGroups]:
        return [sample(self.tunables, self._generator(k)) for k in range(index, index + count)]

    def _generator(self, index: int) -> random.Random:
        return random.Random(f"{self.seed}:{index}")  # noqa: S311 - reproducible, not secret
