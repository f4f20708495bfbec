"""Engines that search another space than the tunables': fewer axes, of numbers only.

LlamaTune (Kanellis et al., "LlamaTune: Sample-Efficient DBMS Configuration Tuning", VLDB 2022): a few axes
of whole numbers, the buckets, stand for all tunables. Each tunable is tied to one axis and runs along it, up
or down (HeSBO: Nayebi et al., ICML 2019), and special values get a share of it.
"""

from __future__ import annotations

import logging
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from statistics import fmean
from typing import Any, ClassVar, Literal, NamedTuple, Unpack

from pydantic import Field, model_validator
from pydantic.json_schema import JsonSchemaValue

from windtunnel.errors import TunableError
from windtunnel.model import History, Status
from windtunnel.optimizers.base import Given, Optimizer
from windtunnel.options import Count, Options
from windtunnel.tunables import Tunable, TunableGroups, TunableValue
from windtunnel.tunables.constraint import Constraint
from windtunnel.tunables.convert import place_of, sample, value_at
from windtunnel.tunables.feasible import feasible

__all__ = ["AdapterConfig", "LlamaTune", "Projection"]

logger = logging.getLogger(__name__)

_ATTEMPTS = 10
"""Points of an engine that may stand for configurations that are known, before chance takes its place."""
_DRAWS = 100
"""Draws by chance that may be known, before a configuration is repeated."""
_NEAR = 0.1
"""How far a configuration may be from what its point stands for, as a share of each axis."""

_Outcome = tuple[dict[str, Any] | None, Status]


class AdapterConfig(Options):
    """The option ``adapter`` of an optimizer: its name, or a mapping."""

    name: Literal["llamatune"] = Field(description="the only one there is")
    dimensions: Count = Field(default=16, description="axes that the engine searches; default 16")
    buckets: int = Field(default=10_000, ge=2, le=100_000, description="values of each axis; default 10000")
    special_share: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="of a tunable's axis for special values that have no weights; default 0.2",
    )

    short_form: ClassVar[JsonSchemaValue | None] = {"enum": ["llamatune"]}

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value


class _Tie(NamedTuple):
    """Which axis a tunable runs along, and whether from its far end."""

    axis: str
    flipped: bool
    tunable: Tunable

    def value(self, place: float) -> TunableValue:
        return value_at(self.tunable, 1 - place if self.flipped else place)

    def place(self, value: TunableValue) -> float:
        place = place_of(self.tunable, value)
        return 1 - place if self.flipped else place


