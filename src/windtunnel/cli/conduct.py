"""Runs a scheduler in front of a person: shows how it goes, and stops it when a signal asks for that."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable
from datetime import timedelta

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus
from rich.console import Console

from windtunnel.cli.live import View, make_view
from windtunnel.cli.progress import Progress
from windtunnel.cli.words import duration
from windtunnel.errors import WindtunnelError
from windtunnel.events import Subscription
from windtunnel.model import Summary
from windtunnel.scheduling import Scheduler
from windtunnel.storage import Experiment

__all__ = ["conduct"]

logger = logging.getLogger(__name__)

_TICK_S = 0.5
_COUNT_S = 1.0
_COUNT_SHARE = 0.1
"""Counting never takes more than this share of the time, however big the database has grown."""
_HEARD = 20_000
_LAST_DRAWING_S = 2.0


async def conduct(
    scheduler: Scheduler, experiment: Experiment, *, trials: int, grace: timedelta, console: Console
) -> Summary:
    """``await scheduler.run()`` with a live view on ``console``.

    The first SIGINT, SIGTERM or SIGHUP stops the scheduler, every further one cuts the teardowns short.

    :param trials: how many trials the experiment shall have.
    :param grace: how long a teardown may take, for the message.
    :raises WindtunnelError: what ``Scheduler.run`` raises, inside an exception group.
    """
    progress = Progress(
        experiment_id=experiment.experiment_id,
        objectives=experiment.opt_targets,
        target=trials,
        counts=await experiment.counts(),
        best=await experiment.best(),
        now=time.monotonic(),
    )
    with make_view(console) as view, scheduler.events(capacity=_HEARD) as heard:
        follower = _Follower(heard, experiment, progress, view)

        def stop() -> None:
            _announce(console, grace, again=progress.stopping)
            progress.stopping = True
            scheduler.stop()

        async with anyio.create_task_group() as beside:
            await beside.start(_on_signals, stop, name="signals")
            beside.start_soon(follower.run, name="view")
            summary = await scheduler.run()
            beside.cancel_scope.cancel()
        with anyio.move_on_after(_LAST_DRAWING_S):
            await follower.look(last=True)
    return summary


class _Follower:
    """Looks at the run twice a second: hears the events, counts if there were any, draws."""

    def __init__(self, heard: Subscription, experiment: Experiment, progress: Progress, view: View) -> None:
        self._heard = heard
        self._experiment = experiment
        self._progress = progress
        self._view = view
        self._changed = True
        self._count_at = 0.0
        self._one_at_a_time = anyio.CapacityLimiter(1)

    async def run(self) -> None:
        while True:
            await self.look()
            await anyio.sleep(_TICK_S)

    async def look(self, *, last: bool = False) -> None:
        events = self._heard.drain()
        self._progress.apply(events, time.monotonic())
        self._changed = self._changed or bool(events)
        if self._changed and (last or time.monotonic() >= self._count_at):
            await self._count()
        # The thread is left alone when the run is over: a paused terminal keeps nobody.
        await anyio.to_thread.run_sync(
            lambda snapshot: self._view.show(snapshot, last=last),
            self._progress.snapshot(time.monotonic()),
            abandon_on_cancel=True,
            limiter=self._one_at_a_time,
        )

    async def _count(self) -> None:
        began = time.monotonic()
        try:
            counts, best = await self._experiment.counts(), await self._experiment.best()
        except WindtunnelError as exc:  # the scheduler meets it too, and decides
            logger.debug("the trials could not be counted: %s", exc)
            return
        now = time.monotonic()
        self._count_at = now + max(_COUNT_S, (now - began) / _COUNT_SHARE)
        self._changed = False
        self._progress.update(counts, best, now)


async def _on_signals(stop: Callable[[], None], *, task_status: TaskStatus[None]) -> None:
    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        signals.append(signal.SIGHUP)
    with anyio.open_signal_receiver(*signals) as received:
        task_status.started()
        async for _ in received:
            stop()


def _announce(console: Console, grace: timedelta, *, again: bool) -> None:
    if again:
        text = "stopping now: teardowns are cut short and may leave something behind"
    else:
        text = (
            "stopping: running trials are cancelled and torn down, which may take up to "
            f"{duration(grace.total_seconds())}; once more to cut that short. Run the same command to resume"
        )
    try:
        console.print(text, style="yellow", soft_wrap=True)
    except OSError:
        logger.debug("the message could not be written")
