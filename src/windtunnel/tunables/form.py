"""The form that the definition of a tunable has in a configuration file."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, FiniteFloat, StrictBool, StrictInt

from windtunnel.options import Options

__all__ = ["TunableOptions"]


class _DistributionOptions(Options):
    """How draws are spread over the range."""

    type: str = Field(description="uniform, normal or beta")
    params: dict[str, FiniteFloat] = Field(
        default_factory=dict, description="normal: mu and sigma, beta: alpha and beta; in the unit interval"
    )


class TunableOptions(Options):
    """What the definition of a tunable may say; see ``Tunable``."""

    type: Literal["int", "float", "categorical"] = Field(description="what kind of values it has")
    default: Any = Field(description="a value of its domain")
    values: list[Any] = Field(default_factory=list, description="of a categorical one")
    values_weights: list[FiniteFloat] = Field(
        default_factory=list, description="how likely each of values is; default all equal"
    )
    range: list[Any] | None = Field(default=None, description="[lowest, highest], both included")
    log: StrictBool = Field(default=False, description="spread the logarithm evenly; default false")
    quantization_bins: StrictInt | None = Field(
        default=None, description="propose only so many evenly spaced values; default any"
    )
    special: list[Any] = Field(default_factory=list, description="values with a meaning of their own")
    special_weights: list[FiniteFloat] = Field(
        default_factory=list, description="how likely each special value is; default half of all together"
    )
    range_weight: FiniteFloat | None = Field(
        default=None, description="how likely the range is, against special_weights"
    )
    distribution: _DistributionOptions | None = Field(
        default=None, description="how draws are spread over the range; default uniform"
    )
    description: str = Field(default="", description="for people; default empty")
    meta: dict[str, Any] = Field(default_factory=dict, description="anything scripts should know")
    when: dict[str, Any] = Field(
        default_factory=dict, description="other tunable → value or values for which this one matters"
    )
