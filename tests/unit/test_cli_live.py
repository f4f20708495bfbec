"""The picture of a running experiment: what is followed, and how it is drawn."""

from __future__ import annotations

import errno
import io
from dataclasses import replace
from typing import Any

from rich.console import Console

from windtunnel.cli.console import make_console
from windtunnel.cli.live import PlainView, drawing, make_view
from windtunnel.cli.progress import Progress, Snapshot
from windtunnel.events import Event, EventsDropped, TelemetryRecorded, TrialFinished, TrialLost, TrialStarted
from windtunnel.model import RunResult, Sample, Status, Trial, utc_now
from windtunnel.storage.reads import Counts
from windtunnel.tunables import TunableGroups

NONE_YET = Counts()
SPACE = TunableGroups({"g": {"cost": 1, "params": {"x": {"type": "int", "range": [0, 9], "default": 5}}}})


def trial(trial_id: int) -> Trial:
    return Trial(experiment_id="e", trial_id=trial_id, config_id=1, tunables=SPACE)


def started(trial_id: int) -> TrialStarted:
    return TrialStarted(trial(trial_id), "node-1", 1)


def finished(trial_id: int, status: Status = Status.SUCCEEDED, failure: str | None = None) -> TrialFinished:
    metrics = {"t": trial_id / 2} if status is Status.SUCCEEDED else None
    return TrialFinished(trial(trial_id), RunResult(status, utc_now(), metrics), failure, "node-1")


def telemetry(trial_id: int, *values: float) -> TelemetryRecorded:
    return TelemetryRecorded(trial(trial_id), [Sample(utc_now(), "qps", value) for value in values])


def progress(target: int = 10, counts: Counts = NONE_YET) -> Progress:
    return Progress(
        experiment_id="e", objectives={"t": "min"}, target=target, counts=counts, best=None, now=100.0
    )


def after(*events: Event, counts: Counts | None = None, target: int = 10) -> Snapshot:
    """What is seen 4 s after the events."""
    seen = progress(target)
    seen.apply(events, 101.0)
    if counts is not None:
        seen.update(counts, None, 104.0)
    return seen.snapshot(105.0)


def drawn(snapshot: Snapshot, width: int = 100) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, height=40, markup=False, highlight=False).print(drawing(snapshot))
    return stream.getvalue()


def test_running_trials_show_time_host_and_newest_telemetry() -> None:
    text = drawn(after(started(1), started(2), telemetry(1, 5.0, 7.5), counts=Counts(total=2, running=2)))
    assert "trial 1  node-1  4.0 s  qps=7.5" in text
    assert "trial 2  node-1  4.0 s  x=5" in text


def test_finished_trials_leave_the_view() -> None:
    snapshot = after(started(1), started(2), finished(1), counts=Counts(total=2, running=1, succeeded=1))
    assert [one.trial_id for one in snapshot.running] == [2]
    assert (snapshot.done, snapshot.total) == (1, 10)


def test_telemetry_that_comes_after_the_end_shows_no_ghost() -> None:
    assert after(started(1), finished(1), telemetry(1, 1.0)).running == []


def test_numbers_come_from_the_counts_when_events_are_lost() -> None:
    counts = Counts(total=9, succeeded=5, failed=1, running=3)
    snapshot = after(EventsDropped(40), started(7), counts=counts)
    assert (snapshot.done, snapshot.missed) == (6, 40)
    assert "6/10 trials" in drawn(snapshot)


def test_a_trial_whose_end_was_lost_does_not_stay() -> None:
    seen = progress()
    seen.apply([started(1), started(2)], 100.0)
    seen.apply([EventsDropped(1), started(3)], 101.0)
    assert [one.trial_id for one in seen.snapshot(102.0).running] == [3]


def test_a_trial_that_was_lost_does_not_stay() -> None:
    snapshot = after(started(1), started(2), TrialLost(trial(1), "its lease was lost"))
    assert [one.trial_id for one in snapshot.running] == [2]


def test_the_picture_of_5000_running_trials_is_small() -> None:
    events = [started(i) for i in range(1, 5001)]
    text = drawn(after(*events, counts=Counts(total=5000, running=5000), target=5000))
    assert "+4992 more" in text
    assert len(text.splitlines()) < 15


