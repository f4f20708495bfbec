"""Quasi-random search."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import ClassVar, Literal, Unpack

from pydantic import Field
from scipy.stats.qmc import Halton, Sobol

from windtunnel.optimizers.base import Given, Optimizer
from windtunnel.optimizers.known import is_continuous, new_ones
from windtunnel.options import Options
from windtunnel.tunables import TunableGroups
from windtunnel.tunables.convert import from_unit
from windtunnel.tunables.feasible import Rejections

__all__ = ["QuasiRandom"]

Kind = Literal["sobol", "halton"]
_ENGINES: dict[Kind, type[Sobol | Halton]] = {"sobol": Sobol, "halton": Halton}


class _QuasiRandomOptions(Options):
    sequence: Kind = Field(default="sobol", description="sobol or halton")
    scramble: bool = Field(default=True, description="whether the seed matters")


class QuasiRandom(Optimizer):
    """Proposes the points of a low-discrepancy sequence: they cover the space more evenly than random ones.

    SciPy's ``qmc`` gives the sequences. The k-th suggestion depends on the seed and k alone; points that
    violate constraints are skipped, and those that stand for what was proposed before.

    :param sequence: ``sobol`` (Owen, "Scrambling Sobol' and Niederreiter-Xing Points", 1998) or ``halton``.
    :param scramble: whether the sequence is randomized by the seed.
    """

    learns = False
    options_class: ClassVar[type[Options]] = _QuasiRandomOptions

    def __init__(self, *, sequence: Kind = "sobol", scramble: bool = True, **given: Unpack[Given]) -> None:
        super().__init__(**given)
        engine = _ENGINES[sequence]
        self._engine = engine(d=max(1, len(self.tunables)), scramble=scramble, rng=self.seed)
        self._points: Iterator[TunableGroups] | None = None

    def _ask(self, index: int, count: int) -> Sequence[TunableGroups]:
        if self._points is None:
            self._points = self._after(index - len(self.first))
        return list(islice(self._points, count))

    def _after(self, number: int) -> Iterator[TunableGroups]:
        """The points without the first ``number`` of those that count."""
        if not is_continuous(self.tunables):
            return islice(new_ones(self._feasible(), self.first), number, None)
        if self.tunables.constraints:
            return islice(self._feasible(), number, None)
        if number:
            self._engine.fast_forward(number)
        return self._feasible()

    def _feasible(self) -> Iterator[TunableGroups]:
        rejections = Rejections()
        while True:
            # One at a time: of more, some sequences want a power of two.
            (point,) = self._engine.random(1).tolist()
            configuration = from_unit(self.tunables, point[: len(self.tunables)])
            if configuration.is_feasible:
                rejections = Rejections()
                yield configuration
            else:
                rejections.add(configuration.violated)
