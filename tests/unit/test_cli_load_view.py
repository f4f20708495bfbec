from __future__ import annotations

import io
import math

from rich.console import Console

from windtunnel.cli.console import make_console
from windtunnel.cli.load_view import LoadView, curve, story
from windtunnel.loadgen.capacity import Capacity
from windtunnel.loadgen.recorder import Window
from windtunnel.loadgen.result import Result, SecondRecord
from windtunnel.loadgen.thresholds import Threshold


def window(second: int = 0) -> Window:
    made = Window(second=second, begun=12, held=3, in_flight=1, elapsed_s=1.0)
    made.latency.record([2_000_000] * 9 + [40_000_000])
    made.lateness.record([100_000] * 12)
    made.errors.update({"reset": 1})
    made.messages["reset"] = "the server closed the connection"
    return made


def console(*, terminal: bool = False) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    if terminal:
        out.isatty = lambda: True  # type: ignore[method-assign]  # that is all a terminal is here
    return Console(file=out, width=160, force_terminal=terminal, force_interactive=terminal), out


def test_without_a_terminal_each_second_is_a_line() -> None:
    shown, out = console()
    with LoadView(shown) as view:
        view.show(SecondRecord.of(window(0), 12))
        view.show(SecondRecord.of(window(1), 12))
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[1] == ("1 s: 12 sent, 10 done; p50 2 p99 40 ms; 1 in flight; 3 held back; errors: 1 reset")


def test_on_a_terminal_the_last_seconds_are_a_table() -> None:
    shown, out = console(terminal=True)
    with LoadView(shown) as view:
        for second in range(20):
            view.show(SecondRecord.of(window(second), 12))
    last = out.getvalue().rpartition("in flight")[2]
    assert " 19 " in last
    assert " 7 " not in last  # only the newest twelve are kept


class _Gone(io.StringIO):
    """A pipe that nobody reads."""

    def write(self, _text: str) -> int:
        raise BrokenPipeError


def test_reader_that_has_gone_ends_no_run() -> None:
    with LoadView(make_console(_Gone())) as view:
        view.show(SecondRecord.of(window(), 12))
        view.show(SecondRecord.of(window(), 12))


def test_story_has_all_that_matters() -> None:
    shown, out = console()
    limits = [Threshold.parse("p99<10ms"), Threshold.parse("max<1s")]
    shown.print(story(Result(total=window(), offered=20, thresholds=limits, lost=["worker 2 after 3.0 s"])))
    text = out.getvalue()
    for told in (
        "10 answers in 1.0 s",
        "schedule error",
        "1 reset: the server closed the connection",
        "3 requests waited for a free connection",
        "8 requests were due and never sent",
        "missed: p99<10ms (found 40)",
        "kept: max<1s (found 40)",
        "invalid: a generator was lost: worker 2 after 3.0 s",
    ):
        assert told in text


def test_curve_names_the_knee_and_the_highest_rate() -> None:
    shown, out = console()
    points = [(100.0, True, 2.0), (200.0, True, 4.0), (400.0, False, None)]
    shown.print(curve(points, Capacity(210.0, 200.0, 220.0), 200.0))
    assert "← knee" in out.getvalue()
    assert "highest rate: 210 requests a second, with 90 % between 200 and 220" in out.getvalue()
    shown.print(curve(points[:1], Capacity(100.0, 100.0, math.inf), None))
    assert "above 100 requests a second; no limit was found" in out.getvalue()
    shown.print(curve(points[2:], Capacity(0.0, 0.0, 400.0), None))
    assert "no rate was low enough; the lowest that was tried is 400" in out.getvalue()
