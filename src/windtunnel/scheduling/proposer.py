"""The optimizer as the scheduler sees it: asked and told in a worker thread, one call at a time."""

from __future__ import annotations

from collections.abc import Collection

import anyio.to_thread

from windtunnel.errors import OptimizerError
from windtunnel.model import History, RunResult, Trial
from windtunnel.optimizers.base import Optimizer
from windtunnel.tunables import TunableGroups

__all__ = ["Proposer"]


class Proposer:
    """Owns the optimizer. One task at a time may await its methods.

    :param names: the tunables a suggestion must have.
    :ivar problem: why it can propose nothing more; None while it works.
    """

    def __init__(self, optimizer: Optimizer, names: Collection[str]) -> None:
        self._optimizer = optimizer
        self._names = frozenset(names)
        self._untold: list[tuple[Trial, RunResult]] = []
        self.learns = optimizer.learns
        self.problem: Exception | None = None

    def note(self, trial: Trial, result: RunResult) -> None:
        """Remember an outcome until the optimizer is told of it."""
        if self.learns and self.problem is None:
            self._untold.append((trial, result))

    async def ask(self, count: int) -> list[TunableGroups]:
        """New suggestions; none from an optimizer that fails."""
        await self.learn()
        if self.problem is not None:
            return []
        try:
            return self._checked(await anyio.to_thread.run_sync(self._optimizer.ask, count))
        except Exception as exc:  # noqa: BLE001 - whatever an engine raises
            self._fail(exc)
            return []

    async def learn(self) -> None:
        """Tell the optimizer what has finished since it was last told, in the order of completion."""
        if done := self._untold[:]:
            await self.tell(
                History(
                    [trial.trial_id for trial, _ in done],
                    [dict(trial.tunables) for trial, _ in done],
                    [result.metrics for _, result in done],
                    [result.status for _, result in done],
                )
            )
            del self._untold[: len(done)]

    async def tell(self, history: History) -> None:
        """Tell the optimizer of trials, those of earlier sessions for instance."""
        if self.problem is not None:
            return
        try:
            await anyio.to_thread.run_sync(self._optimizer.tell, history)
        except Exception as exc:  # noqa: BLE001 - whatever an engine raises
            self._fail(exc)

    def _fail(self, exc: Exception) -> None:
        self.problem = exc
        self._untold.clear()

    def _checked(self, suggestions: object) -> list[TunableGroups]:
        if not isinstance(suggestions, list | tuple):
            raise OptimizerError(f"expected ask to return a list of TunableGroups, found {suggestions!r}")
        for one in suggestions:
            if not isinstance(one, TunableGroups) or one.tunables.keys() != self._names:
                raise OptimizerError(
                    f"expected ask to return TunableGroups of {sorted(self._names)}, found {one!r} among them"
                )
        return list(suggestions)
