"""What an experiment is after: metrics, whether more or less is better, and which values are impossible."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, Field, FiniteFloat, model_validator
from pydantic.json_schema import JsonSchemaValue

from windtunnel.model import Direction
from windtunnel.options import Options, parse_options

__all__ = ["Objective", "directions", "parse_objectives", "weights"]


class Objective(Options):
    """What one metric should become. In a config it is ``max``, or ``{goal: max, weight: 2, min: 0}``.

    :param direction: ``min`` or ``max``.
    :param weight: how much it counts against the other objectives, above 0. Where any objective has a weight,
        those without one have 1; where none has, the first objective alone says what is best.
    :param low: a result below it is invalid, and its trial fails; default any number is valid.
    :param high: a result above it is invalid.
    """

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    short_form: ClassVar[JsonSchemaValue | None] = {"enum": ["min", "max"]}

    direction: Direction = Field(alias="goal", description="min or max")
    weight: FiniteFloat | None = Field(
        default=None, gt=0, description="what it counts against the others; default only the first counts"
    )
    low: FiniteFloat | None = Field(
        default=None, alias="min", description="a result below it fails the trial; default none"
    )
    high: FiniteFloat | None = Field(
        default=None, alias="max", description="a result above it fails the trial; default none"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_direction(cls, value: object) -> object:
        return {"goal": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _bounds_rise(self) -> Self:
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"expected min to be less than max, found {self.low:g} and {self.high:g}")
        return self

    def problem(self, value: float) -> str | None:
        """Why ``value`` cannot be a result, in words such as ``below its min of 0``; None if it can."""
        if self.low is not None and value < self.low:
            return f"below its min of {self.low:g}"
        if self.high is not None and value > self.high:
            return f"above its max of {self.high:g}"
        return None

    def definition(self) -> str | dict[str, Any]:
        """The form a config has, made of JSON types: the direction alone, if there is no more to say."""
        given = self.model_dump(by_alias=True, exclude_none=True)
        return given if len(given) > 1 else self.direction


class _Objectives(Options):
    objectives: dict[str, Objective]


def parse_objectives(given: Mapping[str, object]) -> dict[str, Objective]:
    """Metric → objective, from the forms that a config has.

    :raises ConfigError: if one is wrong; its path begins with ``objectives``.
    """
    return parse_options(_Objectives, {"objectives": dict(given)}).objectives


def directions(objectives: Mapping[str, Objective]) -> dict[str, Direction]:
    """Metric → direction, in the same order."""
    return {metric: objective.direction for metric, objective in objectives.items()}


def weights(objectives: Mapping[str, Objective]) -> tuple[float, ...] | None:
    """What each counts, if they say together what is best; None if the first one does."""
    given = [objective.weight for objective in objectives.values()]
    return None if given.count(None) == len(given) else tuple(1.0 if one is None else one for one in given)
