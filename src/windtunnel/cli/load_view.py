"""How a load test is shown: the last seconds redrawn on a terminal, one line a second elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from windtunnel.cli.console import is_live
from windtunnel.cli.words import duration, number, plain
from windtunnel.loadgen.capacity import Capacity
from windtunnel.loadgen.result import Result, SecondRecord

__all__ = ["LoadView", "curve", "story"]

_SHOWN = 12
_PERCENTILES = ("p50", "p90", "p99", "p999", "max")


class LoadView:
    """Shows seconds as they come; goes silent when nobody reads."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: deque[SecondRecord] = deque(maxlen=_SHOWN)
        self._live = Live(console=console, auto_refresh=False, transient=True) if is_live(console) else None
        self._silent = False

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            try:
                self._live.stop()
            except OSError:
                self._silent = True

    def show(self, second: SecondRecord) -> None:
        """Draw; may block."""
        self._last.append(second)
        if self._silent:
            return
        try:
            if self._live is not None:
                self._live.update(_seconds(self._last), refresh=True)
            else:
                self._console.print(Text(_line(second)), soft_wrap=True)
        except OSError:
            self._silent = True


def _seconds(seconds: Sequence[SecondRecord] | deque[SecondRecord]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    columns = (
        "second",
        "due",
        "sent",
        "done",
        "p50 ms",
        "p99",
        "max",
        "errors",
        "in flight",
        "held",
        "late ms",
    )
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for one in seconds:
        errors = sum(one.errors.values())
        table.add_row(
            str(one.second),
            number(one.offered),
            str(one.sent),
            str(one.completed),
            *(_ms(one.latency_ms[name]) for name in ("p50", "p99", "max")),
            Text(str(errors), style="red" if errors else ""),
            str(one.in_flight),
            Text(str(one.held), style="yellow" if one.held else ""),
            _ms(one.late_ms),
        )
    return table


def _line(one: SecondRecord) -> str:
    errors = ", ".join(f"{count} {kind}" for kind, count in one.errors.items())
    parts = [
        f"{one.second} s: {one.sent} sent, {one.completed} done",
        f"p50 {_ms(one.latency_ms['p50'])} p99 {_ms(one.latency_ms['p99'])} ms",
        f"{one.in_flight} in flight",
        f"{one.held} held back" if one.held else "",
        f"errors: {errors}" if errors else "",
    ]
    return "; ".join(part for part in parts if part)


def story(result: Result) -> RenderableType:
    """How a run went, for people."""
    data = result.as_data()
    lines: list[RenderableType] = [
        Text(
            f"{result.total.completed} answers in {duration(result.total.elapsed_s)}: "
            f"{result.rate:.5g} a second, {data['errors']} errors",
            style="bold",
        ),
        _latencies(result),
    ]
    lines += [
        Text(f"{count} {kind}: {plain(result.total.messages.get(kind, ''))}", style="red")
        for kind, count in data["errors_by_class"].items()
    ]
    if result.total.held:
        most = "requests waited for a free connection: their latency has the wait in it"
        lines.append(Text(f"{result.total.held} {most}", style="yellow"))
    if result.unsent:
        lines.append(
            Text(f"{result.unsent} requests were due and never sent; they count as errors", style="red")
        )
    for limit in result.thresholds:
        kept = limit not in result.missed
        value = limit.value(result.total, unsent=result.unsent)
        told = f"{'kept' if kept else 'missed'}: {limit.text} (found {value:.5g})"
        lines.append(Text(told, style="green" if kept else "bold red"))
    if result.clocks:
        hosts = ", ".join(map(plain, result.clocks))
        error = max(one.error_ns for one in result.clocks.values()) / 1e6
        lines.append(Text(f"from {hosts}, begun together within {error:.2g} ms"))
    if result.ended_by:
        lines.append(Text(f"ended early: {result.ended_by}", style="yellow"))
    lines += [Text(f"invalid: {reason}", style="bold red") for reason in result.invalid_because]
    return Group(*lines)


def _latencies(result: Result) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("latency ms")
    for name in (*_PERCENTILES, "mean"):
        table.add_column(name, justify="right", no_wrap=True)
    data = result.as_data()
    rows = {"all": data["latency_ms"], **data["steps_latency_ms"]}
    if result.total.lateness.count:
        rows["schedule error"] = data["schedule_error_ms"]
    for name, values in rows.items():
        table.add_row(Text(plain(name)), *(_ms(values[column]) for column in (*_PERCENTILES, "mean")))
    return table


def curve(points: Sequence[tuple[float, bool, float | None]], found: Capacity, bend: float | None) -> Group:
    """The latency over the rate, as a search has seen it.

    :param points: rate, whether the limits were kept, and the p99 in ms.
    """
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("rate", "p99 ms", "kept", ""):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    highest = max((value for _, _, value in points if value), default=1.0)
    for rate, kept, value in sorted(points):
        bar = "█" * round(30 * (value or 0) / highest)
        mark = " ← knee" if rate == bend else ""
        style = "green" if kept else "red"
        table.add_row(f"{rate:.5g}", _ms(value), Text("yes" if kept else "no", style=style), bar + mark)
    return Group(table, Text(_highest(found), style="bold"))


def _highest(found: Capacity) -> str:
    if not found.rate:
        return f"no rate was low enough; the lowest that was tried is {found.high:.5g}"
    if found.high == float("inf"):
        return f"highest rate: above {found.rate:.5g} requests a second; no limit was found"
    between = f"{found.low:.5g} and {found.high:.5g}"
    return f"highest rate: {found.rate:.5g} requests a second, with 90 % between {between}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"
