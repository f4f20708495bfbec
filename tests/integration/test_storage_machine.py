"""Any sequence of what workers may do to a storage, on SQLite and PostgreSQL, against a short model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests import servers
from windtunnel.errors import StaleTrial, TrialAlreadyFinished
from windtunnel.model import FailureKind, RunResult, Status, Trial
from windtunnel.storage import INTERRUPTED, Experiment, Storage, open_storage
from windtunnel.testing.storage_fixtures import LEASE, TARGETS, TUNABLES, Clock, at, ended, new

WORKERS = st.sampled_from(["w1", "w2", "w3"])
clock = Clock()
_AT_ONCE = datetime.min.replace(tzinfo=UTC)


@dataclass
class Model:
    """What a trial should be."""

    trial_id: int
    priority: int
    not_before: datetime
    status: Status = Status.PENDING
    attempt: int = 0
    token: int = 0
    owner: str | None = None
    lease_until: Any = None
    result: RunResult | None = None
    interrupted: bool = False

    @property
    def is_due(self) -> bool:
        return self.status is Status.PENDING and self.not_before <= clock.now

    @property
    def order(self) -> tuple[int, int]:
        return -self.priority, self.trial_id

    def is_held_by(self, owner: str) -> bool:
        return (self.status, self.owner) == (Status.RUNNING, owner)

    def is_held_as(self, trial: Trial) -> bool:
        return (self.status, self.token) == (Status.RUNNING, trial.token)

    def back(self, after: timedelta = timedelta(0)) -> None:
        self.status, self.owner, self.result, self.interrupted = Status.PENDING, None, None, False
        if after:
            self.not_before = clock.now + after

    def end(self, result: RunResult, *, interrupted: bool = False) -> None:
        assert self.status is Status.RUNNING
        self.status, self.result, self.interrupted = result.status, result, interrupted


class StorageMachine(RuleBasedStateMachine):
    """Workers come and go: they claim, fall silent, come back late, and say things twice."""

    storage: Storage
    portal: BlockingPortal
    numbers: Iterator[int]

    def __init__(self) -> None:
        super().__init__()
        clock.now = at(0)
        self.model: dict[int, Model] = {}
        self.claimed: list[Trial] = []
        self.leader: tuple[str, datetime] | None = None
        self._open = self.portal.wrap_async_context_manager(
            self.storage.experiment(
                experiment_id=f"e{next(self.numbers)}", tunables=TUNABLES, opt_targets=TARGETS
            )
        )
        self.experiment: Experiment = self._open.__enter__()

    def teardown(self) -> None:
        self._open.__exit__(None, None, None)

    def a_claim(self, data: st.DataObject) -> Trial:
        """Any that was ever made: current, or a zombie's."""
        return data.draw(st.sampled_from(self.claimed))

    # What workers do

    @rule(priorities=st.lists(st.integers(-1, 1), min_size=1, max_size=4), room=st.integers(0, 5))
    def submit(self, priorities: list[int], room: int) -> None:
        async def add() -> list[Trial]:
            trials = [new(i, priority=priority) for i, priority in enumerate(priorities)]
            return await self.experiment.add_trials(trials, at_most=len(self.model) + room)

        added = self.portal.call(add)
        first = len(self.model) + 1
        assert [trial.trial_id for trial in added] == list(range(first, first + min(room, len(priorities))))
        for trial, priority in zip(added, priorities, strict=False):
            self.model[trial.trial_id] = Model(trial.trial_id, priority, not_before=_AT_ONCE)

    @rule(owner=WORKERS, limit=st.integers(0, 3))
    def claim(self, owner: str, limit: int) -> None:
        async def claim() -> list[Trial]:
            return await self.experiment.claim(owner, limit=limit, lease=LEASE)

        for one in self.model.values() if limit else ():
            if one.status is Status.RUNNING and one.lease_until < clock.now and one.owner != owner:
                one.back()
        wanted = sorted((one for one in self.model.values() if one.is_due), key=lambda one: one.order)[:limit]
        trials = self.portal.call(claim)
        assert [trial.trial_id for trial in trials] == [one.trial_id for one in wanted]
        for trial, one in zip(trials, wanted, strict=True):
            assert trial.token > one.token, "a token is never given again"
            assert (trial.owner, trial.status, trial.attempt) == (owner, Status.RUNNING, one.attempt + 1)
            one.status, one.owner, one.token, one.attempt = Status.RUNNING, owner, trial.token, trial.attempt
            one.lease_until = clock.now + LEASE
        self.claimed += trials

    @rule(owner=WORKERS)
    def heartbeat(self, owner: str) -> None:
        async def extend() -> dict[int, int]:
            return await self.experiment.extend(owner, lease=LEASE)

        held = [one for one in self.model.values() if one.is_held_by(owner)]
        assert self.portal.call(extend) == {one.trial_id: one.token for one in held}
        for one in held:
            one.lease_until = clock.now + LEASE

    def end(self, trial: Trial, result: RunResult, failure: str | None = None) -> None:
        """Store an outcome: it is accepted if the token is current, and if it is what was accepted before."""

        async def finish() -> None:
            await self.experiment.finish(trial, result, failure=failure)

        one = self.model[trial.trial_id]
        if one.token != trial.token or one.status is Status.PENDING:
            with pytest.raises(StaleTrial):
                self.portal.call(finish)
        elif one.status is Status.RUNNING:
            self.portal.call(finish)
            one.end(result, interrupted=failure == INTERRUPTED)
        elif one.result is not None and one.result[::2] == result[::2]:
            self.portal.call(finish)
        else:
            with pytest.raises(TrialAlreadyFinished):
                self.portal.call(finish)

    @precondition(lambda self: self.claimed)
    @rule(data=st.data(), score=st.integers(0, 1))
    def complete(self, data: st.DataObject, score: int) -> None:
        self.end(self.a_claim(data), ended(score))

    @precondition(lambda self: self.claimed)
    @rule(data=st.data(), status=st.sampled_from([Status.FAILED, Status.TIMED_OUT]))
    def fail(self, data: st.DataObject, status: Status) -> None:
        self.end(self.a_claim(data), ended(status=status))

    @precondition(lambda self: self.claimed)
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        self.end(self.a_claim(data), ended(status=Status.CANCELED), INTERRUPTED)

    @precondition(lambda self: self.claimed)
    @rule(owner=WORKERS, score=st.integers(0, 1))
    def zombie(self, owner: str, score: int) -> None:
        """A worker wakes up and tells of all it ever had, as if nothing had happened."""
        for trial in [one for one in self.claimed if one.owner == owner]:
            self.end(trial, ended(score))

    @precondition(lambda self: self.claimed)
    @rule(data=st.data(), leases=st.sampled_from([0, 0.5, 1.5]), failed=st.booleans())
    def retry(self, data: st.DataObject, leases: float, failed: bool) -> None:
        trial, after = self.a_claim(data), LEASE * leases

        async def again() -> None:
            if failed:
                await self.experiment.retry(
                    trial, status=Status.FAILED, reason="test", kind=FailureKind.RUN, after=after
                )
            else:
                await self.experiment.release(trial, reason="test", after=after)

        one = self.model[trial.trial_id]
        if one.is_held_as(trial):
            self.portal.call(again)
            one.back(after)
        else:
            with pytest.raises(StaleTrial):
                self.portal.call(again)

    # What others do

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        one = self.model[data.draw(st.sampled_from(sorted(self.model)))]

        async def cancel() -> None:
            await self.experiment.cancel(one.trial_id)

        if one.status.is_completed and not one.interrupted:
            with pytest.raises(TrialAlreadyFinished):
                self.portal.call(cancel)
        else:
            self.portal.call(cancel)
            one.status, one.owner, one.interrupted = Status.CANCELED, None, False
            one.token, one.result = one.token + 1, None

    @rule(leases=st.sampled_from([-1.5, -0.3, 0.4, 1.0, 1.1]))
    def clock_step(self, leases: float) -> None:
        """Time passes, or somebody sets the clock back."""
        clock.advance(LEASE * leases)

    @rule(owner=WORKERS)
    def crash(self, owner: str) -> None:
        """A worker is known to be dead: what it held waits again, and what stopped in an orderly way."""

        async def recover() -> int:
            return await self.experiment.recover(lambda one: one == owner)

        left = [one for one in self.model.values() if one.is_held_by(owner) or one.interrupted]
        assert self.portal.call(recover) == len(left)
        for one in left:
            one.back()
        if self.leader is not None and self.leader[0] == owner:
            self.leader = None

    @rule(owner=WORKERS)
    def lead(self, owner: str) -> None:
        async def lead() -> bool:
            return await self.experiment.lead(owner, lease=LEASE, is_dead=lambda _: False)

        is_free = self.leader is None or self.leader[0] == owner or self.leader[1] < clock.now
        assert self.portal.call(lead) == is_free, "one leads"
        if is_free:
            self.leader = owner, clock.now + LEASE

    @rule(owner=WORKERS)
    def resign(self, owner: str) -> None:
        async def resign() -> None:
            await self.experiment.resign(owner)

        self.portal.call(resign)
        if self.leader is not None and self.leader[0] == owner:
            self.leader = None

    @rule()
    def pending(self) -> None:
        """Whoever asks what is to be run is told of each trial once."""

        async def read() -> list[tuple[int, int, Status]]:
            found = self.experiment.pending_trials(clock.now, running=True)
            return [(trial.trial_id, trial.token, trial.status) async for trial in found]

        in_order = sorted(self.model.values(), key=lambda one: one.order)
        waiting = [one for one in in_order if one.is_due]
        running = [one for one in in_order if one.status is Status.RUNNING and one.not_before <= clock.now]
        wanted = [(one.trial_id, one.token, one.status) for one in [*waiting, *running]]
        assert self.portal.call(read) == wanted

    # What always holds

    @invariant()
    def every_trial_is_as_the_model_says(self) -> None:
        """So a final status stays."""

        async def read() -> list[tuple[int, Status, int, dict[str, Any] | None]]:
            records = [record async for record in self.experiment.trials()]
            return [
                (r.trial_id, r.status, r.attempt, dict(r.metrics) if r.metrics else None) for r in records
            ]

        assert self.portal.call(read) == [
            (one.trial_id, one.status, one.attempt, one.result.metrics if one.result else None)
            for one in self.model.values()
        ]

    @invariant()
    def no_claim_was_given_twice(self) -> None:
        claims = [(trial.trial_id, trial.token) for trial in self.claimed]
        assert len(set(claims)) == len(claims)


@contextmanager
def machine_on(url: str) -> Iterator[type[StorageMachine]]:
    """The machine over one open storage: each example has an experiment of its own."""
    with (
        start_blocking_portal() as running,
        running.wrap_async_context_manager(open_storage(url)) as opened,
    ):

        class Machine(StorageMachine):
            portal, storage, numbers = running, opened, count(1)

        yield Machine


def run(url: str, examples: int) -> None:
    """Run so many examples, or very many if the environment asks for everything."""
    if os.environ.get("WINDTUNNEL_SWEEP") == "all":
        examples *= 20
    with machine_on(url) as machine:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )


@pytest.fixture(autouse=True)
def _our_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windtunnel.storage.clock.now_us", clock.now_us)


@pytest.mark.timeout(600)
def test_no_sequence_of_events_breaks_a_promise_on_sqlite(url: str) -> None:
    run(url, examples=20)


@pytest.mark.timeout(600)
def test_no_sequence_of_events_breaks_a_promise_on_postgresql() -> None:
    with servers.postgresql() as url:
        run(url, examples=10)
