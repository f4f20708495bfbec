"""The options that say what to do when trials fail, differ, or are not worth their time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic.json_schema import JsonSchemaValue

from windtunnel.aggregates import Aggregate
from windtunnel.model import FailureKind
from windtunnel.options import ONE_OR_MORE, Also, Count, Duration, Options
from windtunnel.scheduling.policy import AdaptiveRepeats, FailureBudget, Retry

__all__ = [
    "AdaptiveConfig",
    "FailuresConfig",
    "OptionalAdaptive",
    "PrunerConfig",
    "PrunerList",
    "RetriesConfig",
]

_RETRY = Retry()
_BUDGET = FailureBudget()
_ADAPTIVE = AdaptiveRepeats()

Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
FromZero = Annotated[int, Field(strict=True, ge=0)]


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class RetryConfig(Options):
    """How often a trial that failed is run again, and after which pauses. A number is short for ``times``."""

    times: FromZero = Field(description="further attempts")
    pause: Duration = Field(default=_RETRY.pause, description="before the first of them; default 1s")
    factor: float = Field(
        default=_RETRY.factor,
        ge=1,
        allow_inf_nan=False,
        description="by which each pause is longer; default 2",
    )
    longest: Duration = Field(default=_RETRY.longest, description="no pause is longer; default 60s")
    jitter: float = Field(
        default=_RETRY.jitter,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="share of a pause that is left to chance; default 0.5",
    )

    short_form: ClassVar[JsonSchemaValue | None] = {"type": "integer", "minimum": 0}

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: object) -> object:
        return {"times": value} if _is_number(value) else value

    def as_retry(self) -> Retry:
        """The same, as the engine takes it."""
        return Retry(**dict(self))


class RetriesConfig(Options):
    """What is tried again, by the part of the trial that failed; default nothing but lost hosts."""

    setup: RetryConfig | None = Field(
        default=None, description="the environment could not be set up, or not in time"
    )
    run: RetryConfig | None = Field(default=None, description="the run failed")
    results: RetryConfig | None = Field(default=None, description="what it reported cannot be used")
    timeout: RetryConfig | None = Field(default=None, description="the run or the trial used up its time")
    host: RetryConfig | None = Field(default=None, description="the host was lost; default 10 times")

    def as_retries(self) -> dict[FailureKind, Retry]:
        """The same, as the engine takes it."""
        return {FailureKind(kind): retry.as_retry() for kind, retry in self if retry is not None}


class FailuresConfig(Options):
    """How many trials may fail before the experiment is stopped. A number is short for ``most``."""

    most: FromZero | None = Field(default=_BUDGET.most, description="failed trials; default no limit")
    share: Share | None = Field(default=_BUDGET.share, description="of the finished; default no limit")
    least: Count = Field(default=_BUDGET.least, description="finished trials before share counts; default 10")
    setup: FromZero | None = Field(
        default=_BUDGET.setup, description="environments that could not be set up; default no limit"
    )

    short_form: ClassVar[JsonSchemaValue | None] = {"type": "integer", "minimum": 0}

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: object) -> object:
        return {"most": value} if _is_number(value) else value

    def as_budget(self) -> FailureBudget:
        """The same, as the engine takes it."""
        return FailureBudget(**dict(self))


class AdaptiveConfig(Options):
    """Further repeats of promising configurations, on further hosts."""

    most: Annotated[int, Field(strict=True, ge=2, le=10_000)] = Field(
        default=_ADAPTIVE.most, description="runs of one configuration; default 10"
    )
    confidence: float = Field(
        default=_ADAPTIVE.confidence,
        gt=0,
        lt=1,
        allow_inf_nan=False,
        description="that one is worse than the best, to stop; default 0.95",
    )
    score: Aggregate = Field(
        default=_ADAPTIVE.score, description="what stands for several runs; default mean"
    )

    def as_adaptive(self) -> AdaptiveRepeats:
        """The same, as the engine takes it."""
        return AdaptiveRepeats(**dict(self))


def _switched(value: object) -> object:
    if isinstance(value, bool):
        return {} if value else None
    return value


OptionalAdaptive = Annotated[AdaptiveConfig | None, BeforeValidator(_switched), Also({"type": "boolean"})]
"""True for the defaults, a mapping, or false."""


class PrunerConfig(Options):
    """A rule that stops a trial in mid-run. Keys that are not listed here are the rule's own."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(min_length=1, description="short name or dotted path")

    short_form: ClassVar[JsonSchemaValue | None] = {"type": "string", "minLength": 1}

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """The rule's own options, as they were written."""
        return dict(self.model_extra or {})


def _listed(value: object) -> object:
    if value is None:
        return ()
    return (value,) if isinstance(value, str | Mapping) else value


PrunerList = Annotated[
    tuple[PrunerConfig, ...], BeforeValidator(_listed), ONE_OR_MORE, Also({"type": "null"})
]
"""A name, a mapping, or a list of them."""
