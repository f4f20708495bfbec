"""Ask and tell: what every optimizer offers."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, ClassVar, NotRequired, Required, TypedDict

from windtunnel.model import History
from windtunnel.objectives import Objective
from windtunnel.options import Options
from windtunnel.tunables import TunableGroups

__all__ = ["Given", "Optimizer"]


class Given(TypedDict, total=False):
    """The keyword arguments that every optimizer takes; see ``Optimizer``."""

    tunables: Required[TunableGroups]
    objectives: Required[Mapping[str, Objective]]
    seed: NotRequired[int | None]
    start_with_defaults: NotRequired[bool]
    start_with: NotRequired[Sequence[Mapping[str, Any]]]
    asked: NotRequired[int]
    planned: NotRequired[int | None]


class Optimizer(ABC):
    """Proposes configurations and learns from their outcomes.

    Synchronous and seeded; one task owns it and calls it in a worker thread, never two calls at once.

    :param tunables: the space, with its default values.
    :param objectives: metric → objective, the most important first. Results outside of its bounds never come
        as those of a trial that succeeded.
    :param seed: the same seed gives the same suggestions; None draws one.
    :param start_with_defaults: propose the defaults first.
    :param start_with: then propose these; tunables that one does not name have their defaults.
    :param asked: how many configurations earlier sessions of the same experiment took; suggestions go on from
        there, as if the experiment had never stopped.
    :param planned: how many configurations there are to be in all; default not known.
    :raises TunableError: if one of ``start_with`` is not a configuration of the space.
    """

    learns: ClassVar[bool] = True
    """Whether what it is told changes what it proposes. If not, it may be asked far ahead."""

    resumes: ClassVar[bool] = True
    """Whether a new one that is told all that another was told goes on with the same suggestions."""

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
        start_with: Sequence[Mapping[str, Any]] = (),
        asked: int = 0,
        planned: int | None = None,
    ) -> None:
        self.tunables = tunables
        self.objectives = dict(objectives)
        self.seed = secrets.randbits(32) if seed is None else seed
        defaults = tunables.defaults()
        wished = [defaults] if start_with_defaults else []
        self.first = tuple(dict.fromkeys([*wished, *(defaults.choose(values) for values in start_with)]))
        self.planned = planned
        self._asked = asked
        self._told: set[int] = set()

    @property
    def asked(self) -> int:
        """How many configurations were taken, in this session and before."""
        return self._asked

    def ask(self, count: int = 1) -> list[TunableGroups]:
        """Up to ``count`` configurations to try next; fewer, or none, when the space is exhausted.

        What it gave is under way until it is told.

        :raises OptimizerError: if it cannot propose anything for another reason.
        """
        suggestions = list(self.first[self._asked : self._asked + max(count, 0)])
        if suggestions and self.learns:
            self.expect(suggestions)
        if count > len(suggestions):
            suggestions += self._ask(self._asked + len(suggestions), count - len(suggestions))
        self._asked += len(suggestions)
        return suggestions

    def tell(self, history: History) -> None:
        """Learn from trials. One that was told as completed before is skipped.

        Of a trial that waits or runs the configuration is under way: see ``expect``.
        """
        if not self.learns:
            return
        rows = zip(*history, strict=True)
        new = [row for row in rows if row[0] not in self._told]
        for completed, some in groupby(new, key=lambda row: row[3].is_completed):
            part = History(*map(list, zip(*some, strict=True)))
            if completed:
                self._told.update(part.trial_ids)
                self._tell(part)
            else:
                self.expect([self.tunables.assign(config) for config in part.configs])

    def expect(self, configurations: Sequence[TunableGroups]) -> None:  # noqa: B027 - not every optimizer cares
        """These are under way, though this optimizer did not propose them: they need not be proposed again.

        The defaults for instance, what an earlier session or another optimizer proposed, or somebody queued.
        """

    @abstractmethod
    def _ask(self, index: int, count: int) -> Sequence[TunableGroups]:
        """Up to ``count`` (at least 1) configurations, the first being the experiment's ``index``-th, from 0.

        ``first`` are the numbers from 0 on, and never asked for here.
        """

    def _tell(self, history: History) -> None:  # noqa: B027 - not every optimizer learns
        """Learn from completed trials that were not told before."""
