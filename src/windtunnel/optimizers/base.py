"""Ask and tell: what every optimizer offers."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeVar

from windtunnel.model import History
from windtunnel.objectives import Objective
from windtunnel.options import Options
from windtunnel.tunables import TunableGroups

__all__ = ["Optimizer"]

T = TypeVar("T")


class Optimizer(ABC):
    """Proposes configurations and learns from their outcomes.

    Synchronous and seeded; one task owns it and calls it in a worker thread, never two calls at once.

    :param tunables: the space, with its default values.
    :param objectives: metric → objective, the most important first. Results outside of its bounds never come
        as those of a trial that succeeded.
    :param seed: the same seed gives the same suggestions; None draws one.
    :param start_with_defaults: propose the defaults first.
    :param asked: how many configurations earlier sessions of the same experiment took; suggestions go on from
        there, as if the experiment had never stopped.
    """

    learns: ClassVar[bool] = True
    """Whether what it is told changes what it proposes. If not, it may be asked far ahead."""

    options_class: ClassVar[type[Options]] = Options
    """The options it has in a config; each arrives as a keyword argument of the constructor."""

    seed: int
    """The seed in use, given or drawn; with it another optimizer proposes the same."""

    def __init__(
        self,
        *,
        tunables: TunableGroups,
        objectives: Mapping[str, Objective],
        seed: int | None = None,
        start_with_defaults: bool = True,
        asked: int = 0,
    ) -> None:
        self.tunables = tunables
        self.objectives = dict(objectives)
        self.seed = secrets.randbits(32) if seed is None else seed
        self.start_with_defaults = start_with_defaults
        self._asked = asked
        self._told: set[int] = set()

    @property
    def asked(self) -> int:
        """How many configurations were taken, in this session and before."""
        return self._asked

    def ask(self, count: int = 1) -> list[TunableGroups]:
        """Up to ``count`` configurations to try next; fewer, or none, when the space is exhausted.

        :raises OptimizerError: if it cannot propose anything for another reason.
        """
        suggestions: list[TunableGroups] = []
        if count > 0 and self._asked == 0 and self.start_with_defaults:
            suggestions.append(self.tunables.defaults())
        if count > len(suggestions):
            suggestions += self._ask(self._asked + len(suggestions), count - len(suggestions))
        self._asked += len(suggestions)
        return suggestions

    def tell(self, history: History) -> None:
        """Learn from completed trials. A trial that was told before is skipped."""
        if not self.learns:
            return
        new = [i for i, trial_id in enumerate(history.trial_ids) if trial_id not in self._told]

        def those(column: list[T]) -> list[T]:
            return [column[i] for i in new]

        if new:
            self._told.update(history.trial_ids)
            self._tell(
                History(
                    those(history.trial_ids),
                    those(history.configs),
                    those(history.scores),
                    those(history.status),
                )
            )

    @abstractmethod
    def _ask(self, index: int, count: int) -> Sequence[TunableGroups]:
        """Up to ``count`` (at least 1) configurations, the first being the experiment's ``index``-th, from 0.

        With ``start_with_defaults`` the defaults are number 0 and never asked for here.
        """

    def _tell(self, history: History) -> None:  # noqa: B027 - not every optimizer learns
        """Learn from trials that were not told before."""
