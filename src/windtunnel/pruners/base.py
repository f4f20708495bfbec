"""Watch and abort: what every pruner offers.

A pruner lives as long as a worker's session and sees the trials that this worker runs. Before the first of
them it is shown the newest that succeeded or were stopped before. One trial's life::

    observe(7, "latency", 12.5, 0.1)    once for each sample, as it arrives
    tick(7, 1.0)                        about once a second, if the pruner has ``ticks``
    observe(7, "latency", 31.0, 1.2)    → Abort: the run is cancelled, aborted and torn down
    ended(7, None)                      always, and last

Nothing announces a trial: its first sample or tick does. An answer of None lets it run. After a verdict there
may be further samples of the trial before its end; what is said of them no longer matters. ``ended`` is
called also for one that gave no sample: then only the scores can be learnt from. Of trials that other workers
run at the same time nobody tells it. A trial that runs again, because it is retried or its lease was lost,
begins anew after ``ended(trial_id, None)``.

All calls come from one task, in the event loop, for every sample of every trial: they must not wait and
should take microseconds. Memory is bounded by the trials that run plus a digest of those that ended, which
must not grow with their number; ours keep the newest ``MOST_ENDED`` of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from windtunnel.model import Direction
from windtunnel.options import Options

__all__ = ["MOST_ENDED", "Abort", "Pruner"]

MOST_ENDED = 1000
"""How many trials that ended a rule remembers for comparison, the newest ones."""


class Abort(NamedTuple):
    """The verdict that a trial is to be stopped.

    :ivar reason: for people: the rule, the metric, its value and the limit.
    :ivar scores: what the optimizer is told of objectives, not necessarily of all; finite. None: only that
        the trial was canceled.
    """

    reason: str
    scores: dict[str, float] | None


class Pruner(ABC):
    """Sees the samples of trials as they arrive and says which trial is not worth going on with.

    Deterministic: the same calls bring the same answers. See the module for the order of calls.

    :param objectives: metric → ``min`` or ``max``, the most important first.
    :raises ConfigError: if an option does not fit the objectives; its path begins with the option's key.
    """

    options_class: ClassVar[type[Options]] = Options
    """The options it has in a config; each arrives as a keyword argument of the constructor."""

    ticks: bool = False
    """Whether ``tick`` is to be called."""

    def __init__(self, *, objectives: Mapping[str, Direction]) -> None:
        self.objectives = dict(objectives)

    @property
    def metrics(self) -> frozenset[str] | None:
        """The metrics whose samples it wants, the same at all times; None for all."""
        return None

    @abstractmethod
    def observe(self, trial_id: int, metric: str, value: float, elapsed_s: float) -> Abort | None:
        """Take one sample.

        :param value: any float, also infinite or NaN.
        :param elapsed_s: seconds since the trial's first sample, of whatever metric.
        """

    def tick(self, trial_id: int, elapsed_s: float) -> Abort | None:
        """Time has passed, with or without samples.

        :param elapsed_s: seconds since the run began.
        """
        return None

    @abstractmethod
    def ended(self, trial_id: int, scores: Mapping[str, float] | None) -> None:
        """Learn from a trial that is over, and forget what was kept while it ran.

        :param scores: the metrics of a trial that succeeded; None if it did not, was aborted or interrupted.
        """
