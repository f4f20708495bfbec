"""Exhaustive search over a grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import Field

from windtunnel.model import Direction
from windtunnel.optimizers.base import Optimizer
from windtunnel.options import Options
from windtunnel.tunables import TunableGroups, TunableValue
from windtunnel.tunables.convert import grid_values

__all__ = ["GridSearch"]


class _GridOptions(Options):
    points: int = Field(default=5, ge=2, description="values for each range that has more than so many")


class GridSearch(Optimizer):
    """Proposes every combination of the tunables' grid values once, then nothing.

    Nothing is enumerated: a suggestion is the mixed-radix decoding of its index. Tunables of the most costly
    groups change least often, and among equals the last declared changes most often. Defaults that were
    proposed first are not proposed again.

    :param points: how many values stand for a range that has more, end to end; at least 2, default 5.
        Categoricals and quantized ranges always give all their values, and special values come on top.
    """

    learns = False
    options_class: ClassVar[type[Options]] = _GridOptions

    def __init__(
        self,
        *,
        tunables: TunableGroups,
        objectives: Mapping[str, Direction],
        seed: int | None = None,
        start_with_defaults: bool = True,
        asked: int = 0,
        points: int = 5,
    ) -> None:
        super().__init__(
            tunables=tunables,
            objectives=objectives,
            seed=seed,
            start_with_defaults=start_with_defaults,
            asked=asked,
        )
        by_cost = sorted(tunables.groups.values(), key=lambda group: -group.cost)
        self._axes: dict[str, list[TunableValue]] = {
            tunable.name: grid_values(tunable, points) for group in by_cost for tunable in group.tunables
        }
        self._default_cell = self._cell_of(tunables.defaults()) if start_with_defaults else None

    @property
    def size(self) -> int:
        """How many combinations the grid has."""
        return math.prod(map(len, self._axes.values()))

    def _ask(self, index: int, count: int) -> Sequence[TunableGroups]:
        first = self._cell_at(index)
        last = min(self._cell_at(index + count), self.size)
        return [self._configuration(cell) for cell in range(first, last) if cell != self._default_cell]

    def _cell_at(self, index: int) -> int:
        """The cell of the ``index``-th suggestion; defaults proposed first are left out of the grid."""
        cell = index - 1 if self.start_with_defaults else index
        return cell + 1 if self._default_cell is not None and cell >= self._default_cell else cell

    def _cell_of(self, configuration: Mapping[str, TunableValue]) -> int | None:
        """The cell that holds this configuration; None if it is off the grid."""
        cell = 0
        for name, values in self._axes.items():
            if configuration[name] not in values:
                return None
            cell = cell * len(values) + values.index(configuration[name])
        return cell

    def _configuration(self, cell: int) -> TunableGroups:
        chosen: dict[str, TunableValue] = {}
        for name, values in reversed(self._axes.items()):
            cell, digit = divmod(cell, len(values))
            chosen[name] = values[digit]
        return self.tunables.assign(chosen)
