"""What the optimizer is asked and what it is told: outcomes of this worker, and of all the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from windtunnel.model import RunResult, Status, Trial
from windtunnel.scheduling.policy import AdaptiveRepeats, Repeats, Run
from windtunnel.scheduling.proposer import Proposer
from windtunnel.storage import Experiment
from windtunnel.tunables import TunableGroups

__all__ = ["Lessons"]

_EVER = datetime.max.replace(tzinfo=UTC)


class Lessons:
    """Keeps a leader's optimizer up to date. One task at a time may await its methods.

    :param least: runs that every configuration gets.
    :param adaptive: further runs of promising configurations; None for none. The optimizer is then told the
        score of all runs of the configuration so far, not that of one trial.
    """

    def __init__(
        self,
        *,
        experiment: Experiment,
        proposer: Proposer,
        least: int,
        adaptive: AdaptiveRepeats | None,
    ) -> None:
        self._experiment = experiment
        self._proposer = proposer
        self._least = least
        self._adaptive = adaptive
        self._objective, self._direction = next(iter(experiment.opt_targets.items()))
        self._repeats: Repeats | None = None
        self._under_way: Counter[int] = Counter()
        self._counted: dict[int, int] = {}
        self._unfinished: set[int] = set()
        self._highest = 0

    @property
    def learns(self) -> bool:
        """Whether what the optimizer is told changes what it proposes."""
        return self._proposer.learns

    @property
    def problem(self) -> Exception | None:
        """Why the optimizer can propose nothing more; None while it works."""
        return self._proposer.problem

    @property
    def may_repeat(self) -> bool:
        """Whether configurations may have to be run again."""
        return self._repeats is not None and (
            bool(+self._under_way) or bool(self._repeats.due(self._under_way, 1))
        )

    async def begin(self, asked: int, total: int) -> None:
        """Make the optimizer and tell it what was learnt so far.

        :param asked: how many configurations were taken before.
        :param total: trials the experiment has.
        :raises StorageError: if the database fails.
        """
        await self._proposer.begin(asked)
        self._highest, self._unfinished = total, set()
        if self._listens:
            history = await self._experiment.load()  # also of experiments that were merged in
            self._unfinished = set(range(1, total + 1)).difference(history.trial_ids)
            await self._proposer.tell(history)
        if self._adaptive is not None:
            await self._begin_repeats(self._adaptive)

    async def ask(self, count: int) -> list[TunableGroups]:
        """New suggestions; none from an optimizer that fails."""
        return await self._proposer.ask(count)

    async def learn(self) -> None:
        """Tell the optimizer what has finished since it was last told."""
        await self._proposer.learn()

    async def repeats_due(self, at_most: int) -> list[TunableGroups]:
        """Configurations to be run once more."""
        if self._repeats is None or at_most <= 0:
            return []
        return [await self._configuration(pk) for pk in self._repeats.due(self._under_way, at_most)]

    def added(self, trials: Sequence[Trial]) -> None:
        """Trials were stored by us."""
        if self._listens and trials:
            self._unfinished.update(trial.trial_id for trial in trials)
            self._highest = max(self._highest, trials[-1].trial_id)
            self._count(trials)

    def note(self, trial: Trial, result: RunResult, host: str | None) -> None:
        """One of our trials has its outcome."""
        if self._listens:
            self._heard(
                trial.trial_id, trial.config_id, dict(trial.tunables), result.status, result.metrics, host
            )

    async def hear_of_others(self, held: Container[int], total: int) -> None:
        """Learn what other workers' trials came to.

        :param held: trials that run here: we hear of them anyway.
        :param total: trials the experiment has.
        :raises StorageError: if the database fails.
        """
        if not self._listens:
            return
        self._unfinished.update(range(self._highest + 1, total + 1))
        self._highest = max(self._highest, total)
        elsewhere = [trial_id for trial_id in self._unfinished if trial_id not in held]
        if not elsewhere:
            return
        for one in await self._experiment.outcomes(elsewhere):
            self._heard(one.trial_id, one.config_id, one.config, one.status, one.metrics, one.host)

    def _heard(
        self,
        trial_id: int,
        config_id: int,
        config: Mapping[str, Any],
        status: Status,
        metrics: Mapping[str, Any] | None,
        host: str | None,
    ) -> None:
        self._unfinished.discard(trial_id)
        if self._repeats is not None:
            if self._counted.pop(trial_id, None) is not None:
                self._under_way[config_id] -= 1
            score = metrics.get(self._objective) if metrics and status is Status.SUCCEEDED else None
            self._repeats.add(Run(trial_id, config_id, host, score))
            if score is not None:
                metrics = {**(metrics or {}), self._objective: self._repeats.score(config_id)}
        self._proposer.note(trial_id, config, metrics, status)

    @property
    def _listens(self) -> bool:
        return self._proposer.learns or self._adaptive is not None

    async def _begin_repeats(self, adaptive: AdaptiveRepeats) -> None:
        """Learn of every run there was, and of those that wait or run."""
        self._repeats = Repeats(adaptive, self._direction, least=self._least)
        self._under_way.clear()
        self._counted.clear()
        for run in await self._experiment.runs():
            self._repeats.add(Run(*run))
        async for trial in self._experiment.pending_trials(_EVER, running=True):
            self._count([trial])

    def _count(self, trials: Sequence[Trial]) -> None:
        """These are under way. What others have added is not known to be, before it has ended."""
        if self._adaptive is not None:
            self._under_way.update(trial.config_id for trial in trials)
            self._counted.update((trial.trial_id, trial.config_id) for trial in trials)

    async def _configuration(self, config_id: int) -> TunableGroups:
        stored = await self._experiment.load_tunable_config(config_id)
        known = self._experiment.tunables
        return known.assign({name: value for name, value in stored.items() if name in known})
