"""How a running experiment is shown: redrawn in place on a terminal, as plain lines elsewhere.

A view is drawn in a worker thread, one call at a time, so a paused terminal or pipe holds no trial up. One
that can no longer be written to (``| head``) goes silent.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from windtunnel.cli import words
from windtunnel.cli.console import is_live
from windtunnel.cli.progress import Snapshot
from windtunnel.events import TrialFinished
from windtunnel.scheduling.pruning import ABORTED

__all__ = ["LiveView", "PlainView", "View", "drawing", "make_view"]

_FEW = 100
"""Up to so many trials get a line each."""
_LINE_PERIOD_S = 2.0


class View(ABC):
    """Shows snapshots while the block runs."""

    @abstractmethod
    def show(self, snapshot: Snapshot, *, last: bool = False) -> None:
        """Draw; may block.

        :param last: no other will follow.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:  # noqa: B027 - most have nothing to tidy
        """Leave the terminal as a following print expects it."""


def make_view(console: Console) -> View:
    """The view that suits the console."""
    return LiveView(console) if is_live(console) else PlainView(console)


class LiveView(View):
    """Redraws a few lines at the bottom of a terminal."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop")
        self._silent = False

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._live.stop()
        except OSError:
            self._silent = True

    def show(self, snapshot: Snapshot, *, last: bool = False) -> None:
        if self._silent:
            return
        try:
            self._live.update(drawing(snapshot), refresh=True)
        except OSError:
            self._silent = True


def drawing(snapshot: Snapshot) -> RenderableType:
    """The live view of one moment: a fixed number of lines, whatever runs."""
    return Group(_bar(snapshot), *_running(snapshot), *_best(snapshot), *_failures(snapshot))


def _bar(snapshot: Snapshot) -> Table:
    line = Table.grid(padding=(0, 2), expand=False)
    for _ in range(4):
        line.add_column(no_wrap=True)
    state = "stopping" if snapshot.stopping else ""
    line.add_row(
        Text(words.cut(words.plain(snapshot.experiment_id), 32), style="bold"),
        ProgressBar(total=max(snapshot.total, 1), completed=snapshot.done, width=30),
        Text(f"{snapshot.done}/{snapshot.total} trials", style="bold"),
        Text(state or pace(snapshot), style="yellow" if state else ""),
    )
    return line


def pace(snapshot: Snapshot) -> str:
    """``12 trials/s, 3m 05s left``; before the first outcome, how long it has run, if it has."""
    if snapshot.per_second is None:
        return f"{words.duration(snapshot.elapsed_s)} elapsed" if snapshot.elapsed_s else ""
    left = f", {words.duration(snapshot.left_s)} left" if snapshot.left_s else ""
    return words.rate(snapshot.per_second) + left


def _running(snapshot: Snapshot) -> list[RenderableType]:
    if not snapshot.running:
        return []
    rows = Table.grid(padding=(0, 2), expand=False)
    for _ in range(3):
        rows.add_column(no_wrap=True)
    rows.add_column(no_wrap=True, overflow="ellipsis")
    for trial in snapshot.running:
        shown = trial.telemetry or trial.config
        rows.add_row(
            Text(f"  trial {trial.trial_id}", style="cyan"),
            Text(words.plain(trial.host), style="dim"),
            Text(words.duration(trial.elapsed_s)),
            Text(words.assignments(shown, most=6), style="" if trial.telemetry else "dim"),
        )
    more = snapshot.counts.running - len(snapshot.running)
    return [rows, *([Text(f"  +{more} more", style="dim")] if more > 0 else [])]


def _best(snapshot: Snapshot) -> list[RenderableType]:
    best = snapshot.best
    if best is None:
        return []
    line = Text("best  ", style="bold green", no_wrap=True, overflow="ellipsis")
    line.append(_value(snapshot), style="bold")
    line.append(f"  trial {best.trial_id}  {words.assignments(best.config)}", style="not bold default")
    return [line]


def _value(snapshot: Snapshot) -> str:
    metrics = snapshot.best.metrics if snapshot.best else None
    return f"{words.plain(snapshot.objective)}={words.number((metrics or {}).get(snapshot.objective))}"


def _failures(snapshot: Snapshot) -> list[RenderableType]:
    text = _failed(snapshot)
    return [Text(text, style="red", no_wrap=True, overflow="ellipsis")] if text else []


def _failed(snapshot: Snapshot) -> str:
    failed = snapshot.counts.failed + snapshot.counts.timed_out
    if not failed:
        return ""
    last = f", last: {words.first_line(snapshot.last_failure)}" if snapshot.last_failure else ""
    return f"{failed} failed{last}"


class PlainView(View):
    """Prints a line for each trial when there are few, or else one for all every two seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._silent = False
        self._printed: tuple[float, int] = (0.0, 0)

    def show(self, snapshot: Snapshot, *, last: bool = False) -> None:
        if self._silent:
            return
        try:
            if snapshot.total <= _FEW and not snapshot.missed:
                self._show_each(snapshot)
            else:
                self._show_all(snapshot, last=last)
        except OSError:
            self._silent = True

    def _show_each(self, snapshot: Snapshot) -> None:
        outcomes = [event for event in snapshot.finished if _counts(event)]
        first = snapshot.done - len(outcomes) + 1
        for done, event in enumerate(outcomes, first):
            self._print(f"[{done}/{snapshot.total}] {outcome(event, snapshot.objective)}")

    def _show_all(self, snapshot: Snapshot, *, last: bool) -> None:
        printed_at, printed_done = self._printed
        now = time.monotonic()
        if snapshot.done == printed_done or not (last or now - printed_at >= _LINE_PERIOD_S):
            return
        self._printed = (now, snapshot.done)
        best = f"best {_value(snapshot)} (trial {snapshot.best.trial_id})" if snapshot.best else ""
        parts = (f"{snapshot.done}/{snapshot.total} trials", pace(snapshot), best, _failed(snapshot))
        self._print("; ".join(part for part in parts if part))

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


def _counts(event: TrialFinished) -> bool:
    """Whether nothing more is to be done for the trial: an interrupted one is run again."""
    return not event.result.status.is_canceled or (event.failure or "").startswith(ABORTED)


def outcome(event: TrialFinished, objective: str) -> str:
    """A finished trial in one line."""
    trial, result = event.trial, event.result
    head = f"trial {trial.trial_id} {result.status.name.lower().replace('_', ' ')}"
    config = words.assignments(dict(trial.tunables))
    if result.status.is_succeeded:
        value = words.number((result.metrics or {}).get(objective))
        return f"{head}: {words.plain(objective)}={value}  {config}"
    return f"{head}: {words.first_line(event.failure or 'no reason was given')}  {config}"
