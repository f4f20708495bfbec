"""FLAML's local search behind ask and tell."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Unpack

from windtunnel.model import History, Status
from windtunnel.optimizers.base import Given, Optimizer
from windtunnel.optimizers.known import Known, Outcome
from windtunnel.tunables import TunableGroups
from windtunnel.tunables.convert import place_of, value_at

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # it misses its other half, which nobody asked for
    from flaml.tune.sample import choice, uniform
    from flaml.tune.searcher.blendsearch import CFO

__all__ = ["FLAML"]

_LOSS = "loss"


class FLAML(Optimizer):
    """Randomized direct search from the defaults on: for changes that should stay small and cheap.

    Wu, Wang and Huang, "Frugal Optimization for Cost-related Hyperparameters", 2021; FLAML's ``CFO``. It
    begins at the best configuration that is known, at first the defaults. It makes one step at a time: with
    several trials at once the others are drawn by chance. It learns from the first objective.
    """

    resumes: ClassVar[bool] = False

    def __init__(self, **given: Unpack[Given]) -> None:
        super().__init__(**given)
        self._known = Known(self.tunables, self.objectives, self.seed)
        self._search: Any = None
        self._losses: dict[TunableGroups, float] = {}
        self._best: tuple[float, TunableGroups] | None = None
        self._steps: dict[TunableGroups, str] = {}

    def _ask(self, index: int, count: int) -> Sequence[TunableGroups]:
        if self._search is None:
            self._search = self._begin()
        return [self._suggestion(index + i) for i in range(count)]

    def _begin(self) -> Any:
        start = self.tunables.defaults() if self._best is None else self._best[1]
        space = {
            name: choice(list(tunable.values)) if tunable.is_categorical else uniform(0.0, 1.0)
            for name, tunable in self.tunables.tunables.items()
        }
        return CFO(
            metric=_LOSS,
            mode="min",
            space=space,
            low_cost_partial_config=self._params(start),
            seed=self.seed % 2**31,
        )

    def _suggestion(self, index: int) -> TunableGroups:
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
        tunables = self.tunables.tunables
        return {
            name: value if tunables[name].is_categorical else place_of(tunables[name], value)
            for name, value in configuration.items()
        }

    def _configuration(self, params: dict[str, Any]) -> TunableGroups:
        tunables = self.tunables.tunables
        values = {
            name: param
            if tunables[name].is_categorical
            else value_at(tunables[name], min(max(param, 0.0), 1.0))
            for name, param in params.items()
        }
        return self.tunables.assign(values)
