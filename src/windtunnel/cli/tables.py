"""What ``list`` and ``show`` print for people: tables made of plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from windtunnel.cli import words
from windtunnel.cli.ranking import ConfigurationStats
from windtunnel.model import ParetoPoint, Status, TrialRecord
from windtunnel.storage import ExperimentSummary
from windtunnel.storage.reads import Counts
from windtunnel.texts import many

__all__ = [
    "best_block",
    "counted",
    "failure_block",
    "listing",
    "long_listing",
    "pareto",
    "plain_table",
    "ranking",
    "trials_table",
]

_STYLES: Mapping[Status, str] = {
    Status.SUCCEEDED: "green",
    Status.FAILED: "red",
    Status.TIMED_OUT: "red",
    Status.CANCELED: "yellow",
    Status.RUNNING: "cyan",
}


def listing(experiments: Sequence[ExperimentSummary]) -> Table:
    """One row for each experiment. What is left is pending, running, or canceled and run again on resume."""
    table = plain_table("experiment", ">trials", ">succeeded", ">failed", ">left", "best")
    for one in experiments:
        name, total, succeeded, failed, left, best = _cells(one)
        style = "" if failed == "0" else "red"
        table.add_row(Text(name, style="bold"), total, succeeded, Text(failed, style=style), left, Text(best))
    return table


def long_listing(experiments: Sequence[ExperimentSummary], *, width: int) -> str:
    """The same as plain lines of at most ``width`` characters: of a thousand rows, Rich takes seconds."""
    rows = [("experiment", "trials", "succeeded", "failed", "left", "best"), *map(_cells, experiments)]
    name, *numbers, _ = (max(map(cell_len, column)) for column in zip(*rows, strict=True))
    lines = []
    for first, *counts, best in rows:
        aligned = "  ".join(f"{count:>{room}}" for count, room in zip(counts, numbers, strict=True))
        lines.append(words.cut(f" {first}{' ' * (name - cell_len(first))}  {aligned}  {best}", width))
    return "\n".join(lines) + "\n"


def _cells(one: ExperimentSummary) -> tuple[str, ...]:
    counts = one.counts
    left = counts.pending + counts.running + counts.canceled - counts.aborted
    numbers = (counts.total, counts.succeeded, counts.failed + counts.timed_out, left)
    return (words.plain(one.experiment_id), *map(str, numbers), _best(one))


def _best(one: ExperimentSummary) -> str:
    if one.best is None:
        return "-"
    objective = next(iter(one.objectives), "")
    value = words.number((one.best.metrics or {}).get(objective))
    return f"{words.plain(objective)}={value} (trial {one.best.trial_id})"


def counted(counts: Counts) -> str:
    """``24 trials: 20 succeeded, 4 failed``; states nobody is in are left out."""
    states = {
        "succeeded": counts.succeeded,
        "failed": counts.failed,
        "timed out": counts.timed_out,
        "canceled": counts.canceled,
        "running": counts.running,
        "pending": counts.pending,
    }
    parts = ", ".join(f"{n} {state}" for state, n in states.items() if n)
    return many(counts.total, "trial") + (f": {parts}" if parts else "")


def best_block(
    best: TrialRecord, stats: ConfigurationStats | None, objectives: Mapping[str, str]
) -> RenderableType:
    """The best configuration and its metrics, with their spread if it ran more than once."""
    repeats = stats.trials if stats else 1
    runs = f", mean ± standard deviation of {repeats} trials" if repeats > 1 else ""
    head = Text("best configuration", style="bold green")
    head.append(
        f"  (configuration {best.config_id}, best trial {best.trial_id}{runs})", style="not bold default"
    )
    grid = Table.grid(padding=(0, 2))
    for name, value in best.config.items():
        grid.add_row(Text(f"  {words.plain(name)}"), Text(words.number(value)))
    metrics = stats.metrics if stats else list(best.metrics or {})
    rows = Table.grid(padding=(0, 2))
    for metric in sorted(metrics, key=lambda name: name not in objectives):
        shown = stats.described(metric) if stats else words.number((best.metrics or {}).get(metric))
        wanted = objectives.get(metric, "")
        style = "bold" if wanted else ""
        rows.add_row(
            Text(f"  {words.plain(metric)}", style=style), Text(shown, style=style), Text(wanted, style="dim")
        )
    parts: list[RenderableType] = [head, grid] if best.config else [head]
    return Group(*parts, Text("its metrics", style="bold"), rows)


def ranking(stats: Sequence[ConfigurationStats], objectives: Mapping[str, str]) -> Table:
    """The best configurations, with the means of the objectives."""
    table = plain_table(">config", ">trials", *(f">{name}" for name in objectives), "tunables")
    for one in stats:
        values = (Text(one.described(name)) for name in objectives)
        table.add_row(str(one.config_id), str(one.trials), *values, Text(words.assignments(one.config)))
    return table


def pareto(front: Iterable[ParetoPoint], objectives: Mapping[str, str]) -> Table:
    """The configurations of a Pareto front, with their scores."""
    columns = (f">{name} ({direction})" for name, direction in objectives.items())
    table = plain_table(">config", ">trials", *columns, "tunables")
    for one in front:
        scores = (Text(words.number(one.scores[name])) for name in objectives)
        table.add_row(str(one.config_id), str(one.trials), *scores, Text(words.assignments(one.config)))
    return table


def trials_table(trials: Iterable[TrialRecord], objectives: Mapping[str, str]) -> Table:
    """One row for each trial."""
    table = plain_table(">trial", ">config", "status", ">attempt", "host", ">took", "result")
    for one in trials:
        took = (one.ended - one.started).total_seconds() if one.started and one.ended else None
        table.add_row(
            str(one.trial_id),
            str(one.config_id),
            Text(one.status.name.lower().replace("_", " "), style=_STYLES.get(one.status, "")),
            str(one.attempt),
            Text(words.plain(one.host or "-")),
            words.duration(took) if took is not None else "-",
            Text(_result(one, objectives)),
        )
    return table


def _result(trial: TrialRecord, objectives: Mapping[str, str]) -> str:
    if trial.failure is not None:
        return words.first_line(trial.failure, 80)
    metrics = trial.metrics or {}
    return words.assignments({name: metrics[name] for name in objectives if name in metrics})


def failure_block(failure: TrialRecord) -> RenderableType:
    """What the last failed trial said, in full."""
    status = failure.status.name.lower().replace("_", " ")
    head = Text(f"last failure: trial {failure.trial_id} {status}", style="bold red")
    text = words.plain(failure.failure or "no reason was given")
    return Group(head, Text("\n".join(f"  {line}" for line in text.splitlines())))


def plain_table(*columns: str) -> Table:
    """A table without rows. ``>`` before a name aligns its column to the right."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        right = column.startswith(">")
        table.add_column(
            Text(words.plain(column[right:])), justify="right" if right else "left", overflow="fold"
        )
    return table
