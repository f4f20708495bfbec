"""Runs a load test: starts the generators together, follows them, and merges what they tell."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import resource
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
from anyio.streams.buffered import BufferedByteReceiveStream

from windtunnel.concurrency import first_error
from windtunnel.errors import ConfigError, LoadFailed
from windtunnel.loadgen.agent import spawn_command
from windtunnel.loadgen.compile import schedule
from windtunnel.loadgen.plan import LoadPlan, needs_consent
from windtunnel.loadgen.recorder import Window
from windtunnel.loadgen.result import Result, SecondRecord
from windtunnel.loadgen.thresholds import Threshold
from windtunnel.options import parse_options

__all__ = ["Watcher", "run_load"]

_LINE = 64 << 20
_START_S = 0.1
"""From the moment all are ready until the first request, for the message to reach them."""
_READY_S = 30.0
_RESPLIT_S = 0.25
_GRACE_S = 5.0
_SILENCE_S = 15.0
"""A generator that says nothing for longer is lost."""
_SPARE_FILES = 64


Watcher = Callable[[SecondRecord], Awaitable[None]]


async def run_load(
    raw: Mapping[str, Any],
    *,
    directory: Path,
    thresholds: Sequence[Threshold] = (),
    abort_on: Sequence[Threshold] = (),
    watch: Watcher | None = None,
    stop: anyio.Event | None = None,
) -> Result:
    """Run a load test to its end. Cancelling it ends the generators at once.

    :param raw: the plan as a mapping; see ``LoadPlan``.
    :param directory: where its files are.
    :param abort_on: what ends it when it holds for a second.
    :param watch: called with each second, the warm-up's left out.
    :param stop: ends it when it is set; what was measured until then counts.
    :raises ConfigError: if the plan is wrong, or needs to be confirmed.
    :raises LoadFailed: if the target cannot be reached or no generator is left.
    """
    plan = parse_options(LoadPlan, raw)
    if (reason := needs_consent(plan)) is not None:
        raise ConfigError(f"this load has to be confirmed: {reason}; say confirmed: true, or --yes")
    _check_files(plan)
    offers = await anyio.to_thread.run_sync(_per_second, plan, directory)
    run = _Run(plan, raw, directory, offers, abort_on, watch)
    try:
        async with contextlib.AsyncExitStack() as stack:
            for number in range(plan.workers):
                run.add(await stack.enter_async_context(_process(f"worker {number + 1}")))
            async with anyio.create_task_group() as tasks:
                if stop is not None:
                    tasks.start_soon(run.stop_on, stop)
                await run.conduct()
                tasks.cancel_scope.cancel()
    except* (ConfigError, LoadFailed) as group:
        raise first_error(group) from None
    return run.result(thresholds)


class _Generator:
    """One agent, as it is spoken to."""

    def __init__(self, name: str, process: anyio.abc.Process) -> None:
        assert process.stdin is not None  # noqa: S101 - see _process
        assert process.stdout is not None  # noqa: S101
        self.name = name
        self._process = process
        self._stdin = process.stdin
        self._stdout = BufferedByteReceiveStream(process.stdout)
        self.told_ns = 0

    async def tell(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # its end is heard
            await self._stdin.send(json.dumps(message).encode() + b"\n")

    def kill(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                # Its own kill() would take the exit status away from whoever waits for it.
                os.kill(self._process.pid, signal.SIGKILL)

    async def hear(self) -> dict[str, Any]:
        """Its next message; empty if there will be none."""
        try:
            line = await self._stdout.receive_until(b"\n", _LINE)
        except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError):
            return {}
        return dict(json.loads(line))


@contextlib.asynccontextmanager
async def _process(name: str) -> AsyncIterator[_Generator]:
    """A generator on this machine."""
    process = await anyio.open_process(
        spawn_command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, start_new_session=True
    )
    generator = _Generator(name, process)
    try:
        yield generator
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(_GRACE_S, shield=True):
            generator.kill()
            await process.aclose()


class _Run:
    """The state of a run: who takes part, and what was told so far."""

    def __init__(
        self,
        plan: LoadPlan,
        raw: Mapping[str, Any],
        directory: Path,
        offers: Iterator[int] | None,
        abort_on: Sequence[Threshold],
        watch: Watcher | None,
    ) -> None:
        self._plan = plan
        self._raw = raw
        self._directory = directory
        self._abort_on = abort_on
        self._watch = watch
        self._alive: list[_Generator] = []
        self._count = 0
        self._lost: list[str] = []
        self._ended_by = ""
        self._start_ns = 0
        self._told: dict[int, dict[str, Window]] = defaultdict(dict)
        self._seconds: list[SecondRecord] = []
        self._total = Window()
        self._offers = offers
        self._offered = 0
        self._offered_seconds = 0

    def add(self, generator: _Generator) -> None:
        self._alive.append(generator)
        self._count += 1

    async def conduct(self) -> None:
        """From the first word to the last."""
        with anyio.fail_after(_READY_S + self._plan.timeout.total_seconds()):
            for number, generator in enumerate(self._alive):
                part = [number, len(self._alive)]
                await generator.tell({"plan": self._raw, "directory": str(self._directory), "part": part})
            for generator in self._alive:
                self._heard_failure(await generator.hear(), generator)
        self._start_ns = time.time_ns() + round(_START_S * 1e9)
        async with anyio.create_task_group() as tasks:
            for generator in tuple(self._alive):
                await generator.tell({"start": self._start_ns})
                tasks.start_soon(self._follow, generator)
        await self._pass_on(last=True)
        if not self._total.elapsed_s:
            raise LoadFailed("; ".join(self._lost) or "no generator told anything")

    def _heard_failure(self, message: Mapping[str, Any], generator: _Generator) -> None:
        if not message:
            raise LoadFailed(f"{generator.name} ended before it was ready")
        if "failed" in message:
            if message["path"] is not None:
                raise ConfigError(message["failed"], path=message["path"])
            raise LoadFailed(f"cannot load {message['failed']}; is it running?")

    async def _follow(self, generator: _Generator) -> None:
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
                self._heard_failure(message, generator)
        await self._lose(generator)

    async def _lose(self, generator: _Generator) -> None:
        """The others take over its share, from a moment that none of them has reached."""
        now = time.time_ns()
        self._alive.remove(generator)
        generator.kill()  # one that was frozen must not go on later
        at_s = (now - self._start_ns) / 1e9
        silent_s = (now - max(generator.told_ns, self._start_ns)) / 1e9
        self._lost.append(
            f"{generator.name} after {at_s:.1f} s, with what it did in its last {silent_s:.1f} s"
        )
        since = now - self._start_ns + round(_RESPLIT_S * 1e9)
        for number, other in enumerate(self._alive):
            await other.tell({"part": [number, len(self._alive)], "since": since})
        await self._pass_on()

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
            generators=self._count,
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


def _check_files(plan: LoadPlan) -> None:
    """:raises ConfigError: if a process may not have as many connections as the plan wants."""
    wanted = math.ceil((plan.users or plan.connections) / plan.workers) + _SPARE_FILES
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and wanted > most:
        raise ConfigError(
            f"{plan.users or plan.connections} connections need {wanted} open files a process, and {most} "
            "are allowed; raise that (ulimit -Hn), or lower connections or users",
            path=("users" if plan.users else "connections",),
        )
