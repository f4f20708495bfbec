"""``windtunnel watch``: an experiment as its database shows it, looked at again and again."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import anyio
import anyio.to_thread
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from windtunnel.cli import tables, words
from windtunnel.cli.console import is_live, make_console
from windtunnel.cli.data import as_json_line
from windtunnel.cli.live import drawing, pace
from windtunnel.cli.logs import set_up_logging
from windtunnel.cli.progress import RunningTrial, Snapshot
from windtunnel.cli.stored import PATIENCE, check_exists
from windtunnel.config.stored import target_of
from windtunnel.model import TrialRecord, Value, utc_now
from windtunnel.storage import Experiment, open_storage
from windtunnel.storage.reads import Counts
from windtunnel.storage.watching import Observation

__all__ = ["Look", "Watcher", "sparkline", "view", "watch_experiment"]

_WINDOW_S = 60.0
_COUNT_SHARE = 0.1
"""What is counted over all trials takes at most this share of the time, however many there are."""
_LATELY_S = 600.0
_ENOUGH = 3
_MOST_HOSTS = 12
_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at an experiment.

    :ivar history: (number of a trial, best value so far).
    """

    snapshot: Snapshot
    seen: Observation
    history: Sequence[tuple[int, float]]

    @property
    def is_over(self) -> bool:
        """Whether nothing waits or runs, and all trials there shall be have an outcome."""
        counts = self.snapshot.counts
        return counts.pending + counts.running == 0 and self.snapshot.done >= self.snapshot.total


@dataclass(slots=True)
class Watcher:
    """Looks at an experiment. What is counted over all its trials is counted less often when that is slow."""

    experiment: Experiment
    target: int
    clock: Callable[[], float] = time.monotonic
    _counted: tuple[Counts, TrialRecord | None, list[tuple[int, float]]] | None = None
    _count_at: float = 0.0
    _pace: deque[tuple[float, int]] = field(default_factory=deque)
    _began: float | None = None

    async def look(self) -> Look:
        """What is stored now."""
        now = self.clock()
        self._began = now if self._began is None else self._began
        if self._counted is None or now >= self._count_at:
            experiment = self.experiment
            counted = (await experiment.counts(), await experiment.best(), await experiment.best_so_far())
            self._counted, spent = counted, self.clock() - now
            self._count_at = now + spent / _COUNT_SHARE
            self._pace.append((now, _done(counted[0])))
            while len(self._pace) > 2 and now - self._pace[1][0] > _WINDOW_S:
                self._pace.popleft()
        counts, best, history = self._counted
        seen = await self.experiment.observe()
        return Look(snapshot=self._snapshot(counts, best, seen, now), seen=seen, history=history)

    def _snapshot(self, counts: Counts, best: TrialRecord | None, seen: Observation, now: float) -> Snapshot:
        done, moment = _done(counts), utc_now()
        total = max(self.target, counts.total)
        rate = self._rate(seen, moment) if counts.running or counts.pending else None
        return Snapshot(
            experiment_id=self.experiment.experiment_id,
            objective=next(iter(self.experiment.opt_targets), ""),
            done=done,
            total=total,
            counts=counts,
            per_second=rate,
            left_s=(total - done) / rate if rate else None,
            elapsed_s=now - (self._began or now),
            running=[
                RunningTrial(
                    one.trial_id,
                    one.machine or "",
                    0.0 if one.started is None else (moment - one.started).total_seconds(),
                    one.config,
                    {},
                )
                for one in seen.running
            ],
            finished=(),
            missed=0,
            best=best,
            last_failure=None,
            stopping=False,
        )

    def _rate(self, seen: Observation, now: datetime) -> float | None:
        """Trials a second while we looked, or else by when the newest ones ended."""
        (since, before), (until, after) = self._pace[0], self._pace[-1]
        if after - before >= _ENOUGH and until > since:
            return (after - before) / (until - since)
        lately = [moment for moment in seen.ended if (now - moment).total_seconds() < _LATELY_S]
        ours = [moment for moment in lately if seen.joined is not None and moment > seen.joined]
        for start, moments in ((seen.joined, ours), (lately[0] if lately else None, lately)):
            if start is not None and len(moments) >= _ENOUGH:
                return len(moments) / max((now - start).total_seconds(), 1e-3)
        return None


def _done(counts: Counts) -> int:
    return counts.succeeded + counts.failed + counts.timed_out + counts.aborted


# Drawing


def sparkline(series: Sequence[Value], width: int = _WIDTH) -> str:
    """The newest values as small bars, from the lowest to the highest; empty if they are no numbers."""
    numbers = [float(one) for one in series if isinstance(one, int | float) and abs(one) < float("inf")]
    numbers = numbers[-width:]
    if not numbers:
        return ""
    low, high = min(numbers), max(numbers)
    if high == low:
        return _BLOCKS[3] * len(numbers)
    return "".join(_BLOCKS[round((one - low) / (high - low) * (len(_BLOCKS) - 1))] for one in numbers)


def view(look: Look) -> RenderableType:
    """A look as a terminal shows it."""
    counts = Text(f"  {tables.counted(look.snapshot.counts)}", style="dim")
    return Group(
        drawing(look.snapshot), counts, *_telemetry(look), *_history(look), *_workers(look), *_hosts(look)
    )


