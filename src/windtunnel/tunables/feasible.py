"""Bounded rejection: draws until the constraints hold, or tells which of them is to blame."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from windtunnel.errors import OptimizerError
from windtunnel.tunables.groups import TunableGroups

__all__ = ["ATTEMPTS", "Rejections", "feasible"]

ATTEMPTS = 10_000
"""Draws before it is given up: enough to find what one draw in 1000 gives, half a second for ten tunables."""


def feasible(draw: Callable[[], TunableGroups], *, attempts: int = ATTEMPTS) -> TunableGroups:
    """The first configuration drawn that keeps all constraints.

    :param draw: gives another one each time.
    :raises OptimizerError: after so many attempts; it names the constraint that was violated most.
    """
    rejections = Rejections(attempts)
    while not (drawn := draw()).is_feasible:
        rejections.add(drawn.violated)
    return drawn


class Rejections:
    """Counts configurations that were refused in a row.

    :param most: how many are borne.
    """

    def __init__(self, most: int = ATTEMPTS) -> None:
        self._most = most
        self._count = 0
        self._violated: Counter[str] = Counter()

    def add(self, violated: tuple[str, ...]) -> None:
        """One was refused because of these constraints.

        :raises OptimizerError: if it was one too many.
        """
        self._count += 1
        self._violated.update(violated)
        if self._count < self._most:
            return
        (worst, times), *_ = self._violated.most_common(1)
        kept = 100 * (1 - times / self._count)
        raise OptimizerError(
            f"none of {self._count} configurations keeps the constraints; {worst!r} is violated most, "
            f"{kept:.3g} % keep it; loosen it, or narrow the ranges to where it holds"
        )
