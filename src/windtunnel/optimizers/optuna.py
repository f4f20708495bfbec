"""Optuna's samplers behind ask and tell.

A sampler is driven by its own documented methods, on a study in memory that holds one trial for each run.
Every suggestion comes from a sampler of its own, seeded by the experiment's seed and the suggestion's
number, so that it depends on these, on what was told and on what is under way, and on nothing else.

A range is an axis from 0 to 1 on which special values have their place (see ``tunables/convert.py``), so
that all samplers honour logarithms, quantization and special values alike. What follows conditions is
proposed on its own, once the others have their values.
"""

from __future__ import annotations

import logging
import random
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Unpack

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState
from pydantic import Field

from windtunnel.model import History, Status
from windtunnel.optimizers.base import Given, Optimizer
from windtunnel.optimizers.known import ATTEMPTS, Known, Outcome
from windtunnel.options import Count, Options
from windtunnel.tunables import Tunable, TunableGroups, TunableValue
from windtunnel.tunables.convert import place_of, value_at

__all__ = ["CMAES", "GP", "NSGA2", "TPE"]

# It announces every study it makes, on standard error, whatever the application wants to hear.
logging.getLogger("optuna.storages._in_memory").setLevel(logging.WARNING)


class _Axis:
    """A tunable as Optuna knows it.

    :param as_category: whether the sampler understands categories; otherwise they share an axis from 0 to 1.
    """

    def __init__(self, tunable: Tunable, *, as_category: bool) -> None:
        self._tunable = tunable
        self._is_category = as_category and tunable.is_categorical
        self.distribution: BaseDistribution = (
            CategoricalDistribution(tunable.values) if self._is_category else FloatDistribution(0.0, 1.0)
        )

    def value(self, param: Any) -> TunableValue:
        return str(param) if self._is_category else value_at(self._tunable, param)

    def param(self, value: TunableValue) -> str | float:
        return str(value) if self._is_category else place_of(self._tunable, value)


class _Run(FrozenTrial):
    """A trial that is made for the study, and need not be copied to belong to it."""

    def __deepcopy__(self, memo: object) -> _Run:
        return self


