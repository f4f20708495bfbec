"""Trade-offs between objectives. A point has one number for each objective, and less is always better."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod

__all__ = ["MOST_POINTS", "front", "hypervolumes", "scale", "weighted"]

Point = tuple[float, ...]

MOST_POINTS = 100
"""How large a front of more than two objectives may be whose volume is computed: that takes a second."""


def front(points: Sequence[Point]) -> list[int]:
    """The indices of the points that no other dominates, in order; of equal points all.

    One dominates another if it is better in one objective and in none worse. With more than two objectives it
    takes time in proportion to the points times those in the front.
    """
    found: list[int] = []
    # In this order only an earlier point can dominate a later one; of two objectives, only the last found.
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        point = points[index]
        rivals = found if len(point) > 2 else found[-1:]
        if not any(_dominates(points[rival], point) for rival in rivals):
            found.append(index)
    return sorted(found)


def hypervolumes(points: Sequence[Point], reference: Point) -> list[float | None]:
    """After each point, the volume of what it and those before it dominate, up to ``reference``.

    A point that is not below ``reference`` in all objectives adds nothing. Exact: a point adds what it
    dominates, without what the others do (WFG: While, Bradstreet, Barone, *A fast way of calculating exact
    hypervolumes*, 2012). None from where a front of more than two objectives has over ``MOST_POINTS``.
    """
    total, kept = 0.0, list[Point]()
    grown: list[float | None] = []
    for point in points:
        inside = all(x < r for x, r in zip(point, reference, strict=True))
        if inside and point not in kept and not any(_dominates(other, point) for other in kept):
            total += _gain(point, kept, reference)
            kept = [other for other in kept if not _dominates(point, other)] + [point]
        if len(reference) > 2 and len(kept) > MOST_POINTS:
            break
        grown.append(total)
    return grown + [None] * (len(points) - len(grown))


def _gain(point: Point, others: Sequence[Point], reference: Point) -> float:
    """The volume that ``point`` dominates and none of ``others`` does."""
    whole = prod(r - x for x, r in zip(point, reference, strict=True))
    return whole - _volume([tuple(map(max, point, other)) for other in others], reference)


def _volume(points: Sequence[Point], reference: Point) -> float:
    if len(reference) > 2:
        different = sorted(set(points))
        kept = [different[index] for index in front(different)]
        return sum(_gain(point, kept[index + 1 :], reference) for index, point in enumerate(kept))
    volume, top = 0.0, reference[-1]
    for *before, last in sorted(points):
        if last < top:
            volume += prod(r - x for x, r in zip(before, reference, strict=False)) * (top - last)
            top = last
    return volume


def _dominates(one: Point, two: Point) -> bool:
    return one != two and all(x <= y for x, y in zip(one, two, strict=True))


def scale(points: Iterable[Point]) -> Callable[[Point], Point]:
    """What brings the best of ``points`` to 0 and the worst to 1, in each objective; equals to 0."""
    ends = [(min(column), max(column)) for column in zip(*points, strict=True)]

    def scaled(point: Point) -> Point:
        placed = zip(point, ends, strict=True)
        return tuple((loss - low) / (high - low) if high > low else 0.0 for loss, (low, high) in placed)

    return scaled


def weighted(point: Point, weights: Sequence[float]) -> float:
    """The weighted sum of a point's losses."""
    return sum(loss * weight for loss, weight in zip(point, weights, strict=True))
