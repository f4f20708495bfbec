"""Runs a load test: starts the generators together, follows them, and merges what they tell."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from windtunnel.concurrency import first_error
from windtunnel.errors import ConfigError, LoadFailed, WindtunnelError
from windtunnel.loadgen.compile import schedule
from windtunnel.loadgen.generator import Generator, Place, ThisMachine
from windtunnel.loadgen.plan import LoadPlan, needs_consent
from windtunnel.loadgen.recorder import Window
from windtunnel.loadgen.result import Result, SecondRecord
from windtunnel.loadgen.thresholds import Threshold
from windtunnel.options import parse_options

__all__ = ["Watcher", "run_load"]

_START_S = 0.1
"""From the moment all are ready until the first request, for the message to reach them."""
_READY_S = 30.0
_RESPLIT_S = 0.25
_TRIPS = 4
"""So many round trips to the farthest generator come on top of these."""
_END_S = 30.0
_SILENCE_S = 15.0
"""A generator that says nothing for longer is lost."""

Watcher = Callable[[SecondRecord], Awaitable[None]]


async def run_load(
    raw: Mapping[str, Any],
    *,
    directory: Path,
    thresholds: Sequence[Threshold] = (),
    abort_on: Sequence[Threshold] = (),
    watch: Watcher | None = None,
    stop: anyio.Event | None = None,
    places: Sequence[Place] = (ThisMachine(),),
) -> Result:
    """Run a load test to its end. Cancelling it ends the generators at once.

    :param raw: the plan as a mapping; see ``LoadPlan``.
    :param directory: where its files are.
    :param abort_on: what ends it when it holds for a second.
    :param watch: called with each second, the warm-up's left out.
    :param stop: ends it when it is set; what was measured until then counts.
    :param places: where its generators are; each has as many as the plan has workers.
    :raises ConfigError: if the plan is wrong, or needs to be confirmed.
    :raises LoadFailed: if the target cannot be reached or no generator is left.
    :raises HostFailed: if one of the places cannot be used.
    """
    plan = parse_options(LoadPlan, raw)
    if (reason := needs_consent(plan)) is not None:
        raise ConfigError(f"this load has to be confirmed: {reason}; say confirmed: true, or --yes")
    offers = await anyio.to_thread.run_sync(_per_second, plan, directory)
    run = _Run(plan, offers, abort_on, watch)
    try:
        async with _started(places, plan, raw, directory) as generators, anyio.create_task_group() as tasks:
            if stop is not None:
                tasks.start_soon(run.stop_on, stop)
            await run.conduct(generators)
            tasks.cancel_scope.cancel()
    except* WindtunnelError as group:
        raise first_error(group) from None
    return run.result(thresholds)


@contextlib.asynccontextmanager
async def _started(
    places: Sequence[Place], plan: LoadPlan, raw: Mapping[str, Any], directory: Path
) -> AsyncIterator[list[Generator]]:
    """The generators of all places, started and ended at the same time everywhere."""
    opened = [place.generators(plan, raw, directory) for place in places]
    found: dict[int, list[Generator]] = {}

    async def enter(number: int) -> None:
        found[number] = await opened[number].__aenter__()

    try:
        async with anyio.create_task_group() as tasks:
            for number in range(len(opened)):
                tasks.start_soon(enter, number)
        yield [one for number in range(len(opened)) for one in found[number]]
    finally:
        with anyio.move_on_after(_END_S, shield=True):
            async with anyio.create_task_group() as tasks:
                for number in found:
                    tasks.start_soon(opened[number].__aexit__, None, None, None)


class _Run:
    """The state of a run: who takes part, and what was told so far."""

    def __init__(
        self,
        plan: LoadPlan,
        offers: Iterator[int] | None,
        abort_on: Sequence[Threshold],
        watch: Watcher | None,
    ) -> None:
        self._plan = plan
        self._abort_on = abort_on
        self._watch = watch
        self._generators: Sequence[Generator] = ()
        self._alive: list[Generator] = []
        self._lost: list[str] = []
        self._ended_by = ""
        self._start_ns = 0
        self._resplit_ns = 0
        self._told: dict[int, dict[str, Window]] = defaultdict(dict)
        self._seconds: list[SecondRecord] = []
        self._total = Window()
        self._offers = offers
        self._offered = 0
        self._offered_seconds = 0

    async def conduct(self, generators: Sequence[Generator]) -> None:
        """From the first word to the last."""
        self._generators = generators
        self._alive = list(generators)
        await self._prepare()
        trip_ns = 2 * max(one.clock.error_ns for one in generators)
        self._start_ns = time.time_ns() + round(_START_S * 1e9) + _TRIPS * trip_ns
        self._resplit_ns = round(_RESPLIT_S * 1e9) + _TRIPS * trip_ns
        async with anyio.create_task_group() as tasks:
            for generator in generators:
                await generator.start(self._start_ns)
                tasks.start_soon(self._follow, generator)
        await self._pass_on(last=True)
        if not self._total.elapsed_s:
            raise LoadFailed("; ".join(self._lost) or "no generator told anything")

    async def _prepare(self) -> None:
        waiting = dict(enumerate(self._alive))

        async def prepare(number: int) -> None:
            await self._alive[number].prepare(number, len(self._alive))
            del waiting[number]

        limit_s = _READY_S + self._plan.timeout.total_seconds()
        with anyio.move_on_after(limit_s) as scope:
            async with anyio.create_task_group() as tasks:
                for number in range(len(self._alive)):
                    tasks.start_soon(prepare, number)
        if scope.cancelled_caught:
            names = ", ".join(one.name for one in waiting.values())
            raise LoadFailed(f"not ready within {limit_s:g} s: {names}")

    async def _follow(self, generator: Generator) -> None:
        silence_s = self._plan.warmup.total_seconds() + _SILENCE_S
        while message := await _in_time(generator.hear, silence_s):
            if "window" in message:
                window = Window.of(message["window"])
                self._told[window.second][generator.name] = window
                generator.told_ns = time.time_ns()
                await self._pass_on()
            elif "ended" in message:
                self._alive.remove(generator)
                return
            else:
                generator.check(message)
        await self._lose(generator)

    async def _lose(self, generator: Generator) -> None:
        """The others take over its share, from a moment that none of them has reached."""
        now = time.time_ns()
        self._alive.remove(generator)
        at_s = (now - self._start_ns) / 1e9
        silent_s = (now - max(generator.told_ns, self._start_ns)) / 1e9
        self._lost.append(
            f"{generator.name} after {at_s:.1f} s, with what it did in its last {silent_s:.1f} s"
            f"{generator.last_words}"
        )
        since = now - self._start_ns + self._resplit_ns
        for number, other in enumerate(self._alive):
            await other.tell({"part": [number, len(self._alive)], "since": since})
        await self._pass_on()
        await generator.kill()  # one that was frozen must not go on later

    async def _pass_on(self, *, last: bool = False) -> None:
        """Merge the seconds that everybody who is left has told about."""
        names = {one.name for one in self._alive}
        for second in sorted(self._told):
            if not last and not names <= self._told[second].keys():
                return
            merged = Window(second=second)
            for window in self._told.pop(second).values():
                merged.merge(window)
            if second >= 0:
                await self._take(merged)

    async def _take(self, window: Window) -> None:
        self._total.merge(window, later=True)
        offered = self._due_until(window.second)
        self._seconds.append(SecondRecord.of(window, offered))
        for limit in self._abort_on:
            if not self._ended_by and limit.is_kept(window):
                await self._end(f"{limit.text} in second {window.second}")
        if self._watch is not None:
            await self._watch(self._seconds[-1])

    def _due_until(self, second: int) -> int | None:
        """How many requests became due since the last call, to the end of this second."""
        if self._offers is None:
            return None
        due = sum(itertools.islice(self._offers, max(second + 1 - self._offered_seconds, 0)))
        self._offered_seconds = max(self._offered_seconds, second + 1)
        self._offered += due
        return due

    async def _end(self, reason: str) -> None:
        self._ended_by = reason
        for generator in self._alive:
            await generator.tell({"stop": True})

    async def stop_on(self, event: anyio.Event) -> None:
        await event.wait()
        await self._end("stopped")

    def result(self, thresholds: Sequence[Threshold]) -> Result:
        # A run that was ended has not been offered what would have come later.
        cut = bool(self._ended_by)
        if not cut:  # the last answer may come before the end
            self._total.elapsed_s = max(self._total.elapsed_s, self._plan.lasts.total_seconds())
        offered = None if self._offers is None or cut else self._offered + sum(self._offers)
        return Result(
            total=self._total,
            seconds=self._seconds,
            offered=offered,
            generators=len(self._generators),
            clocks={one.name: one.clock for one in self._generators if one.host is not None},
            lost=self._lost,
            ended_by=self._ended_by,
            thresholds=thresholds,
        )


async def _in_time(hear: Callable[[], Awaitable[dict[str, Any]]], limit_s: float) -> dict[str, Any]:
    with anyio.move_on_after(limit_s):
        return await hear()
    return {}


def _per_second(plan: LoadPlan, directory: Path) -> Iterator[int] | None:
    """How many requests are due in each second, from the end of the warm-up on; None for a closed loop."""
    if plan.users is not None:
        return None
    return _counted(schedule(plan, directory), plan.warmup.total_seconds() * 1e9)


def _counted(times: Iterator[int], warm_ns: float) -> Iterator[int]:
    second, count = 0, 0
    for time_ns in times:
        if time_ns < warm_ns:
            continue
        while (time_ns - warm_ns) // 1_000_000_000 > second:
            yield count
            second, count = second + 1, 0
        count += 1
    yield count
