"""SMAC behind ask and tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Unpack

from ConfigSpace import (
    AndConjunction,
    Categorical,
    Configuration,
    ConfigurationSpace,
    Float,
    InCondition,
)
from pydantic import Field
from smac import HyperparameterOptimizationFacade, Scenario
from smac.main.exceptions import ConfigurationSpaceExhaustedException
from smac.model.random_forest import RandomForest
from smac.runhistory import StatusType, TrialInfo, TrialKey, TrialValue
from smac.runhistory.encoder import RunHistoryLogScaledEncoder

from windtunnel.model import History, Status
from windtunnel.optimizers.base import Given, Optimizer
from windtunnel.optimizers.known import Known, Outcome
from windtunnel.options import Count, Options
from windtunnel.tunables import Tunable, TunableGroups, TunableValue
from windtunnel.tunables.convert import place_of, value_at

__all__ = ["SMAC"]

_SEED = 0
"""What SMAC itself gives every trial when only one is wanted of each configuration."""

_UNLIMITED = 2**31
"""Trials, since how many there will be is not for the optimizer to know."""


_FOREST: dict[str, Any] = {
    "n_trees": 10,
    "bootstrapping": True,
    "ratio_features": 1.0,
    "min_samples_split": 2,
    "min_samples_leaf": 1,
    "max_depth": 2**20,
    "max_leaf_nodes": 2**14,
}
"""As SMAC's own facade has it, but for the leaves: room is made for as many as are allowed, in each tree."""


