"""Exhaustive search over a grid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import ClassVar, Unpack

from pydantic import Field

from windtunnel.optimizers.base import Given, Optimizer
from windtunnel.options import Options
from windtunnel.tunables import TunableGroups, TunableValue
from windtunnel.tunables.convert import grid_values
from windtunnel.tunables.feasible import Rejections

__all__ = ["GridSearch"]

_REJECTED = 100_000
"""Cells, or whole blocks of them, that are skipped in a row before it is given up: some seconds."""


class _GridOptions(Options):
    points: int = Field(default=5, ge=2, description="values for each range that has more than so many")


class GridSearch(Optimizer):
    """Proposes every combination of the tunables' grid values once, then nothing.

    A suggestion is the mixed-radix decoding of its cell's number. Tunables of the most costly groups change
    least often, and among equals the last declared changes most often. What was proposed first, such as the
    defaults, is not proposed again.

    Of the cells that differ only in tunables that are not active the first counts. A cell that does not, or
    that violates a constraint, is skipped together with all that agree with it on the tunables to blame and
    those before them.

    :param points: how many values stand for a range that has more, end to end; at least 2, default 5.
        Categoricals and quantized ranges always give all their values, and special values come on top.
    """

    learns = False
    options_class: ClassVar[type[Options]] = _GridOptions

    def __init__(self, *, points: int = 5, **given: Unpack[Given]) -> None:
        super().__init__(**given)
        tunables = self.tunables
        by_cost = sorted(tunables.groups.values(), key=lambda group: -group.cost)
        self._axes: dict[str, list[TunableValue]] = {
            tunable.name: grid_values(tunable, points) for group in by_cost for tunable in group.tunables
        }
        self._constraints = [(self._block(one.names), one) for one in tunables.constraints]
        conditional = [name for name, tunable in tunables.tunables.items() if tunable.when]
        self._conditions = [(self._block([name]), name) for name in conditional]
        self._cells: Iterator[TunableGroups] | None = None

    @property
    def size(self) -> int:
        """How many cells the grid has; those that are skipped count as well."""
        return math.prod(map(len, self._axes.values()))

    def _ask(self, index: int, count: int) -> Sequence[TunableGroups]:
        if self._cells is None:
            self._cells = self._cells_after(index - len(self.first))
        return list(islice(self._cells, count))

    def _cells_after(self, count: int) -> Iterator[TunableGroups]:
        """The configurations of the cells, without the first ``count``."""
        if self._constraints or self._conditions:
            yield from islice(self._cells_from(0), count, None)
        else:
            cell = count
            proposed = {place for one in self.first if (place := self._cell_of(one)) is not None}
            for place in sorted(proposed):
                cell += place <= cell
            yield from self._cells_from(cell)

    def _cells_from(self, cell: int) -> Iterator[TunableGroups]:
        rejections = Rejections(_REJECTED)
        while cell < self.size:
            chosen = self._values(cell)
            configuration = self.tunables.assign(chosen)
            broken = [(block, one.text) for block, one in self._constraints if not one.holds(configuration)]
            if broken:
                rejections.add(tuple(text for _, text in broken))
            block = max((*(block for block, _ in broken), *self._doubled(chosen, configuration)), default=0)
            if block:
                cell = (cell // block + 1) * block
                continue
            cell += 1
            if configuration not in self.first:
                rejections = Rejections(_REJECTED)
                yield configuration

    def _doubled(self, chosen: Mapping[str, TunableValue], configuration: TunableGroups) -> Iterator[int]:
        """The blocks in which a tunable is not active and does not have its first value."""
        if self._conditions:
            active = configuration.active
            for block, name in self._conditions:
                if name not in active and chosen[name] != self._axes[name][0]:
                    yield block

    def _block(self, names: Iterable[str]) -> int:
        """How many cells in a row agree on all that decides about the tunables named."""
        deciding: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in deciding:
                deciding.add(name)
                waiting += self.tunables.tunable(name).when
        order = list(self._axes)
        last = max(map(order.index, deciding))
        return math.prod(len(self._axes[name]) for name in order[last + 1 :])

    def _cell_of(self, configuration: Mapping[str, TunableValue]) -> int | None:
        """The cell that holds this configuration; None if it is off the grid."""
        cell = 0
        for name, values in self._axes.items():
            if configuration[name] not in values:
                return None
            cell = cell * len(values) + values.index(configuration[name])
        return cell

    def _values(self, cell: int) -> dict[str, TunableValue]:
        chosen: dict[str, TunableValue] = {}
        for name, values in reversed(self._axes.items()):
            cell, digit = divmod(cell, len(values))
            chosen[name] = values[digit]
        return chosen
