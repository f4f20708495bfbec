"""The optimizer as the scheduler sees it: asked and told in a worker thread, one call at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from windtunnel.errors import OptimizerError
from windtunnel.model import History, Status
from windtunnel.optimizers.base import Optimizer
from windtunnel.tunables import TunableGroups

__all__ = ["MakeOptimizer", "Proposer"]

P = TypeVar("P")
R = TypeVar("R")

MakeOptimizer = Callable[[int], Optimizer]
"""Makes an optimizer, given how many configurations were taken before."""

_PATIENCE_S = 0.1
"""An optimizer that learns is asked for as much as it thinks of in this time: no free slot waits longer."""

_Lesson = tuple[int, dict[str, Any], dict[str, Any] | None, Status]


class Proposer:
    """Owns the optimizer. One task at a time may await its methods.

    :param make: makes the optimizer, given how many configurations were taken before; called in a thread.
    :param names: the tunables a suggestion must have.
    :ivar learns: see ``Optimizer.learns``; False before there is an optimizer.
    :ivar problem: why it can propose nothing more; None while it works.
    """

    def __init__(self, make: MakeOptimizer, names: Collection[str]) -> None:
        self._make = make
        self._optimizer: Optimizer | None = None
        self._names = frozenset(names)
        self._untold: list[_Lesson] = []
        # An engine that thinks for ever keeps its thread, and nothing else: a stop does not wait for it.
        self._thread = anyio.CapacityLimiter(1)
        self._at_once = 1
        self.learns = False
        self.problem: Exception | None = None

    async def begin(self, asked: int) -> None:
        """Make an optimizer that goes on after ``asked`` configurations.

        :raises ConfigError: if its description is wrong.
        """
        self._optimizer = await self._call(self._make, asked)
        self._untold.clear()
        self.learns, self.problem = self._optimizer.learns, None

    def note(
        self, trial_id: int, config: Mapping[str, Any], metrics: Mapping[str, Any] | None, status: Status
    ) -> None:
        """Remember an outcome until the optimizer is told of it."""
        if self.learns and self.problem is None:
            self._untold.append((trial_id, dict(config), None if metrics is None else dict(metrics), status))

    async def ask(self, count: int) -> list[TunableGroups]:
        """New suggestions, at most so many and fewer if they take long; none from an optimizer that fails."""
        await self.learn()
        if self.problem is not None or self._optimizer is None:
            return []
        if self.learns:
            count = min(count, self._at_once)
        began = time.monotonic()
        try:
            suggestions = self._checked(await self._call(self._optimizer.ask, count))
        except Exception as exc:  # noqa: BLE001 - whatever an engine raises
            self._fail(exc)
            return []
        took_s = max(time.monotonic() - began, 1e-6)
        self._at_once = max(1, int(_PATIENCE_S * len(suggestions) / took_s))
        return suggestions

    async def learn(self) -> None:
        """Tell the optimizer what has finished since it was last told, in the order of completion."""
        if done := self._untold[:]:
            ids, configs, scores, statuses = zip(*done, strict=True)
            await self.tell(History(list(ids), list(configs), list(scores), list(statuses)))
            del self._untold[: len(done)]

    async def tell(self, history: History) -> None:
        """Tell the optimizer of trials, those of earlier sessions for instance."""
        if self.problem is not None or self._optimizer is None or not history.trial_ids:
            return
        try:
            await self._call(self._optimizer.tell, history)
        except Exception as exc:  # noqa: BLE001 - whatever an engine raises
            self._fail(exc)

    def forget(self) -> None:
        """There is no optimizer any more, until ``begin``."""
        self._optimizer, self.learns = None, False
        self._untold.clear()

    async def _call(self, function: Callable[[P], R], argument: P) -> R:
        try:
            return await anyio.to_thread.run_sync(
                function, argument, abandon_on_cancel=True, limiter=self._thread
            )
        except anyio.get_cancelled_exc_class():
            self.forget()  # its thread may still be at work in there
            raise

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
