"""What a run looks like from outside, kept up to date from events and counts; no terminal, no database."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from windtunnel.events import (
    Event,
    EventsDropped,
    TelemetryRecorded,
    TrialFinished,
    TrialLost,
    TrialRetried,
    TrialStarted,
)
from windtunnel.model import Sample, Status, TrialRecord, Value
from windtunnel.storage.reads import Counts

__all__ = ["Progress", "RunningTrial", "Snapshot"]

_SHOWN_TRIALS = 8
_SHOWN_METRICS = 3
_LOOKED_AT = 64
_RATE_WINDOW_S = 30.0
_ENOUGH = 5
_KEPT = 128


@dataclass(frozen=True, slots=True)
class RunningTrial:
    """A row of the live view.

    :ivar elapsed_s: since it was first seen.
    :ivar telemetry: the newest value of a few metrics.
    """

    trial_id: int
    host: str
    elapsed_s: float
    config: Mapping[str, Value]
    telemetry: Mapping[str, Value]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One moment of a run; immutable, so that another thread may draw it.

    :ivar done: trials that succeeded, failed or timed out, over all sessions.
    :ivar total: how many there shall be.
    :ivar per_second: trials of this session that got an outcome, a second; None before the first.
    :ivar left_s: the time it takes to the end at that rate; None if unknown.
    :ivar running: a few of the running trials, the longest-running first.
    :ivar finished: what finished since the snapshot before, the newest 128 at most.
    :ivar missed: how many events were lost since the snapshot before.
    :ivar last_failure: of this session.
    """

    experiment_id: str
    objective: str
    done: int
    total: int
    counts: Counts
    per_second: float | None
    left_s: float | None
    elapsed_s: float
    running: Sequence[RunningTrial]
    finished: Sequence[TrialFinished]
    missed: int
    best: TrialRecord | None
    last_failure: str | None
    stopping: bool


@dataclass(slots=True)
class _Seen:
    host: str
    since: float
    config: Mapping[str, Value]
    telemetry: dict[str, Value] = field(default_factory=dict)


class Progress:
    """Follows a run. Events may be missing, so numbers come from the counts, only rows and lines from events.

    :param target: how many trials the experiment shall have.
    :param counts: those at the beginning of the session.
    :param now: a monotonic clock's time in seconds, here and in every method.
    """

    def __init__(
        self,
        *,
        experiment_id: str,
        objectives: Mapping[str, str],
        target: int,
        counts: Counts,
        best: TrialRecord | None,
        now: float,
    ) -> None:
        self.stopping = False
        self._experiment_id = experiment_id
        self._objective = next(iter(objectives), "")
        self._target = target
        self._counts = counts
        self._best = best
        self._began = now
        self._done_before = _done(counts)
        self._pace: deque[tuple[float, int]] = deque([(now, self._done_before)])
        self._running: dict[int, _Seen] = {}
        self._heard: deque[TrialFinished] = deque(maxlen=_KEPT)
        self._finished: Sequence[TrialFinished] = ()
        self._missed = 0
        self._last_failure: str | None = None

    def apply(self, events: Iterable[Event], now: float) -> None:
        """Take in what happened."""
        for event in events:
            self._apply_one(event, now)

    def update(self, counts: Counts, best: TrialRecord | None, now: float) -> None:
        """Take in what the database says."""
        self._counts, self._best = counts, best
        self._finished = (*self._finished, *self._heard)[-_KEPT:]
        self._heard.clear()
        self._pace.append((now, _done(counts)))
        while len(self._pace) > 2 and now - self._pace[1][0] > _RATE_WINDOW_S:
            self._pace.popleft()

    def snapshot(self, now: float) -> Snapshot:
        """This moment. What finished is told once, and only when the counts include it."""
        finished, self._finished = self._finished, ()
        missed, self._missed = self._missed, 0
        done = _done(self._counts)
        total = max(self._target, self._counts.total)
        pace = self._per_second(done, now)
        return Snapshot(
            experiment_id=self._experiment_id,
            objective=self._objective,
            done=done,
            total=total,
            counts=self._counts,
            per_second=pace,
            left_s=(total - done) / pace if pace else None,
            elapsed_s=now - self._began,
            running=self._rows(now),
            finished=finished,
            missed=missed,
            best=self._best,
            last_failure=self._last_failure,
            stopping=self.stopping,
        )

    def _apply_one(self, event: Event, now: float) -> None:
        match event:
            case TrialStarted(trial=trial):
                self._running[trial.trial_id] = _Seen(event.host, now, trial.tunables)
            case TelemetryRecorded(trial=trial):
                if seen := self._running.get(trial.trial_id):
                    _keep_newest(seen.telemetry, event.samples)
            case TrialFinished(trial=trial):
                self._running.pop(trial.trial_id, None)
                self._heard.append(event)
                if event.result.status in (Status.FAILED, Status.TIMED_OUT):
                    self._last_failure = f"trial {trial.trial_id}: {event.failure}"
            case TrialRetried(trial=trial) | TrialLost(trial=trial):
                self._running.pop(trial.trial_id, None)
            case EventsDropped(count=count):
                # A trial whose end was not heard of would stay in view for ever.
                self._running.clear()
                self._missed += count

    def _rows(self, now: float) -> list[RunningTrial]:
        return [
            RunningTrial(trial_id, seen.host, now - seen.since, seen.config, dict(seen.telemetry))
            for trial_id, seen in islice(self._running.items(), _SHOWN_TRIALS)
        ]

    def _per_second(self, done: int, now: float) -> float | None:
        """The recent pace, or the session's where that is too few trials to tell."""
        for since, before in (self._pace[0], (self._began, self._done_before)):
            if done - before >= _ENOUGH and now > since:
                return (done - before) / (now - since)
        gained = done - self._done_before
        return gained / (now - self._began) if gained > 0 and now > self._began else None


def _done(counts: Counts) -> int:
    return counts.succeeded + counts.failed + counts.timed_out + counts.aborted


def _keep_newest(telemetry: dict[str, Value], samples: Sequence[Sample]) -> None:
    for _, metric, value in samples[-_LOOKED_AT:]:
        if metric in telemetry or len(telemetry) < _SHOWN_METRICS:
            telemetry[metric] = value