class _OptunaSearch(Optimizer):
    """What the samplers share.

    Each run is a trial of its own: the first of a configuration ends what was under way, further ones are
    added. The first ``startup`` results are those of configurations drawn by chance, as weights and
    distributions say.
    """

    knows_categories: ClassVar[bool] = True
    knows_several_objectives: ClassVar[bool] = True
    attempts: ClassVar[int] = ATTEMPTS
    """How often it is asked for a configuration that is new and feasible."""
    takes_notes: ClassVar[bool] = False
    """Whether the sampler writes into trials what it needs later: also those it did not propose need that."""

    def __init__(self, *, startup: int, **given: Unpack[Given]) -> None:
        super().__init__(**given)
        self._startup = startup
        self._known = Known(self.tunables, self.objectives, self.seed)
        self._axes = {
            name: _Axis(tunable, as_category=self.knows_categories)
            for name, tunable in self.tunables.tunables.items()
        }
        # A sampler may take all of these together: they are in every trial.
        self._joint = {
            name: axis.distribution
            for name, axis in self._axes.items()
            if not self.tunables.tunables[name].when and not axis.distribution.single()
        }
        self._order = _parents_first(self.tunables.tunables)
        self._losses = len(self.objectives) if self.knows_several_objectives else 1
        self._storage = InMemoryStorage()
        self._study = optuna.create_study(
            storage=self._storage, sampler=RandomSampler(seed=0), directions=["minimize"] * self._losses
        )
        self._study_id = self._storage.get_study_id_from_name(self._study.study_name)
        self._under_way: dict[TunableGroups, int] = {}
        self._completed = 0

    @abstractmethod
    def _sampler(self, seed: int) -> BaseSampler:
        """A new sampler."""

    # Asking

    def _ask(self, index: int, count: int) -> Sequence[TunableGroups]:
        return [self._suggestion(index + i) for i in range(count)]

    def _suggestion(self, index: int) -> TunableGroups:
        trial = self._begin()

        def propose(attempt: int) -> TunableGroups:
            suggested = self._suggested(trial, self._seeded(index, attempt))
            by_chance = self._completed < self._startup
            return self._known.draw(index, attempt) if by_chance else suggested

        found = self._known.new(index, propose, self.attempts)
        self._write(trial, found)
        return found

    def _seeded(self, index: int, attempt: int = 0) -> BaseSampler:
        return self._sampler(random.Random(f"{self.seed}:{index}:{attempt}").getrandbits(31))  # noqa: S311

    def _suggested(self, trial: FrozenTrial, sampler: BaseSampler) -> TunableGroups:
        together = sampler.sample_relative(self._study, trial, dict(self._joint))
        values: dict[str, TunableValue] = {}
        for name in self._order:
            if _is_active(self.tunables.tunables[name], values):
                axis = self._axes[name]
                param = together.get(name)
                if param is None:
                    param = sampler.sample_independent(self._study, trial, name, axis.distribution)
                values[name] = axis.value(param)
        return self.tunables.defaults().assign(values)

    # What is under way

    def expect(self, configurations: Sequence[TunableGroups]) -> None:
        for configuration in configurations:
            self._known.add(configuration)
            if configuration not in self._under_way:
                self._write(self._noted(), configuration)

    def _begin(self) -> FrozenTrial:
        """A new trial of the study, still without parameters."""
        number = self._study.ask().number
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        return self._storage.get_trial(trial_id)

    def _noted(self) -> FrozenTrial:
        """A new trial for a configuration that the sampler did not propose."""
        trial = self._begin()
        if self.takes_notes:
            self._seeded(trial.number).sample_relative(self._study, trial, dict(self._joint))
        return trial

    def _write(self, trial: FrozenTrial, configuration: TunableGroups) -> None:
        """Write where the values stand: that is known after a restart too, what the sampler gave is not."""
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, trial.number)
        for name, param in self._params(configuration).items():
            distribution = self._axes[name].distribution
            internal = distribution.to_internal_repr(param)
            self._storage.set_trial_param(trial_id, name, internal, distribution)
        self._under_way[configuration] = trial_id

    def _params(self, configuration: TunableGroups) -> dict[str, str | float]:
        return {name: self._axes[name].param(configuration[name]) for name in configuration.active}

    # Learning

    def _tell(self, history: History) -> None:
        for outcome in self._known.outcomes(history):
            self._learn(outcome)

    def _learn(self, outcome: Outcome) -> None:
        state, values, partial = self._verdict(outcome)
        self._completed += state is TrialState.COMPLETE
        trial_id = self._under_way.pop(outcome.configuration, None)
        if trial_id is None and not self.takes_notes:
            self._add(outcome.configuration, state, values, partial)
            return
        if trial_id is None:
            self._write(self._noted(), outcome.configuration)
            trial_id = self._under_way.pop(outcome.configuration)
        if partial is not None:
            self._storage.set_trial_intermediate_value(trial_id, 1, partial)
        self._storage.set_trial_state_values(trial_id, state, values)

    def _verdict(self, outcome: Outcome) -> tuple[TrialState, list[float] | None, float | None]:
        """State, values, and the value a trial had come to when it was stopped."""
        losses = None if outcome.losses is None else list(outcome.losses[: self._losses])
        if outcome.status is Status.SUCCEEDED and losses is not None:
            return TrialState.COMPLETE, losses, None
        if outcome.status is Status.CANCELED and self._losses == 1:
            return TrialState.PRUNED, None, None if losses is None else losses[0]
        return TrialState.FAIL, None, None

    def _add(
        self,
        configuration: TunableGroups,
        state: TrialState,
        values: list[float] | None,
        partial: float | None,
    ) -> None:
        params = self._params(configuration)
        run = _Run(
            number=-1,
            trial_id=-1,
            state=state,
            value=None,
            values=values,
            datetime_start=None,
            datetime_complete=None,
            params=params,
            distributions={name: self._axes[name].distribution for name in params},
            user_attrs={},
            system_attrs={},
            intermediate_values={} if partial is None else {1: partial},
        )
        self._storage.create_new_trial(self._study_id, run)


def _parents_first(tunables: Mapping[str, Tunable]) -> list[str]:
    """Their names, each after those its condition speaks of."""
    order: dict[str, None] = {}

    def visit(name: str) -> None:
        if name in tunables and name not in order:
            for parent in tunables[name].when:
                visit(parent)
            order[name] = None

    for name in tunables:
        visit(name)
    return list(order)


