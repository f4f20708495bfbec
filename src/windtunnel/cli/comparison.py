"""The best configuration beside the default: what differs, how much faster it is, and how sure that is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from windtunnel.cli import words
from windtunnel.cli.ranking import ConfigurationStats, by_configuration
from windtunnel.model import TrialRecord

__all__ = ["Comparison", "Spread", "compare", "render"]


class Spread(NamedTuple):
    """The mean of several runs and their standard deviation (of the sample), which one run has not."""

    mean: float
    deviation: float | None
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """:raises StatisticsError: if there are no values."""
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, len(values))

    def over(self, other: Spread) -> Spread | None:
        """The ratio of the means; its deviation is propagated from both, as for independent errors.

        :returns: None if the other mean is 0. ``runs`` is the smaller of the two.
        """
        if other.mean == 0:
            return None
        ratio, runs = self.mean / other.mean, min(self.runs, other.runs)
        if self.deviation is None or other.deviation is None:
            return Spread(ratio, None, runs)
        deviation = math.hypot(self.deviation, ratio * other.deviation) / abs(other.mean)
        return Spread(ratio, deviation, runs)

    def __str__(self) -> str:
        if self.deviation is None:
            return _number(self.mean)
        return f"{_number(self.mean)} ± {_number(self.deviation, like=self.mean)}"


def _number(value: float, *, like: float | None = None) -> str:
    """``value`` with three digits or more, or with as many decimals as ``like`` has."""
    size = abs(value if like is None else like)
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:,.{decimals}f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The default and the best of ``tried`` configurations.

    :ivar default: without trials if none succeeded.
    :ivar tried: how many configurations succeeded at least once.
    """

    default: ConfigurationStats
    best: ConfigurationStats
    tried: int

    @property
    def is_default_best(self) -> bool:
        return self.best.config == self.default.config

    def speed_up(self, metric: str) -> Spread | None:
        """How many times as much of ``metric`` the best gives as the default; None if that cannot be said."""
        default, best = _spread(self.default, metric), _spread(self.best, metric)
        return best.over(default) if default and best else None


def _spread(stats: ConfigurationStats, metric: str) -> Spread | None:
    values = stats.values.get(metric)
    return Spread.of(values) if values else None


def compare(records: Iterable[TrialRecord], *, default: Mapping[str, Any], best_config_id: int) -> Comparison:
    """Put the best configuration, which must have succeeded, beside the default one."""
    tried = by_configuration(records)
    found = next((one for one in tried.values() if one.config == default), None)
    return Comparison(
        default=found or ConfigurationStats(0, default), best=tried[best_config_id], tried=len(tried)
    )


def render(comparison: Comparison, *, metric: str, beside: Sequence[str] = ()) -> RenderableType:
    """The comparison for people.

    :param metric: the objective, of which more is better.
    :param beside: further metrics to show.
    """
    return Group(_table(comparison, [metric, *beside]), *_verdict(comparison, metric))


def _table(comparison: Comparison, metrics: Sequence[str]) -> Table:
    default, best = comparison.default, comparison.best
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("")
    for column in ("default", f"best of {comparison.tried}"):
        table.add_column(column, justify="right")
    for name, value in default.config.items():
        other = best.config.get(name)
        mark, style = (" ", "dim") if other == value else ("*", "bold green")
        table.add_row(f"{mark} {name}", words.number(value), words.number(other), style=style)
    table.add_section()
    for metric in metrics:
        values = (str(_spread(one, metric) or "-") for one in (default, best))
        table.add_row(f"  {metric}", *values)
    return table


def _verdict(comparison: Comparison, metric: str) -> list[Text]:
    if comparison.tried == 1 and comparison.is_default_best:
        return [Text("Only the default was measured, so there is nothing to compare it with.")]
    if comparison.is_default_best:
        return [Text(f"No configuration had a better {metric} than the default.")]
    ratio = comparison.speed_up(metric)
    if ratio is None:
        return [Text(f"The default gave no {metric} to compare with.")]
    runs = "one run" if ratio.runs == 1 else f"{ratio.runs} runs"
    spread = (
        f"± is one standard deviation over {runs} of each"
        if ratio.deviation is not None
        else f"{runs} of each"
    )
    return [
        Text.assemble("Speed-up: ", (f"{ratio} times", "bold green"), f" the default's {metric}"),
        Text(
            f"{spread}; the best of many is partly luck, so measure it again before you rely on it",
            style="dim",
        ),
    ]