def _telemetry(look: Look) -> list[RenderableType]:
    rows = _grid(4)
    for one in look.seen.running:
        for index, series in enumerate(one.telemetry[:3]):
            name = f"  trial {one.trial_id}" if index == 0 else ""
            newest = words.number(series.values[-1])
            rows.add_row(
                name, words.plain(series.metric), Text(sparkline(series.values), style="cyan"), newest
            )
    return [rows] if rows.row_count else []


def _history(look: Look) -> list[RenderableType]:
    if len(look.history) < 2:
        return []
    line = Text("  best so far  ", style="green")
    line.append(sparkline([value for _, value in look.history], width=len(look.history)))
    line.append(f"  {words.number(look.history[0][1])} → {words.number(look.history[-1][1])}", style="dim")
    return [line]


def _workers(look: Look) -> list[RenderableType]:
    several = [f"{words.plain(one.machine)} {one.running} running" for one in look.seen.workers[:_MOST_HOSTS]]
    return [Text(f"  workers on  {', '.join(several)}")] if several else []


def _hosts(look: Look) -> list[RenderableType]:
    if not look.seen.hosts:
        return []
    rows = _grid(3)
    for one in look.seen.hosts[:_MOST_HOSTS]:
        failed = Text(f"{one.failed} failed", style="red" if one.failed else "dim")
        rows.add_row(f"  {words.plain(one.host)}", f"{one.succeeded} succeeded", failed)
    more = len(look.seen.hosts) - _MOST_HOSTS
    return [rows, *([Text(f"  +{more} more hosts", style="dim")] if more > 0 else [])]


def _grid(columns: int) -> Table:
    grid = Table.grid(padding=(0, 2), expand=False)
    for _ in range(columns):
        grid.add_column(no_wrap=True)
    return grid


def data_of_look(look: Look) -> dict[str, Any]:
    """A look for programs."""
    snapshot = look.snapshot
    best = snapshot.best
    return {
        "experiment_id": snapshot.experiment_id,
        "trials": {"done": snapshot.done, "target": snapshot.total, **snapshot.counts._asdict()},
        "per_second": snapshot.per_second,
        "left_s": snapshot.left_s,
        "best": None
        if best is None
        else {"trial_id": best.trial_id, "config": best.config, "metrics": best.metrics},
        "best_so_far": [{"trial_id": number, "value": value} for number, value in look.history],
        "workers": [one._asdict() for one in look.seen.workers],
        "hosts": [one._asdict() for one in look.seen.hosts],
        "running": [
            {
                "trial_id": one.trial_id,
                "machine": one.machine,
                "started": one.started.isoformat() if one.started else None,
                "config": one.config,
                "telemetry": {series.metric: list(series.values) for series in one.telemetry},
            }
            for one in look.seen.running
        ],
        "is_over": look.is_over,
    }


# Looking


def watch_experiment(experiment_id: str, storage: str, *, once: bool, every_s: float, as_data: bool) -> None:
    """Show an experiment until it is over.

    :raises NotFound: if there is none with this id.
    """
    set_up_logging(make_console(sys.stderr))
    check_exists(storage)
    console = make_console(sys.stdout)
    try:
        anyio.run(_watch, experiment_id, storage, console, once, every_s, as_data)
    except KeyboardInterrupt:  # how one leaves it
        return


async def _watch(
    experiment_id: str, storage: str, console: Console, once: bool, every_s: float, as_data: bool
) -> None:
    async with open_storage(storage, patience=PATIENCE) as opened:
        experiment = await opened.open_experiment(experiment_id)
        target = target_of(await experiment.stored_description())
        watcher = Watcher(experiment, target or 0)
        show, close = _shower(console, as_data=as_data, once=once)
        try:
            while True:
                look = await watcher.look()
                await anyio.to_thread.run_sync(show, look, abandon_on_cancel=True)
                if once or look.is_over:
                    return
                await anyio.sleep(every_s)
        finally:
            close()


def _shower(
    console: Console, *, as_data: bool, once: bool
) -> tuple[Callable[[Look], None], Callable[[], None]]:
    """How looks are shown, and what is to be done after the last."""
    if as_data:
        return lambda look: _write(as_json_line(data_of_look(look))), _nothing
    if once or not is_live(console):
        if once:
            return lambda look: console.print(view(look), soft_wrap=True), _nothing
        return lambda look: console.print(Text(_line(look)), soft_wrap=True), _nothing
    live = Live(console=console, auto_refresh=False, vertical_overflow="crop")
    live.start()
    return lambda look: live.update(view(look), refresh=True), live.stop


def _line(look: Look) -> str:
    """A look where nothing can be redrawn."""
    snapshot = look.snapshot
    best = snapshot.best.metrics if snapshot.best else None
    value = f"best {words.plain(snapshot.objective)}={words.number((best or {}).get(snapshot.objective))}"
    parts = (
        f"{snapshot.done}/{snapshot.total} trials",
        pace(snapshot),
        f"{snapshot.counts.running} running",
        value,
    )
    return "; ".join(parts)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _nothing() -> None:
    """There is nothing to put away."""