def _is_active(tunable: Tunable, values: Mapping[str, TunableValue]) -> bool:
    return all(values.get(parent) in allowed for parent, allowed in tunable.when.items())


# The samplers


class _TPEOptions(Options):
    startup: Count = Field(default=10, description="results of random configurations before it models")
    candidates: Count = Field(default=24, description="points it compares for each suggestion")


class TPE(_OptunaSearch):
    """The tree-structured Parzen estimator, multivariate, with a constant liar for what is under way.

    Watanabe, "Tree-Structured Parzen Estimator", 2023; Optuna's ``TPESampler``.
    """

    options_class: ClassVar[type[Options]] = _TPEOptions

    def __init__(self, *, startup: int = 10, candidates: int = 24, **given: Unpack[Given]) -> None:
        super().__init__(startup=startup, **given)
        self._candidates = candidates

    def _sampler(self, seed: int) -> BaseSampler:
        return TPESampler(
            seed=seed,
            n_startup_trials=self._startup,
            n_ei_candidates=self._candidates,
            multivariate=self._losses == 1,
            constant_liar=True,
        )


class _GPOptions(Options):
    startup: Count = Field(default=10, description="results of random configurations before it models")
    deterministic: bool = Field(default=False, description="whether equal configurations give equal results")


class GP(_OptunaSearch):
    """Bayesian optimization with a Gaussian process; for some hundred trials, since it takes long to think.

    Optuna's ``GPSampler``. It needs PyTorch: the extra ``gp``.
    """

    attempts: ClassVar[int] = 2  # it would think as long again, and mostly come to the same
    options_class: ClassVar[type[Options]] = _GPOptions

    def __init__(self, *, startup: int = 10, deterministic: bool = False, **given: Unpack[Given]) -> None:
        super().__init__(startup=startup, **given)
        self._deterministic = deterministic

    def _sampler(self, seed: int) -> BaseSampler:
        return GPSampler(
            seed=seed,
            n_startup_trials=self._startup,
            deterministic_objective=self._deterministic,
            warn_independent_sampling=False,
        )


class _CMAESOptions(Options):
    population: int | None = Field(default=None, ge=5, description="per generation; default 4 + 3 log n")


class CMAES(_OptunaSearch):
    """The covariance matrix adaptation evolution strategy: for many trials of ranges that matter together.

    Hansen, "The CMA Evolution Strategy: A Tutorial", 2016; Optuna's ``CmaEsSampler``. It learns from the
    first objective only.
    """

    knows_categories: ClassVar[bool] = False
    knows_several_objectives: ClassVar[bool] = False
    takes_notes: ClassVar[bool] = True
    options_class: ClassVar[type[Options]] = _CMAESOptions

    def __init__(self, *, population: int | None = None, **given: Unpack[Given]) -> None:
        super().__init__(startup=1, **given)
        self._population = population

    def _sampler(self, seed: int) -> BaseSampler:
        return CmaEsSampler(seed=seed, popsize=self._population, warn_independent_sampling=False)


_GENERATIONS = 10
_PLANNED = 160
"""Configurations in all, where nobody says how many."""


class _NSGA2Options(Options):
    population: int | None = Field(
        default=None, ge=2, description="configurations per generation; default a tenth of all, from 4 to 50"
    )


class NSGA2(_OptunaSearch):
    """A genetic algorithm with non-dominated sorting: for several objectives and many trials.

    Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", 2002; Optuna's
    ``NSGAIISampler``.

    :param population: configurations per generation; default a tenth of those that are planned, so that there
        are ten generations, but from 4 to 50. With fewer generations it finds no more than chance does.
    """

    takes_notes: ClassVar[bool] = True
    options_class: ClassVar[type[Options]] = _NSGA2Options

    def __init__(self, *, population: int | None = None, **given: Unpack[Given]) -> None:
        planned = given.get("planned") or _PLANNED
        self.population = population or min(max(planned // _GENERATIONS, 4), 50)
        super().__init__(startup=self.population, **given)

    def _sampler(self, seed: int) -> BaseSampler:
        return NSGAIISampler(seed=seed, population_size=self.population)
