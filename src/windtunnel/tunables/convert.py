"""Between configurations and the numbers that optimizers work with: the unit cube, random draws, grids.

A configuration is a point of the unit cube, with one axis for each tunable in the order of declaration.

* A categorical cuts its axis into buckets, one for each value, as wide as its weight says.
* A quantized range cuts it into equal ones.
* Any other range is laid out evenly along its axis; in the logarithm if the tunable says so.
* Special values take the lower end of the axis, each a bucket as wide as it is likely, and the range takes
  the rest (as in LlamaTune, Kanellis et al., VLDB 2022). What has weight 0 has no place in the cube.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, TypeVar

from windtunnel.errors import TunableError
from windtunnel.tunables.feasible import feasible
from windtunnel.tunables.groups import TunableGroups
from windtunnel.tunables.tunable import Tunable, TunableValue

if TYPE_CHECKING:
    import random

__all__ = ["from_unit", "grid_values", "has_weight", "place_of", "sample", "to_unit", "value_at"]

T = TypeVar("T")


def to_unit(groups: TunableGroups) -> list[float]:
    """The values as a point of the unit cube.

    ``from_unit`` gives the same values back, but for the rounding of floats and of ints beyond 50 bits. A
    value off its quantization grid comes back as the nearest one on it.
    """
    return [place_of(groups.tunables[name], value) for name, value in groups.items()]


def from_unit(groups: TunableGroups, vector: Sequence[float]) -> TunableGroups:
    """The configuration at a point of the unit cube; it may violate constraints.

    A tunable that is not active has its default, wherever the point lies along its axis.

    :param vector: a number in [0, 1] for each tunable.
    :raises TunableError: if there are more or fewer numbers, or one is outside [0, 1].
    """
    if len(vector) != len(groups):
        raise TunableError(
            f"expected {len(groups)} numbers in [0, 1], one for each tunable, found {len(vector)}"
        )
    values: dict[str, TunableValue] = {}
    for tunable, coordinate in zip(groups.tunables.values(), vector, strict=True):
        if not 0 <= coordinate <= 1:
            raise TunableError(f"tunable {tunable.name!r}: expected a number in [0, 1], found {coordinate!r}")
        values[tunable.name] = value_at(tunable, coordinate)
    return groups.assign(values)


def sample(groups: TunableGroups, rng: random.Random) -> TunableGroups:
    """A configuration drawn at random, as likely as weights and distributions say; it keeps the constraints.

    :raises OptimizerError: if none is found that keeps them.
    """
    return feasible(
        lambda: groups.assign({name: _draw(tunable, rng) for name, tunable in groups.tunables.items()})
    )


def grid_values(tunable: Tunable, points: int) -> list[TunableValue]:
    """The values of one tunable on a grid, special values last.

    :param points: how many values stand for a range that has more; they are spread from end to end, in the
        logarithm if the tunable says so. Categoricals and quantized ranges give all their values. At least 2.
    """
    if tunable.is_categorical:
        return list(tunable.values)
    few = tunable.quantization_bins is not None or (tunable.cardinality or math.inf) <= points
    regular = tunable.quantized_values if few else None
    return list(dict.fromkeys((*(regular or tunable.spaced(points)), *tunable.special)))


def _draw(tunable: Tunable, rng: random.Random) -> TunableValue:
    if tunable.is_categorical:
        return rng.choices(tunable.values, tunable.values_weights or None)[0]
    if tunable.special:
        special = _bucket_of_share(tunable, rng.random())
        if special is not None:
            return tunable.special[special]
    return _in_range(tunable, tunable.distribution.draw(rng))


def place_of(tunable: Tunable, value: TunableValue) -> float:
    """Where a value stands on the tunable's axis, from 0 to 1: in the middle of its bucket, if it has one."""
    if isinstance(value, str):
        index, edges = tunable.values.index(value), _category_edges(tunable)
        return (edges[index] + edges[index + 1]) / 2
    if not tunable.special:
        return _position(tunable, value)
    edges = _special_edges(tunable)
    if tunable.is_special(value):
        index = tunable.special.index(value)
        return (edges[index] + edges[index + 1]) / 2
    return edges[-1] + (1 - edges[-1]) * _position(tunable, value)


