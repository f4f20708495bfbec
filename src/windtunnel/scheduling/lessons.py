"""What the optimizer is asked and what it is told: outcomes of this worker, and of all the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from windtunnel.model import History, RunResult, Status, Trial
from windtunnel.scheduling.policy import AdaptiveRepeats, Repeats, Run
from windtunnel.scheduling.proposer import Proposer
from windtunnel.storage import Experiment
from windtunnel.tunables import TunableGroups

__all__ = ["Lessons"]

_EVER = datetime.max.replace(tzinfo=UTC)


class _Lesson(NamedTuple):
    trial_id: int
    config_id: int
    config: Mapping[str, Any]
    status: Status
    metrics: Mapping[str, Any] | None
    host: str | None


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
        self._early: list[_Lesson] | None = None

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
        self._highest, self._unfinished, self._early = total, set(), []
        try:
            if self._listens:
                await self._catch_up(total)
        finally:
            early, self._early = self._early or [], None
        for heard in early:
            self._heard(heard)

    async def _catch_up(self, total: int) -> None:
        """Tell the optimizer what is stored; what ends meanwhile is kept back, or it would count twice."""
        history = await self._experiment.load()  # also of experiments that were merged in
        known = set(history.trial_ids)
        pending = [
            trial
            async for trial in self._experiment.pending_trials(_EVER, running=True)
            if trial.trial_id not in known
        ]
        self._unfinished = set(range(1, total + 1)) - known
        if self._adaptive is not None:
            # What has ended since then is heard of as what ends later is.
            runs = [Run(*run) for run in await self._experiment.runs() if run.trial_id in known]
            self._begin_repeats(self._adaptive, runs, pending)
            history = self._with_sums(history, {run.trial_id: run.config_id for run in runs})
        await self._proposer.tell(_with_pending(history, pending))
        self._early = [one for one in self._early or [] if one.trial_id not in known]

    def _with_sums(self, history: History, config_of: Mapping[int, int]) -> History:
        """The scores of configurations in place of those of trials."""
        assert self._repeats is not None, "called with adaptive repeats only"  # noqa: S101
        scores = [
            {**one, self._objective: self._repeats.score(config_of[trial_id])}
            if one is not None and trial_id in config_of
            else one
            for trial_id, one in zip(history.trial_ids, history.scores, strict=True)
        ]
        return history._replace(scores=scores)

    async def ask(self, count: int) -> list[TunableGroups]:
        """New suggestions; none from an optimizer that fails."""
        return await self._proposer.ask(count)

    async def learn(self) -> None:
        """Tell the optimizer what has finished since it was last told."""
        await self._proposer.learn()

    def forget(self) -> None:
        """Somebody else leads now."""
        self._proposer.forget()
        self._repeats = None
        self._unfinished.clear()
        self._under_way.clear()
        self._counted.clear()

    async def repeats_due(self, at_most: int) -> list[TunableGroups]:
        """Configurations to be run once more."""
        if self._repeats is None or at_most <= 0:
            return []
        return [await self._configuration(pk) for pk in self._repeats.due(self._under_way, at_most)]

    def added(self, trials: Sequence[Trial]) -> None:
        """Trials were stored by us."""
        if self._listens and trials:
            newest = trials[-1].trial_id  # others may have added some before these
            self._unfinished.update(range(self._highest + 1, newest + 1))
            self._highest = max(self._highest, newest)
            self._count(trials)

    def note(self, trial: Trial, result: RunResult, host: str | None) -> None:
        """One of our trials has its outcome."""
        if self._listens:
            config = dict(trial.tunables)
            self._heard(_Lesson(trial.trial_id, trial.config_id, config, result.status, result.metrics, host))

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
            self._heard(_Lesson(one.trial_id, one.config_id, one.config, one.status, one.metrics, one.host))

    def _heard(self, lesson: _Lesson) -> None:
        if self._early is not None:
            self._early.append(lesson)
            return
        trial_id, config_id, config, status, metrics, host = lesson
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

    def _begin_repeats(
        self, adaptive: AdaptiveRepeats, runs: Sequence[Run], pending: Sequence[Trial]
    ) -> None:
        """Learn of every run there was, and of those that wait or run."""
        self._repeats = Repeats(adaptive, self._direction, least=self._least)
        self._under_way.clear()
        self._counted.clear()
        for run in runs:
            self._repeats.add(run)
        ended = {one.trial_id for one in self._early or []} | {run.trial_id for run in runs}
        self._count([trial for trial in pending if trial.trial_id not in ended])

    def _count(self, trials: Sequence[Trial]) -> None:
        """These are under way. What others have added is not known to be, before it has ended."""
        if self._adaptive is not None:
            self._under_way.update(trial.config_id for trial in trials)
            self._counted.update((trial.trial_id, trial.config_id) for trial in trials)

    async def _configuration(self, config_id: int) -> TunableGroups:
        stored = await self._experiment.load_tunable_config(config_id)
        known = self._experiment.tunables
        return known.assign({name: value for name, value in stored.items() if name in known})


def _with_pending(history: History, pending: Sequence[Trial]) -> History:
    """All in the order of their ids, which is the order in which they were proposed."""
    rows = [
        *zip(*history, strict=True),
        *((trial.trial_id, dict(trial.tunables), None, trial.status) for trial in pending),
    ]
    rows.sort(key=lambda row: (row[0] > 0, max(0, row[0])))  # merged ones first, as they are
    return History(*map(list, zip(*rows, strict=True))) if rows else history
