"""FLAML's local search behind ask and tell."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Unpack

from pydantic import Field

from windtunnel.model import History, Status
from windtunnel.optimizers.base import Given, Optimizer
from windtunnel.optimizers.known import Known, Outcome
from windtunnel.options import Count, Options
from windtunnel.tunables import Tunable, TunableGroups, TunableValue
from windtunnel.tunables.convert import place_of, value_at

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # it misses its other half, which nobody asked for
    from flaml.tune.sample import choice, uniform
    from flaml.tune.searcher.blendsearch import CFO

__all__ = ["FLAML"]

_LOSS = "loss"


_RANGE = "range"


class _Axis:
    """A tunable as FLAML knows it: a number from 0 to 1, a choice, or both if there are special values.

    Steps along a range lead nowhere near from a special value: that is a choice of its own.
    """

    def __init__(self, tunable: Tunable) -> None:
        self._tunable = tunable
        self._kinds = {str(value): value for value in tunable.special}
        self._kind = f"kind of {tunable.name}"
        self._range = tunable
        if tunable.range is not None and tunable.special:
            self._range = replace(
                tunable, special=(), special_weights=(), range_weight=None, default=tunable.range[0]
            )

    def space(self) -> dict[str, Any]:
        name = self._tunable.name
        if self._tunable.is_categorical:
            return {name: choice(list(self._tunable.values))}
        kinds = {self._kind: choice([_RANGE, *self._kinds])} if self._kinds else {}
        return {name: uniform(0.0, 1.0), **kinds}

    def params(self, value: TunableValue) -> dict[str, Any]:
        name, is_special = self._tunable.name, self._tunable.is_special(value)
        if self._tunable.is_categorical:
            return {name: value}
        kinds = {self._kind: str(value) if is_special else _RANGE} if self._kinds else {}
        return {name: 0.5 if is_special else place_of(self._range, value), **kinds}

    def value(self, params: Mapping[str, Any]) -> TunableValue:
        param = params[self._tunable.name]
        if self._tunable.is_categorical:
            return str(param)
        special = self._kinds.get(params.get(self._kind, _RANGE))
        return value_at(self._range, min(max(param, 0.0), 1.0)) if special is None else special


class _FLAMLOptions(Options):
    startup: Count = Field(default=10, description="results of random configurations before it takes steps")


class FLAML(Optimizer):
    """Randomized direct search: small steps from the best configuration that is known.

    Wu, Wang and Huang, "Frugal Optimization for Cost-related Hyperparameters", 2021; FLAML's ``CFO``. It
    makes one step at a time: with several trials at once the others are drawn by chance. It learns from the
    first objective.

    :param startup: it begins when there are so many results, those of configurations drawn by chance; with 1
        it goes out from the defaults, if they come first.
    """

    resumes: ClassVar[bool] = False
    options_class: ClassVar[type[Options]] = _FLAMLOptions

    def __init__(self, *, startup: int = 10, **given: Unpack[Given]) -> None:
        super().__init__(**given)
        self._startup = startup
        self._known = Known(self.tunables, self.objectives, self.seed)
        self._axes = {name: _Axis(tunable) for name, tunable in self.tunables.tunables.items()}
        self._search: Any = None
        self._losses: dict[TunableGroups, float] = {}
        self._best: tuple[float, TunableGroups] | None = None
        self._steps: dict[TunableGroups, str] = {}

    def _ask(self, index: int, count: int) -> Sequence[TunableGroups]:
        return [self._suggestion(index + i) for i in range(count)]

    def _begin(self, start: TunableGroups) -> Any:
        return CFO(
            metric=_LOSS,
            mode="min",
            space={key: domain for axis in self._axes.values() for key, domain in axis.space().items()},
            low_cost_partial_config=self._params(start),
            seed=self.seed % 2**31,
        )

    def _suggestion(self, index: int) -> TunableGroups:
        if self._best is None or len(self._losses) < self._startup:
            return self._known.new(index, lambda attempt: self._known.draw(index, attempt))
        if self._search is None:
            self._search = self._begin(self._best[1])
        return self._next_step(index)

    def _next_step(self, index: int) -> TunableGroups:
        steps: dict[TunableGroups, str] = {}

        def propose(attempt: int) -> TunableGroups | None:
            step = f"{index}:{attempt}"
            params = self._search.suggest(step)
            if params is None:
                return None
            proposed = self._configuration(params)
            if (loss := self._losses.get(proposed)) is not None:
                self._search.on_trial_complete(step, {_LOSS: loss, "config": params})
                return None
            steps[proposed] = step
            return proposed

        found = self._known.new(index, propose)
        for proposed, step in steps.items():
            if proposed == found:
                self._steps[found] = step
            else:
                self._search.on_trial_complete(step, None, error=True)
        return found

    def expect(self, configurations: Sequence[TunableGroups]) -> None:
        for configuration in configurations:
            self._known.add(configuration)

    def _tell(self, history: History) -> None:
        for outcome in self._known.outcomes(history):
            self._learn(outcome)

    def _learn(self, outcome: Outcome) -> None:
        configuration = outcome.configuration
        step = self._steps.pop(configuration, None)
        if outcome.status is not Status.SUCCEEDED or outcome.losses is None:
            if step is not None:
                self._search.on_trial_complete(step, None, error=True)
            return
        loss = self._losses[configuration] = outcome.losses[0]
        if step is not None:
            self._search.on_trial_complete(step, {_LOSS: loss, "config": self._params(configuration)})
        if self._best is None or loss < self._best[0]:
            self._best = loss, configuration
            if step is None:  # somebody else found a better place
                self._search = None
                self._steps.clear()

    def _params(self, configuration: TunableGroups) -> dict[str, Any]:
        return {
            key: param
            for name, axis in self._axes.items()
            for key, param in axis.params(configuration[name]).items()
        }

    def _configuration(self, params: dict[str, Any]) -> TunableGroups:
        return self.tunables.assign({name: axis.value(params) for name, axis in self._axes.items()})
