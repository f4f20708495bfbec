"""How the values of a range are spread when they are drawn at random."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import random

__all__ = ["Beta", "Distribution", "Normal", "Uniform", "make_distribution"]


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every place in the range is as likely as any other."""

    kind: ClassVar[str] = "uniform"

    def draw(self, rng: random.Random) -> float:
        """A position in [0, 1]: 0 is the lower end of the range, 1 the upper one."""
        return rng.random()


@dataclass(frozen=True, slots=True)
class Normal:
    """A normal distribution over the range scaled to [0, 1], cut off at both ends.

    :ivar mu: the most likely position, in [0, 1].
    :ivar sigma: the standard deviation before the cut, above 0.
    """

    kind: ClassVar[str] = "normal"

    mu: float
    sigma: float

    def __post_init__(self) -> None:
        if not 0 <= self.mu <= 1:
            raise ValueError(f"mu is a position in the range scaled to [0, 1], found {self.mu!r}")
        if not (self.sigma > 0 and math.isfinite(self.sigma)):
            raise ValueError(f"sigma must be above 0, found {self.sigma!r}")

    def draw(self, rng: random.Random) -> float:
        bell = NormalDist(self.mu, self.sigma)
        low, high = bell.cdf(0.0), bell.cdf(1.0)
        quantile = low + rng.random() * (high - low)
        return min(max(bell.inv_cdf(quantile), 0.0), 1.0) if 0 < quantile < 1 else self.mu


@dataclass(frozen=True, slots=True)
class Beta:
    """A beta distribution over the range scaled to [0, 1].

    :ivar alpha: above 0; the larger, the more weight near the upper end.
    :ivar beta: above 0; the larger, the more weight near the lower end.
    """

    kind: ClassVar[str] = "beta"

    alpha: float
    beta: float

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be above 0, found {value!r}")

    def draw(self, rng: random.Random) -> float:
        return rng.betavariate(self.alpha, self.beta)


Distribution = Uniform | Normal | Beta

_KINDS: Mapping[str, type[Distribution]] = {cls.kind: cls for cls in (Uniform, Normal, Beta)}


def make_distribution(kind: str, params: Mapping[str, Any]) -> Distribution:
    """The distribution of this kind.

    :raises ValueError: if the kind or a parameter is unknown, missing or outside its domain.
    """
    if kind not in _KINDS:
        raise ValueError(f"unknown distribution {kind!r}; known: {', '.join(_KINDS)}")
    wanted = [field.name for field in fields(_KINDS[kind])]
    if sorted(params) != sorted(wanted):
        needs = f"needs the parameters {' and '.join(wanted)}" if wanted else "takes no parameters"
        raise ValueError(f"a {kind} distribution {needs}, found {', '.join(map(str, params)) or 'none'}")
    return _KINDS[kind](**{name: float(value) for name, value in params.items()})
