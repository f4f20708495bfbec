"""The options of the file that describes an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from windtunnel.config.inventory import HostsConfig
from windtunnel.config.policies import FailuresConfig, OptionalAdaptive, PrunerList, RetriesConfig
from windtunnel.config.roles import HostsPerTrial
from windtunnel.errors import ConfigError
from windtunnel.model import Timeouts
from windtunnel.objectives import Objective
from windtunnel.optimizers.adapters import AdapterConfig
from windtunnel.options import Count, Duration, OptionalDuration, Options, shown
from windtunnel.tunables import TunableGroups
from windtunnel.tunables.definition import CONSTRAINTS
from windtunnel.tunables.form import TunableOptions

__all__ = [
    "EnvironmentConfig",
    "ExperimentConfig",
    "OptimizerConfig",
    "TimeoutsConfig",
    "children_of",
    "optimizer_section",
]

_DEFAULTS = Timeouts()

Name = Annotated[str, Field(min_length=1)]


def _check_id(value: str) -> str:
    if not value.isprintable() or value != value.strip():
        raise ValueError(f"expected printable characters without spaces around them, found {value!r}")
    return value


def _check_url(value: str) -> str:
    if "://" not in value:
        # Not shown: a URL may hold a password.
        raise ValueError("expected the URL of a database, such as sqlite:///windtunnel.db")
    return value


def _check_lease(value: timedelta) -> timedelta:
    if value < timedelta(seconds=1):
        raise ValueError(f"expected at least 1s, found {value.total_seconds():g}s")
    return value


def _to_tunables(value: object) -> TunableGroups:
    if isinstance(value, TunableGroups):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a mapping of groups, found {shown(value)}")  # noqa: TRY004 - pydantic collects it
    return TunableGroups(value)


class _TunablesForm:
    """The groups as JSON Schema."""

    def __get_pydantic_json_schema__(self, _: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        tunable = handler(TunableOptions.__pydantic_core_schema__)
        params = {"type": "object", "additionalProperties": tunable, "description": "name → tunable"}
        cost = {"type": "integer", "minimum": 0, "default": 0, "description": "of changing any of them"}
        group = {
            "type": "object",
            "properties": {"cost": cost, "params": params},
            "additionalProperties": False,
        }
        constraints = {
            "anyOf": [group, {"type": "array", "items": {"type": "string"}}],
            "description": "what must be true of a configuration",
        }
        return {"type": "object", "properties": {CONSTRAINTS: constraints}, "additionalProperties": group}


class TimeoutsConfig(Options):
    """How long each part of a trial, and the whole experiment, may take; see ``Timeouts``."""

    setup: OptionalDuration = Field(default=_DEFAULTS.setup, description="one set-up; default no limit")
    run: OptionalDuration = Field(default=_DEFAULTS.run, description="one run; default no limit")
    teardown: Duration = Field(default=_DEFAULTS.teardown, description="one teardown; default 30s")
    status: Duration = Field(default=_DEFAULTS.status, description="one poll of the status; default 10s")
    trial: OptionalDuration = Field(default=_DEFAULTS.trial, description="set-up and run; default no limit")
    experiment: OptionalDuration = Field(
        default=_DEFAULTS.experiment,
        description="one session; what runs then has timed out; default no limit",
    )

    def as_timeouts(self) -> Timeouts:
        """The same, as the engine takes it."""
        return Timeouts(**dict(self))


def optimizer_section(value: object) -> object:
    """The ``optimizer`` section in its long form: a mapping."""
    if isinstance(value, str):
        return {"name": value}
    return {"name": "mixed", "members": value} if isinstance(value, list | tuple) else value


class OptimizerConfig(Options):
    """Which optimizer proposes configurations. Keys that are not listed here are the optimizer's own.

    A list is short for ``{name: mixed, members: [...]}``.
    """

    model_config = ConfigDict(extra="allow")

    name: str | None = Field(
        default=None,
        min_length=1,
        description="short name or dotted path; default tpe if Optuna is installed, otherwise random",
    )
    seed: int | None = Field(default=None, strict=True, description="default: one is drawn")
    start_with_defaults: bool = Field(
        default=True, strict=True, description="try the defaults first; default true"
    )
    start_with: tuple[dict[str, Any], ...] = Field(
        default=(), description="then try these: mappings of tunable to value; default none"
    )
    adapter: AdapterConfig | None = Field(
        default=None, description="another space for it to search; default the tunables themselves"
    )

    short_form: ClassVar[JsonSchemaValue | None] = {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "items": {"type": ["string", "object"]}},
        ]
    }

    @model_validator(mode="before")
    @classmethod
    def _from_short(cls, value: object) -> object:
        return optimizer_section(value)

    @property
    def options(self) -> dict[str, Any]:
        """The optimizer's own options, as they were written."""
        return dict(self.model_extra or {})


