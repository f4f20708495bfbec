"""Any sequence of what workers may do to a storage, against a model of a few lines."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from windtunnel.errors import StaleTrial, TrialAlreadyFinished
from windtunnel.model import RunResult, Status, Trial
from windtunnel.storage import Experiment, open_storage, queries
from windtunnel.testing.storage_fixtures import LEASE, TARGETS, TUNABLES, Clock, at, ended, new

OWNERS = st.sampled_from(["w1", "w2", "w3"])
clock = Clock()


@dataclass
class Model:
    """What a trial should be."""

    trial_id: int
    priority: int
    status: Status = Status.PENDING
    token: int = 0
    owner: str | None = None
    lease_until: Any = None
    result: RunResult | None = None

    def back(self) -> None:
        assert self.status.can_become(Status.PENDING)
        self.status, self.owner, self.lease_until = Status.PENDING, None, None


class StorageMachine(RuleBasedStateMachine):
    """Workers come and go: they claim, fall silent, come back late, and say things twice."""

    experiment: Experiment

    def __init__(self) -> None:
        super().__init__()
        clock.now = at(0)
        self.model: dict[int, Model] = {}
        self.claimed: list[Trial] = []
        self._portal = start_blocking_portal()
        self.portal = self._portal.__enter__()
        self._storage = self.portal.wrap_async_context_manager(open_storage("sqlite:///:memory:"))
        storage = self._storage.__enter__()
        self._open = self.portal.wrap_async_context_manager(
            storage.experiment(experiment_id="e", tunables=TUNABLES, opt_targets=TARGETS)
        )
        self.experiment = self._open.__enter__()

    def teardown(self) -> None:
        self._open.__exit__(None, None, None)
        self._storage.__exit__(None, None, None)
        self._portal.__exit__(None, None, None)

    @rule(priorities=st.lists(st.integers(-1, 1), min_size=1, max_size=4), room=st.integers(0, 5))
    def submit(self, priorities: list[int], room: int) -> None:
        async def add() -> list[Trial]:
            trials = [new(i, priority=priority) for i, priority in enumerate(priorities)]
            return await self.experiment.add_trials(trials, at_most=len(self.model) + room)

        added = self.portal.call(add)
        first = len(self.model) + 1
        assert [trial.trial_id for trial in added] == list(range(first, first + min(room, len(priorities))))
        for trial, priority in zip(added, priorities, strict=False):
            self.model[trial.trial_id] = Model(trial.trial_id, priority)

    @rule(owner=OWNERS, limit=st.integers(0, 3))
    def claim(self, owner: str, limit: int) -> None:
        async def claim() -> list[Trial]:
            return await self.experiment.claim(owner, limit=limit, lease=LEASE)

        for one in self.model.values() if limit else ():
            if one.status is Status.RUNNING and one.lease_until < clock.now and one.owner != owner:
                one.back()
        waiting = [one for one in self.model.values() if one.status is Status.PENDING]
        wanted = sorted(waiting, key=lambda one: (-one.priority, one.trial_id))[:limit]
        trials = self.portal.call(claim)
        assert [trial.trial_id for trial in trials] == [one.trial_id for one in wanted]
        for trial, one in zip(trials, wanted, strict=True):
            assert trial.token > one.token
            assert (trial.owner, trial.status) == (owner, Status.RUNNING)
            one.status, one.owner, one.token = Status.RUNNING, owner, trial.token
            one.lease_until = clock.now + LEASE
        self.claimed += trials

    @rule(owner=OWNERS)
    def extend(self, owner: str) -> None:
        async def extend() -> dict[int, int]:
            return await self.experiment.extend(owner, lease=LEASE)

        held = [one for one in self.model.values() if (one.status, one.owner) == (Status.RUNNING, owner)]
        assert self.portal.call(extend) == {one.trial_id: one.token for one in held}
        for one in held:
            one.lease_until = clock.now + LEASE

    @precondition(lambda self: self.claimed)
    @rule(
        data=st.data(),
        status=st.sampled_from([Status.SUCCEEDED, Status.FAILED, Status.CANCELED]),
        score=st.integers(0, 1),
    )
    def finish(self, data: st.DataObject, status: Status, score: int) -> None:
        trial, result = data.draw(st.sampled_from(self.claimed)), ended(score, status=status)

        async def finish() -> None:
            await self.experiment.finish(trial, result)

        one = self.model[trial.trial_id]
        if one.token != trial.token or one.status is Status.PENDING:
            with pytest.raises(StaleTrial):
                self.portal.call(finish)
        elif one.status is Status.RUNNING:
            self.portal.call(finish)
            one.status, one.result, one.owner = status, result, None
        elif one.result == result:
            self.portal.call(finish)
        else:
            with pytest.raises(TrialAlreadyFinished):
                self.portal.call(finish)

    @precondition(lambda self: self.claimed)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        trial = data.draw(st.sampled_from(self.claimed))

        async def release() -> None:
            await self.experiment.release(trial, reason="test")

        one = self.model[trial.trial_id]
        if one.token == trial.token and one.status is Status.RUNNING:
            self.portal.call(release)
            one.back()
        else:
            with pytest.raises(StaleTrial):
                self.portal.call(release)

    @rule(share=st.sampled_from([0.4, 1.0, 1.1]))
    def time_passes(self, share: float) -> None:
        clock.advance(timedelta(seconds=LEASE.total_seconds() * share))

    @rule(owner=OWNERS)
    def die_and_recover(self, owner: str) -> None:
        async def recover() -> int:
            return await self.experiment.recover(lambda one: one == owner)

        lost = [one for one in self.model.values() if (one.status, one.owner) == (Status.RUNNING, owner)]
        assert self.portal.call(recover) == len(lost)
        for one in lost:
            one.back()

    @invariant()
    def every_trial_is_as_the_model_says(self) -> None:
        async def read() -> list[tuple[int, Status, dict[str, Any] | None]]:
            records = [record async for record in self.experiment.trials()]
            return [(r.trial_id, r.status, dict(r.metrics) if r.metrics else None) for r in records]

        wanted = [
            (one.trial_id, one.status, one.result.metrics if one.result else None)
            for one in self.model.values()
        ]
        assert self.portal.call(read) == wanted

    @invariant()
    def no_claim_was_given_twice(self) -> None:
        claims = [(trial.trial_id, trial.token) for trial in self.claimed]
        assert len(set(claims)) == len(claims)


def test_no_sequence_of_events_breaks_a_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "now_us", clock.now_us)
    run_state_machine_as_test(
        StorageMachine,
        settings=settings(
            max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
