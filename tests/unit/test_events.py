"""The bus and its subscriptions: order, bounds, what is told of a gap, and when listening ends."""

from __future__ import annotations

import gc
import time

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.errors import ConfigError
from windtunnel.events import Event, EventBus, EventsDropped, Subscription, TrialAdded
from windtunnel.model import Trial
from windtunnel.tunables import TunableGroups

pytestmark = pytest.mark.anyio
NOTHING = TunableGroups({})


def added(number: int) -> TrialAdded:
    return TrialAdded(Trial(experiment_id="e", trial_id=number, config_id=1, tunables=NOTHING))


def numbered(events: list[Event]) -> list[int | str]:
    """Trial ids, and ``-3`` for a gap of three."""
    told: list[int | str] = []
    for event in events:
        match event:
            case TrialAdded(trial=trial):
                told.append(trial.trial_id)
            case EventsDropped(count=count):
                told.append(f"-{count}")
    return told


def publish(bus: EventBus, *numbers: int) -> None:
    for number in numbers:
        bus.publish(added(number))


async def rest_of(subscription: Subscription) -> list[int | str]:
    return numbered([event async for event in subscription])


async def test_everything_is_told_in_order_until_the_bus_is_closed() -> None:
    bus = EventBus()
    early = bus.subscribe()
    publish(bus, 1, 2)
    late = bus.subscribe()
    publish(bus, 3)
    bus.close()
    publish(bus, 4)
    assert await rest_of(early) == [1, 2, 3]
    assert await rest_of(late) == [3], "it listens from the moment it is made"
    assert await rest_of(bus.subscribe()) == [], "what comes too late ends at once"
    assert not bus.is_heard


async def test_a_waiting_reader_gets_an_event_as_soon_as_there_is_one() -> None:
    bus = EventBus()
    subscription = bus.subscribe()
    told: list[int | str] = []

    async def read() -> None:
        async for event in subscription:
            told.extend(numbered([event]))

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        publish(bus, 1)
        await anyio.wait_all_tasks_blocked()
        assert told == [1]
        bus.close()
    assert told == [1]


async def test_the_gap_is_told_where_it_is() -> None:
    bus = EventBus()
    slow = bus.subscribe(capacity=3)
    publish(bus, 1, 2, 3, 4, 5)
    assert numbered([await anext(slow)]) == [1]
    publish(bus, 6, 7)
    bus.close()
    assert await rest_of(slow) == [2, 3, "-2", 6, "-1"]
    assert slow.dropped == bus.dropped == 3


async def test_a_reader_that_has_caught_up_is_told_of_the_gap_at_once() -> None:
    bus = EventBus()
    slow = bus.subscribe(capacity=1)
    publish(bus, 1, 2)
    assert numbered([await anext(slow), await anext(slow)]) == [1, "-1"]
    assert slow.buffered == 0


async def test_a_slow_reader_takes_nothing_from_another() -> None:
    bus = EventBus()
    slow, fast = bus.subscribe(capacity=1), bus.subscribe()
    publish(bus, *range(5000))
    bus.close()
    assert await rest_of(fast) == list(range(5000))
    assert await rest_of(slow) == [0, "-4999"]
    assert (slow.dropped, fast.dropped, bus.dropped) == (4999, 0, 4999)


@given(st.integers(1, 5), st.lists(st.sampled_from(["publish", "read", "drain"]), max_size=60))
def test_nothing_is_missing_that_was_not_told_and_the_buffer_is_bounded(
    capacity: int, actions: list[str]
) -> None:
    bus = EventBus()
    subscription = bus.subscribe(capacity=capacity)
    told: list[Event] = []
    published = 0

    async def one() -> None:
        told.append(await anext(subscription))

    for action in actions:
        if action == "publish":
            published += 1
            publish(bus, published)
        elif action == "drain":
            told += subscription.drain()
        elif subscription.buffered:
            with pytest.raises(StopIteration):
                one().send(None)
        assert subscription.buffered <= 2 * capacity + 1, "marks of gaps stand between events"
    told += subscription.drain()
    expected = 1
    for mark in numbered(told):
        if isinstance(mark, str):
            expected += -int(mark)
        else:
            assert mark == expected
            expected += 1
    assert expected == published + 1
    assert subscription.dropped == sum(e.count for e in told if isinstance(e, EventsDropped))


async def test_draining_never_waits_and_makes_room() -> None:
    bus = EventBus()
    heard = bus.subscribe(capacity=2)
    assert heard.drain() == []
    publish(bus, 1, 2, 3)
    assert numbered(heard.drain()) == [1, 2, "-1"]
    publish(bus, 4, 5)
    assert numbered(heard.drain()) == [4, 5]


async def test_leaving_early_costs_nothing_any_more_and_ends_the_reader() -> None:
    bus = EventBus()
    ended = anyio.Event()

    async def read(subscription: Subscription) -> None:
        assert await rest_of(subscription) == []
        ended.set()

    async with anyio.create_task_group() as group:
        with bus.subscribe() as subscription:
            group.start_soon(read, subscription)
            await anyio.wait_all_tasks_blocked()
            heard = bus.is_heard
        assert (heard, bus.is_heard) == (True, False)
        with anyio.fail_after(2):
            await ended.wait()
    publish(bus, 1)
    assert subscription.drain() == []


def test_a_subscription_that_was_thrown_away_is_forgotten() -> None:
    bus = EventBus()
    kept = bus.subscribe()
    bus.subscribe()
    gc.collect()
    publish(bus, 1)
    assert numbered(kept.drain()) == [1]
    del kept
    gc.collect()
    publish(bus, 2)
    assert not bus.is_heard


async def test_a_second_reader_is_refused() -> None:
    bus = EventBus()
    subscription = bus.subscribe()
    async with anyio.create_task_group() as group:
        group.start_soon(rest_of, subscription)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await anext(subscription)
        bus.close()


async def test_a_cancelled_reader_loses_nothing() -> None:
    bus = EventBus()
    subscription = bus.subscribe()
    async with anyio.create_task_group() as group:
        group.start_soon(rest_of, subscription)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
        publish(bus, 1)  # woken and cancelled in the same turn of the loop
    publish(bus, 2)
    bus.close()
    assert await rest_of(subscription) == [1, 2]


async def test_a_reader_with_much_to_read_lets_the_others_run() -> None:
    bus = EventBus()
    subscription = bus.subscribe()
    publish(bus, *range(2000))
    bus.close()
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as group:
        group.start_soon(others)
        assert len(await rest_of(subscription)) == 2000
        group.cancel_scope.cancel()
    assert turns >= 20


def test_capacity_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="capacity"):
        EventBus().subscribe(capacity=0)


def test_publishing_costs_little() -> None:
    bus = EventBus()
    kept = [bus.subscribe(capacity=100) for _ in range(2)]
    event = added(1)
    began = time.process_time()
    for _ in range(20_000):
        bus.publish(event)
    spent = time.process_time() - began
    assert all(one.dropped == 19_900 for one in kept)
    assert spent < 0.5, "a trial tells half a dozen events; thousands of trials a second must remain possible"