class EnvironmentConfig(Options):
    """Which environment to run and how. A composite's ``config`` holds ``children``: a list of these."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    class_name: str = Field(alias="class", min_length=1, description="short name or dotted path")
    name: str = Field(default="", description="for people; default: the class")
    config: dict[str, Any] = Field(
        default_factory=dict, description="the environment's own options; default none"
    )

    @model_validator(mode="before")
    @classmethod
    def _named_after_class(cls, value: object) -> object:
        if isinstance(value, Mapping) and "name" not in value and "class" in value:
            return {**value, "name": value["class"]}
        return value


class ExperimentConfig(Options):
    """One experiment, complete and checked."""

    experiment: Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_check_id)] = Field(
        description="id; running the same id again resumes it"
    )
    description: str = Field(default="", description="for people; default empty")
    objectives: dict[Name, Objective] = Field(
        min_length=1, description="metric → min, max or more about it; most important first"
    )
    trials: Count = Field(default=100, description="how many, repeats counted; default 100")
    repeats: Count = Field(default=1, le=10_000, description="runs of each configuration; default 1")
    concurrency: Count = Field(
        default=1,
        le=100_000,
        description="trials at once on this machine; default 1. Hosts have slots instead",
    )
    hosts: HostsConfig | None = Field(
        default=None, description="a list of hosts, or the path of an inventory; default this machine"
    )
    hosts_per_trial: HostsPerTrial | None = Field(
        default=None, description="role → how many hosts with which labels; default any one host"
    )
    timeouts: TimeoutsConfig = Field(default_factory=TimeoutsConfig)
    time_budget: OptionalDuration = Field(
        default=None, description="after it no trial is begun, those that run end; default no limit"
    )
    retries: RetriesConfig = Field(default_factory=RetriesConfig)
    failures: FailuresConfig = Field(default_factory=FailuresConfig)
    adaptive_repeats: OptionalAdaptive = Field(
        default=None, description="repeat promising configurations until they differ; default off"
    )
    pruner: PrunerList = Field(default=(), description="what stops a trial in mid-run; default nothing")
    lease: Annotated[Duration, AfterValidator(_check_lease)] = Field(
        default=timedelta(seconds=30),
        description="a trial whose worker was silent so long is run again; default 30s",
    )
    poll_period: Duration = Field(
        default=timedelta(seconds=1), description="how often an environment's status is asked for; default 1s"
    )
    storage: Annotated[str, AfterValidator(_check_url)] = Field(
        default="sqlite:///windtunnel.db", description="URL; a relative path starts at the current directory"
    )
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    tunables: Annotated[TunableGroups, BeforeValidator(_to_tunables), _TunablesForm()] = Field(
        default_factory=lambda: TunableGroups({}), description="group → cost and params; default none"
    )
    constraints: list[str] = Field(
        default_factory=list, description="what must hold, such as 'a + b <= 10'; default nothing"
    )
    environment: EnvironmentConfig
    globals: dict[str, Any] = Field(default_factory=dict, description="name → value, for $name; default none")

    @model_validator(mode="after")
    def _either_hosts_or_concurrency(self) -> ExperimentConfig:
        if self.hosts is not None and "concurrency" in self.model_fields_set:
            raise ValueError("hosts have slots, which say how many trials run at once; leave concurrency out")
        if self.hosts is None and self.hosts_per_trial is not None:
            raise ValueError("hosts_per_trial chooses among hosts, and there are none; list them under hosts")
        return self

    @model_validator(mode="after")
    def _with_constraints(self) -> ExperimentConfig:
        if not self.constraints:
            return self
        constrained = TunableGroups(self.tunables, constraints=self.constraints)
        return self.model_copy(update={"tunables": constrained})


def children_of(config: Mapping[str, Any]) -> list[Any]:
    """The children in an environment's ``config``, as they were written; empty if it has none.

    :raises ConfigError: if they are not a list.
    """
    children = config.get("children", [])
    if not isinstance(children, list):
        raise ConfigError(f"expected a list of environments, found {shown(children)}", path=("children",))
    return children