def value_at(tunable: Tunable, place: float) -> TunableValue:
    """The value that stands at a place from 0 to 1 on the tunable's axis."""
    if tunable.is_categorical:
        return tunable.values[bisect_right(_category_edges(tunable), place, 1, len(tunable.values)) - 1]
    special = _bucket_of_share(tunable, place)
    if special is not None:
        return tunable.special[special]
    start = _special_edges(tunable)[-1]
    return _in_range(tunable, (place - start) / (1 - start))


def has_weight(tunable: Tunable, value: TunableValue) -> bool:
    """Whether a value may be proposed. One of weight 0 is allowed, but has no place on the axis."""
    if isinstance(value, str):
        return not tunable.values_weights or tunable.values_weights[tunable.values.index(value)] > 0
    if tunable.is_special(value):
        return not tunable.special_weights or tunable.special_weights[tunable.special.index(value)] > 0
    return tunable.range_weight != 0


def _category_edges(tunable: Tunable) -> list[float]:
    """Where the buckets of a categorical's values begin, and where the last one ends."""
    weights = tunable.values_weights or (1.0,) * len(tunable.values)
    total = sum(weights)
    return [edge / total for edge in accumulate(weights, initial=0.0)]


def _special_edges(tunable: Tunable) -> list[float]:
    """Where the buckets of the special values begin, and at last where the range begins."""
    edges = list(accumulate(tunable.special_shares, initial=0.0))
    # Without a place for the range the buckets must fill the axis to the end, whatever was lost in rounding.
    return [edge / edges[-1] for edge in edges] if tunable.range_weight == 0 else edges


def _bucket_of_share(tunable: Tunable, coordinate: float) -> int | None:
    """The index of the special value at ``coordinate``; None in the range."""
    below_one = min(coordinate, math.nextafter(1, 0))
    return next((i for i, edge in enumerate(_special_edges(tunable)[1:]) if below_one < edge), None)


def _position(tunable: Tunable, value: float) -> float:
    """Where ``value`` stands in the range, from 0 to 1."""
    if tunable.quantization_bins is not None and (grid := tunable.quantized_values) is not None:
        return _middle(bisect_left(grid, tunable.quantize(value)), len(grid))
    low, high = _ends(tunable)
    place = math.log(value) if tunable.log else value
    return min(max((place - low) / (high - low), 0.0), 1.0)


def _in_range(tunable: Tunable, position: float) -> TunableValue:
    """The value of the range at ``position``, from 0 to 1."""
    if tunable.quantization_bins is not None and (grid := tunable.quantized_values) is not None:
        return _bucket(grid, position)
    low, high = _ends(tunable)
    place = low + position * (high - low)
    value: int | float = math.exp(place) if tunable.log else place
    if tunable.type == "int":
        value = round(value)
    assert tunable.range is not None  # noqa: S101 - categoricals do not come here
    return min(max(value, tunable.range[0]), tunable.range[1])


def _ends(tunable: Tunable) -> tuple[float, float]:
    """The ends of the axis of a range: an int reaches half a step further, so that all ints are as wide."""
    assert tunable.range is not None  # noqa: S101 - categoricals do not come here
    margin = 0.5 if tunable.type == "int" else 0.0
    low, high = tunable.range[0] - margin, tunable.range[1] + margin
    return (math.log(low), math.log(high)) if tunable.log else (low, high)


def _bucket(values: Sequence[T], position: float) -> T:
    return values[min(int(position * len(values)), len(values) - 1)]


def _middle(index: int, count: int) -> float:
    return (index + 0.5) / count