def test_rate_and_time_left() -> None:
    seen = progress(target=100)
    assert seen.snapshot(101.0).per_second is None
    seen.update(Counts(total=100, succeeded=20, pending=80), None, 110.0)
    snapshot = seen.snapshot(110.0)
    assert snapshot.per_second == 2.0
    assert snapshot.left_s == 40.0
    assert "2 trials/s, 40 s left" in drawn(snapshot)


def test_the_rate_is_the_recent_one_and_ignores_earlier_sessions() -> None:
    seen = progress(target=2000, counts=Counts(total=2000, succeeded=1000, pending=1000))
    for second in range(1, 61):
        seen.update(Counts(total=2000, succeeded=1000 + second, pending=1000 - second), None, 100.0 + second)
    for second in range(61, 101):
        done = 1060 + (second - 60) * 10
        seen.update(Counts(total=2000, succeeded=done, pending=2000 - done), None, 100.0 + second)
    assert seen.snapshot(200.0).per_second == 10.0


def test_failures_are_counted_and_the_last_one_is_quoted() -> None:
    failure = "run failed: 'a\x1b[31m' ended with status 1\nsecond line"
    snapshot = after(finished(3, Status.FAILED, failure), counts=Counts(total=3, failed=1, timed_out=1))
    text = drawn(snapshot)
    assert "2 failed, last: trial 3: run failed: 'a' ended with status 1" in text
    assert "second line" not in text


def test_stopping_is_shown() -> None:
    assert "stopping" in drawn(replace(after(started(1)), stopping=True))


def test_a_narrow_terminal_breaks_nothing() -> None:
    text = drawn(after(started(1), telemetry(1, 1.0), counts=Counts(total=1, running=1)), width=30)
    assert all(len(line) <= 30 for line in text.splitlines())


def test_a_first_look_does_not_claim_that_no_time_has_passed() -> None:
    running = after(started(1), counts=Counts(total=1, running=1))
    assert "4.0 s elapsed" in drawn(replace(running, per_second=None, elapsed_s=4.0))
    assert "elapsed" not in drawn(replace(running, per_second=None, elapsed_s=0.0))


def lines_of(*snapshots: Snapshot, last: bool = False) -> list[str]:
    stream = io.StringIO()
    view = PlainView(Console(file=stream, width=200, markup=False, highlight=False))
    for snapshot in snapshots:
        view.show(snapshot, last=last and snapshot is snapshots[-1])
    return stream.getvalue().splitlines()


def test_few_trials_get_a_plain_line_each() -> None:
    events = [
        finished(1),
        finished(2, Status.FAILED, "broke\nbadly"),
        finished(3, Status.CANCELED, "interrupted"),
    ]
    assert lines_of(after(*events, counts=Counts(total=3, succeeded=1, failed=1, canceled=1))) == [
        "[1/10] trial 1 succeeded: t=0.5  x=5",
        "[2/10] trial 2 failed: broke  x=5",
    ]


def test_many_trials_get_a_line_now_and_then() -> None:
    seen = progress(target=5000)
    snapshots = []
    for done in range(1, 2001):
        seen.apply([finished(done)], 100.0 + done)
        seen.update(Counts(total=5000, succeeded=done), None, 100.0 + done)
        snapshots.append(seen.snapshot(100.0 + done))
    lines = lines_of(*snapshots, last=True)
    assert len(lines) <= 4
    assert lines[-1].startswith("2000/5000 trials; ")


def test_an_outcome_is_told_once_and_only_when_it_is_counted() -> None:
    seen = progress()
    seen.apply([finished(1)], 100.0)
    assert not seen.snapshot(100.0).finished
    seen.update(Counts(total=1, succeeded=1), None, 101.0)
    assert len(seen.snapshot(101.0).finished) == 1
    assert not seen.snapshot(101.0).finished


class _ClosedPipe(io.StringIO):
    def write(self, _text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_a_view_whose_reader_has_gone_is_silent() -> None:
    view = make_view(make_console(_ClosedPipe()))
    with view:
        view.show(after(finished(1), counts=Counts(total=1, succeeded=1)))
        view.show(after(finished(2), counts=Counts(total=1, succeeded=1)))


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_only_a_terminal_gets_the_live_view(monkeypatch: Any) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert not isinstance(make_view(Console(file=_Terminal())), PlainView)
    assert isinstance(make_view(Console(file=io.StringIO(), force_terminal=True)), PlainView)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_view(Console(file=_Terminal())), PlainView)