class _OnlyResults(RunHistoryLogScaledEncoder):
    """What the model learns from: costs, and no number in place of one."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario, considered_states=[StatusType.SUCCESS])

    def _get_timeout_trials(self, budget_subset: list[Any] | None = None) -> dict[TrialKey, TrialValue]:
        return {}  # it would enter them whatever states are considered


class _SMACOptions(Options):
    startup: Count = Field(default=10, description="results of configurations by design before it models")
    retrain: Count = Field(default=4, description="suggestions that one model is good for")
    challengers: Count = Field(default=2000, description="points it compares for each suggestion")


class SMAC(Optimizer):
    """Bayesian optimization with random forests: for categories, conditions and up to some 1000 trials.

    Lindauer et al., "SMAC3: A Versatile Bayesian Optimization Package for Hyperparameter Optimization",
    2022. A configuration has the mean of its runs. What timed out is told as that, what failed or was
    aborted as crashed, and neither is part of the model; SMAC itself would enter a number. It learns from the
    first objective.
    """

    resumes: ClassVar[bool] = False
    options_class: ClassVar[type[Options]] = _SMACOptions

    def __init__(
        self, *, startup: int = 10, retrain: int = 4, challengers: int = 2000, **given: Unpack[Given]
    ) -> None:
        super().__init__(**given)
        self._known = Known(self.tunables, self.objectives, self.seed)
        self._startup = startup
        self._completed = 0
        self._space = _config_space(self.tunables, self.seed % 2**31)
        self._losses: dict[TunableGroups, list[float]] = {}
        self._facade = _facade(self._space, self.seed % 2**31, retrain, challengers)
        self._under_way: dict[TunableGroups, TrialInfo] = {}

    def _ask(self, index: int, count: int) -> Sequence[TunableGroups]:
        return [self._suggestion(index + i) for i in range(count)]

    def _suggestion(self, index: int) -> TunableGroups:
        proposed: dict[TunableGroups, TrialInfo] = {}

        def propose(attempt: int) -> TunableGroups | None:
            if self._completed < self._startup:
                return self._known.draw(index, attempt)
            try:
                info = self._facade.ask()
            except (StopIteration, ConfigurationSpaceExhaustedException):
                return None
            configuration = self._configuration(info.config)
            proposed[configuration] = info
            return configuration

        found = self._known.new(index, propose)
        for configuration, info in proposed.items():
            if configuration == found:
                self._under_way[found] = info
            else:
                self._facade.tell(info, TrialValue(cost=math.inf, status=StatusType.CRASHED), save=False)
        self._begin(found)
        return found

    def expect(self, configurations: Sequence[TunableGroups]) -> None:
        for configuration in configurations:
            self._known.add(configuration)
            self._begin(configuration)

    def _begin(self, configuration: TunableGroups) -> None:
        """Let SMAC know that this one runs, if it does not."""
        if configuration not in self._under_way:
            info = TrialInfo(self._config(configuration), seed=_SEED)
            self._under_way[configuration] = info
            self._facade.runhistory.add_running_trial(info)

    def _tell(self, history: History) -> None:
        for outcome in self._known.outcomes(history):
            self._learn(outcome)

    def _learn(self, outcome: Outcome) -> None:
        configuration = outcome.configuration
        succeeded = outcome.status is Status.SUCCEEDED and outcome.losses is not None
        runs = self._losses.setdefault(configuration, [])
        if succeeded and outcome.losses is not None:
            runs.append(outcome.losses[0])
        self._completed += succeeded
        self._begin(configuration)
        cost, status = (fmean(runs), StatusType.SUCCESS) if runs else (math.inf, _failure(outcome.status))
        self._facade.tell(self._under_way[configuration], TrialValue(cost=cost, status=status), save=False)

    def _configuration(self, config: Configuration) -> TunableGroups:
        tunables = self.tunables.tunables
        values = {name: _value(tunables[name], param) for name, param in dict(config).items()}
        return self.tunables.defaults().assign(values)

    def _config(self, configuration: TunableGroups) -> Configuration:
        active = configuration.active
        values = {
            name: _param(tunable, configuration[name])
            for name, tunable in self.tunables.tunables.items()
            if name in active or not _has_condition(self.tunables, tunable)
        }
        return Configuration(self._space, values=values)


def _facade(
    space: ConfigurationSpace, seed: int, retrain: int, challengers: int
) -> HyperparameterOptimizationFacade:
    # It writes down what it is made of, at once, and would go on from what it finds there.
    with TemporaryDirectory() as folder:
        scenario = Scenario(
            space, deterministic=True, n_trials=_UNLIMITED, seed=seed, output_directory=Path(folder)
        )
        facade = HyperparameterOptimizationFacade
        return facade(
            scenario,
            # On one processor: trials need the others, and processes would be left behind.
            model=RandomForest(configspace=space, seed=seed, log_y=True, n_jobs=1, **_FOREST),
            initial_design=facade.get_initial_design(scenario, n_configs=1),
            acquisition_maximizer=facade.get_acquisition_maximizer(scenario, challengers=challengers),
            intensifier=facade.get_intensifier(scenario, max_config_calls=1),
            config_selector=facade.get_config_selector(scenario, retrain_after=retrain),
            runhistory_encoder=_OnlyResults(scenario),
            logging_level=False,
            overwrite=True,
        )


def _failure(status: Status) -> StatusType:
    return StatusType.TIMEOUT if status is Status.TIMED_OUT else StatusType.CRASHED


def _config_space(tunables: TunableGroups, seed: int) -> ConfigurationSpace:
    space = ConfigurationSpace(seed=seed)
    space.add([_parameter(tunable) for tunable in tunables.tunables.values()])
    for tunable in tunables.tunables.values():
        if _has_condition(tunables, tunable):
            conditions = [
                InCondition(space[tunable.name], space[parent], list(allowed))
                for parent, allowed in tunable.when.items()
            ]
            space.add(conditions[0] if len(conditions) == 1 else AndConjunction(*conditions))
    return space


def _has_condition(tunables: TunableGroups, tunable: Tunable) -> bool:
    """Whether SMAC knows its condition: a place on an axis, unlike a category, has no single value."""
    return bool(tunable.when) and all(tunables.tunables[parent].is_categorical for parent in tunable.when)


def _parameter(tunable: Tunable) -> Any:
    default = tunable.default
    if tunable.is_categorical:
        weights = tunable.values_weights or None
        return Categorical(tunable.name, list(tunable.values), weights=weights, default=str(default))
    return Float(tunable.name, (0.0, 1.0), default=place_of(tunable, default))


def _param(tunable: Tunable, value: TunableValue) -> str | float:
    return str(value) if tunable.is_categorical else place_of(tunable, value)


def _value(tunable: Tunable, param: Any) -> TunableValue:
    return str(param) if tunable.is_categorical else value_at(tunable, float(param))
