"""Hosts that fail: who gets them, when they come back, and that nobody waits in vain."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.environments.base import Environment
from windtunnel.model import utc_now
from windtunnel.scheduling.hosts import Host, Placement, Request, Role, Slot, SlotPool
from windtunnel.scheduling.policy.quarantine import Quarantine

RULE = Quarantine(after=2, pause=timedelta(seconds=10), longest=timedelta(seconds=40))
TWO = Request({"all": Role(2)})


def _never_made(host: Host, runner_id: int) -> Environment:
    raise AssertionError(f"slot {runner_id} of {host.name} needs no environment yet")


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _pool(clock: _Clock, **slots: int) -> SlotPool:
    hosts = [Host(name=name, slots=count) for name, count in slots.items()]
    return SlotPool(hosts, _never_made, quarantine=RULE, clock=clock)


async def _settled() -> None:
    for _ in range(4):
        await checkpoint()


def _taken(pool: SlotPool) -> Slot:
    slot = pool.take()
    assert slot is not None
    return slot


def test_a_host_that_was_lost_gets_no_trials_and_then_one_at_a_time() -> None:
    clock = _Clock()
    pool = _pool(clock, a=3)
    running = [_taken(pool), _taken(pool)]
    pool.report("a", ok=False, lost=True)
    for slot in running:
        pool.report("a", ok=False, lost=True)  # for which it is not punished again
        pool.give_back(slot)
    assert (pool.take(), pool.free, pool.room(Request({"one": Role()}))) == (None, 0, 0)
    clock.now = 10.0
    assert (pool.free, pool.quarantined()) == (1, {})
    probe = _taken(pool)
    assert (pool.take(), pool.free) == (None, 0), "one at a time"
    pool.report("a", ok=True)
    assert pool.free == 2
    pool.give_back(probe)
    assert (pool.free, pool.size) == (3, 3)


def test_trials_that_outlast_the_pause_leave_no_room_for_a_probe() -> None:
    clock = _Clock()
    pool = _pool(clock, a=2)
    running = [_taken(pool), _taken(pool)]
    pool.report("a", ok=False, lost=True)
    clock.now = 10.0
    assert pool.free == 0
    pool.give_back(running[0])
    assert (pool.free, pool.take()) == (0, None)
    pool.give_back(running[1])
    assert (pool.free, pool.take()) == (1, running[1])


def test_a_probe_that_fails_makes_the_pause_longer() -> None:
    clock = _Clock()
    pool = _pool(clock, a=1)
    for pause in (10, 20, 40, 40):
        pool.report("a", ok=False, lost=True)
        left = pool.quarantined()["a"] - utc_now()
        assert timedelta(seconds=pause - 5) < left <= timedelta(seconds=pause)
        clock.now += pause - 0.5
        assert pool.take() is None
        clock.now += 0.5
        pool.give_back(_taken(pool))


def test_a_success_during_the_pause_ends_it() -> None:
    pool = _pool(_Clock(), a=2)
    slot = _taken(pool)
    for _ in range(RULE.after):
        pool.report("a", ok=False)
    assert pool.free == 0
    pool.report("a", ok=True)
    assert (pool.free, pool.quarantined()) == (1, {})
    pool.give_back(slot)
    pool.report("a", ok=False)
    assert pool.free == 2, "all was forgiven"


def test_a_host_in_quarantine_is_not_one_of_those_that_could_be_used_instead() -> None:
    pool = _pool(_Clock(), a=1, b=1, c=1)
    assert pool.take({"a", "b"}) is not None
    assert pool.take({"a", "b"}) is None, "c will be free again"
    pool.report("c", ok=False, lost=True)
    assert pool.take({"a", "b"}) is not None
    assert pool.take({"a"}, TWO) is None
    pool.report("c", ok=True)


async def test_one_who_waits_for_a_lost_host_takes_another() -> None:
    pool = _pool(_Clock(), a=1, b=1)
    held, free = _taken(pool), _taken(pool)
    pool.give_back(free)
    got: list[str] = []

    async def wait() -> None:
        got.append((await pool.acquire({free.host.name})).host.name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await _settled()
        assert got == []
        pool.report(held.host.name, ok=False, lost=True)
    assert got == [free.host.name]


async def test_one_who_waits_is_woken_when_the_pause_is_over() -> None:
    rule = Quarantine(pause=timedelta(milliseconds=30))
    pool = SlotPool([Host(name="a"), Host(name="b")], _never_made, quarantine=rule)
    got: list[Placement] = []

    async def wait() -> None:
        got.append(await pool.acquire((), TWO))

    held = _taken(pool)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await _settled()
            pool.report(held.host.name, ok=False, lost=True)  # it waits already, for no pause yet
            pool.give_back(held)
            await _settled()
            assert got == []
    assert {slot.host.name for slot in got[0].all_slots} == {"a", "b"}


# Any order of events


class _Step(NamedTuple):
    what: str
    host: str
    number: int


steps = st.lists(
    st.builds(
        _Step,
        st.sampled_from(("narrow", "wide", "wide", "end", "end", "fail", "lose", "do well", "pass time")),
        st.sampled_from("abc"),
        st.integers(0, 20),
    ),
    max_size=40,
)


class _Scenario:
    def __init__(self, counts: Sequence[int]) -> None:
        self.clock = _Clock()
        self.slots = dict(zip("abc", counts, strict=True))
        self.pool = _pool(self.clock, **self.slots)
        self.held: list[Slot | Placement] = []
        self.asked = 0

    async def wait(self, request: Request | None) -> None:
        self.held.append(await self.pool.acquire((), request))

    async def happens(self, step: _Step, tasks: TaskGroup) -> None:
        resting = self.pool.quarantined()
        before = len(self.held)
        match step.what:
            case "narrow" | "wide":
                self.asked += 1
                tasks.start_soon(self.wait, TWO if step.what == "wide" else None)
            case "end" if self.held:
                self.pool.give_back(self.held.pop(step.number % before))
                before -= 1
            case "fail" | "lose" | "do well":
                self.pool.report(step.host, ok=step.what == "do well", lost=step.what == "lose")
                resting = self.pool.quarantined()
            case "pass time":
                self.clock.now += step.number
                resting = {}
                assert self.pool.free >= 0
        await _settled()
        new = [slot.host.name for one in self.held[before:] for slot in _slots(one)]
        assert not resting.keys() & set(new), "a host in quarantine gets no trials"
        used = [slot.runner_id for one in self.held for slot in _slots(one)]
        assert len(used) == len(set(used)), "no slot is given twice"

    async def finish(self, tasks: TaskGroup) -> int:
        """Let time pass and trials end until everyone was served; how many were."""
        served = 0
        for _ in range(3 * self.asked + 3):
            self.clock.now += RULE.longest.total_seconds()
            assert self.pool.quarantined() == {}
            served += len(self.held)
            while self.held:
                self.pool.give_back(self.held.pop())
            await _settled()
        return served


def _slots(one: Slot | Placement) -> list[Slot]:
    return one.all_slots if isinstance(one, Placement) else [one]


@settings(max_examples=150, deadline=None)
@given(counts=st.lists(st.integers(1, 3), min_size=3, max_size=3), steps=steps)
def test_whatever_fails_everyone_is_served_when_hosts_come_back(
    counts: list[int], steps: list[_Step]
) -> None:
    async def main() -> None:
        scenario = _Scenario(counts)
        ended = 0
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                for step in steps:
                    before = len(scenario.held)
                    await scenario.happens(step, tasks)
                    ended += step.what == "end" and before > 0
                served = await scenario.finish(tasks)
        assert ended + served == scenario.asked
        for host in scenario.slots:
            scenario.pool.report(host, ok=True)
        assert scenario.pool.free == scenario.pool.size == sum(counts)

    anyio.run(main)