class Projection:
    """A few axes that stand for all tunables; a point of them stands for one configuration.

    The tunables are dealt out to the axes at random, so that none goes without. With as many axes as tunables
    nothing is lost but what lies between two buckets.

    :param seed: the same one gives the same projection.
    :ivar points: the axes as tunables, with the constraints of the space; the point nearest to the defaults.
    :raises OptimizerError: if no point is found whose configuration keeps the constraints.
    """

    def __init__(self, space: TunableGroups, config: AdapterConfig, seed: int) -> None:
        self._space = space.defaults()
        rng = random.Random(f"{seed}:llamatune")  # noqa: S311 - reproducible, not secret
        names = sorted(space)
        rng.shuffle(names)
        axes = [f"axis{number}" for number in range(1, min(config.dimensions, len(names)) + 1)]
        self._ties = {
            name: _Tie(
                axes[number % len(axes)],
                rng.random() < 0.5,
                _biased(space.tunable(name), config.special_share),
            )
            for number, name in enumerate(names)
        }
        self._last = config.buckets - 1
        self.points = self._axes(dict.fromkeys(axes, self._last // 2))
        constraints = [self._projected(one, axes) for one in space.constraints]
        self.points = TunableGroups(self._axes(self._feasible_start(rng)), constraints=constraints)

    def configuration(self, point: Mapping[str, TunableValue]) -> TunableGroups:
        """What a point stands for."""
        return self._space.assign(
            {name: tie.value(float(point[tie.axis]) / self._last) for name, tie in self._ties.items()}
        )

    def nearest(self, configuration: TunableGroups) -> TunableGroups:
        """The point that stands for ``configuration``, or for what is nearest to it, by least squares."""
        tied: defaultdict[str, list[str]] = defaultdict(list)
        for name in self._ties:
            if name in configuration.active:
                tied[self._ties[name].axis].append(name)
        return self.points.assign(
            {axis: self._nearest_on(configuration, names) for axis, names in tied.items()}
        )

    def distance(self, one: TunableGroups, two: TunableGroups) -> float:
        """How far two configurations are from each other: the root of the mean square over all tunables."""
        squares = [(tie.place(one[name]) - tie.place(two[name])) ** 2 for name, tie in self._ties.items()]
        return math.sqrt(fmean(squares)) if squares else 0.0

    def _nearest_on(self, configuration: TunableGroups, names: Sequence[str]) -> int:
        """The bucket of the axis that these tunables run along."""
        places = [self._ties[name].place(configuration[name]) for name in names]
        *buckets, middle = (round(place * self._last) for place in (*places, fmean(places)))
        for bucket in (*buckets, middle):
            place = bucket / self._last
            if all(self._ties[name].value(place) == configuration[name] for name in names):
                return bucket
        return middle

    def _axes(self, defaults: Mapping[str, TunableValue]) -> TunableGroups:
        params = {
            name: {"type": "int", "range": [0, self._last], "default": default}
            for name, default in defaults.items()
        }
        return TunableGroups({"llamatune": {"params": params}})

    def _feasible_start(self, rng: random.Random) -> TunableGroups:
        """The point nearest to the defaults, or one by chance if its configuration violates a constraint."""
        tried: list[TunableGroups] = []

        def draw() -> TunableGroups:
            values = {name: rng.randint(0, self._last) for name in self.points}
            tried[:] = [self.points.assign(values) if tried else self.nearest(self._space)]
            return self.configuration(tried[0])

        feasible(draw)
        return tried[0]

    def _projected(self, constraint: Constraint, axes: Iterable[str]) -> Constraint:
        def holds(point: Mapping[str, TunableValue]) -> bool:
            return constraint.holds(self.configuration(point))

        return Constraint(constraint.text, frozenset(axes), holds)


def _biased(tunable: Tunable, share: float) -> Tunable:
    """The same with this share of its axis for special values, unless it has weights of its own."""
    if not tunable.special or tunable.special_weights:
        return tunable
    each = share / len(tunable.special)
    return replace(tunable, special_weights=(each,) * len(tunable.special), range_weight=1 - share)


class LlamaTune(Optimizer):
    """Another optimizer that searches a projection of the space.

    The engine is told of a trial at the points of its that stand for the configuration. If none is known, as
    of a merged experiment's trial, or after a restart, it is told at the nearest point if what that stands
    for is near as well, and not at all if it is far away. So an experiment that is resumed goes on with what
    was learnt, but not always with the same suggestions: several points may stand for one configuration.

    :param engine: makes the optimizer, given what all take.
    """

    resumes: ClassVar[bool] = False

    def __init__(
        self, *, engine: Callable[[Given], Optimizer], config: AdapterConfig, **given: Unpack[Given]
    ) -> None:
        super().__init__(**given)
        self._projection = Projection(self.tunables, config, self.seed)
        self._engine = engine(
            Given(
                tunables=self._projection.points,
                objectives=self.objectives,
                seed=self.seed,
                start_with_defaults=False,
                asked=max(0, self.asked - len(self.first)),
                planned=self.planned,
            )
        )
        self._points: dict[TunableGroups, list[TunableGroups]] = {}
        self._outcomes: dict[TunableGroups, _Outcome] = {}
        self._numbers = count(1)

    def expect(self, configurations: Sequence[TunableGroups]) -> None:
        for configuration in configurations:
            if configuration not in self._points:
                self._engine.expect(self._points_of(configuration))

    def _ask(self, index: int, count: int) -> Sequence[TunableGroups]:
        proposed = (self._proposed(number) for number in range(index, index + count))
        return [one for one in proposed if one is not None]

    def _proposed(self, index: int) -> TunableGroups | None:
        """What the engine proposes, or chance if that is known; nothing if the engine has nothing more."""
        found: TunableGroups | None = None
        for _ in range(_ATTEMPTS):
            asked = self._engine.ask(1)
            if not asked:
                return found
            found = self._projection.configuration(asked[0])
            is_new = found not in self._points
            self._points.setdefault(found, []).append(asked[0])
            if is_new:
                return found
            if found in self._outcomes:  # what is under way will be told of this point as well
                self._told_of(asked, self._outcomes[found])
        return self._by_chance(index) or found

    def _by_chance(self, index: int) -> TunableGroups | None:
        """A configuration that is not known; None if none is found."""
        rng = random.Random(f"{self.seed}:{index}:llamatune")  # noqa: S311
        for _ in range(_DRAWS):
            point = sample(self._projection.points, rng)
            drawn = self._projection.configuration(point)
            if drawn not in self._points:
                self._points[drawn] = [point]
                self._engine.expect([point])
                return drawn
        return None

    def _tell(self, history: History) -> None:
        left_out = 0
        for _, config, scores, status in zip(*history, strict=True):
            try:
                configuration = self.tunables.defaults().assign(config)
            except TunableError:
                left_out += 1
                continue
            points = self._points_of(configuration)
            if configuration in self._outcomes:
                points = points[:1]
            self._outcomes[configuration] = (scores, status)
            self._told_of(points, (scores, status))
            left_out += not points
        if left_out:
            logger.warning(
                "%d trials are not learnt from: nothing in the projected space is like them",
                left_out,
                extra={"action": "trials_dropped"},
            )

    def _points_of(self, configuration: TunableGroups) -> list[TunableGroups]:
        """The points that stand for it; the nearest one if none is known, but none if that is far away."""
        known = self._points.get(configuration)
        if known is None:
            nearest = self._projection.nearest(configuration)
            stands_for = self._projection.configuration(nearest)
            is_near = self._projection.distance(configuration, stands_for) <= _NEAR
            known = self._points[configuration] = [nearest] if is_near else []
        return known

    def _told_of(self, points: Sequence[TunableGroups], outcome: _Outcome) -> None:
        scores, status = outcome
        self._engine.tell(
            History(
                [next(self._numbers) for _ in points],
                [dict(point) for point in points],
                [scores] * len(points),
                [status] * len(points),
            )
        )
