"""The values that travel through the engine: frozen, and made of the standard library only."""

from __future__ import annotations

import enum
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from windtunnel.errors import ResultsInvalid
from windtunnel.tunables import TunableGroups

__all__ = [
    "Direction",
    "FailureKind",
    "History",
    "NewTrial",
    "OutlierHost",
    "ParetoPoint",
    "RunResult",
    "Sample",
    "Status",
    "StatusReport",
    "StopKind",
    "Summary",
    "Timeouts",
    "Trial",
    "TrialRecord",
    "Value",
    "utc_now",
]

Value = int | float | str | None
"""A parameter's value. None stands for a tunable that has none yet."""

Direction = Literal["min", "max"]

StopKind = Literal["failures", "time_budget", "time_limit"]
"""What may end a session before its experiment is complete."""


def utc_now() -> datetime:
    """The current time, aware, in UTC."""
    return datetime.now(UTC)


class Status(enum.Enum):
    """The state of a trial, or of an environment."""

    UNKNOWN = 0
    PENDING = 1
    READY = 2
    RUNNING = 3
    SUCCEEDED = 4
    CANCELED = 5
    FAILED = 6
    TIMED_OUT = 7

    @classmethod
    def parse(cls, text: object) -> Status:
        """A status from its name in any case, its number, or a Status; UNKNOWN for anything else."""
        if isinstance(text, Status):
            return text
        if isinstance(text, str):
            name = text.strip().upper()
            if name in cls.__members__:
                return cls[name]
            text = int(name) if name.isdecimal() else None
        if isinstance(text, int) and not isinstance(text, bool) and 0 <= text <= cls.TIMED_OUT.value:
            return cls(text)
        return cls.UNKNOWN

    @property
    def is_good(self) -> bool:
        """Nothing has gone wrong: waiting, ready, running or succeeded."""
        return self in _GOOD

    @property
    def is_pending(self) -> bool:
        return self is Status.PENDING

    @property
    def is_ready(self) -> bool:
        return self is Status.READY

    @property
    def is_completed(self) -> bool:
        """Nothing more will happen: succeeded, failed, canceled or timed out."""
        return self in _COMPLETED

    @property
    def is_succeeded(self) -> bool:
        return self is Status.SUCCEEDED

    @property
    def is_failed(self) -> bool:
        return self is Status.FAILED

    @property
    def is_canceled(self) -> bool:
        return self is Status.CANCELED

    @property
    def is_timed_out(self) -> bool:
        return self is Status.TIMED_OUT

    def can_become(self, new: Status) -> bool:
        """Whether a stored trial may go from this status to ``new``.

        A running trial goes back to PENDING when its lease expires or it is released. CANCELED goes back to
        PENDING only when an interrupted experiment is resumed; the other outcomes are final.
        """
        return new in _NEXT[self]


_GOOD = frozenset({Status.PENDING, Status.READY, Status.RUNNING, Status.SUCCEEDED})
_COMPLETED = frozenset({Status.SUCCEEDED, Status.CANCELED, Status.FAILED, Status.TIMED_OUT})
_NEXT: Mapping[Status, frozenset[Status]] = {
    Status.UNKNOWN: frozenset({Status.PENDING}),
    Status.PENDING: frozenset({Status.RUNNING, Status.CANCELED}),
    Status.READY: frozenset({Status.RUNNING, Status.PENDING, Status.CANCELED}),
    Status.RUNNING: _COMPLETED | {Status.PENDING},
    Status.SUCCEEDED: frozenset(),
    Status.CANCELED: frozenset({Status.PENDING}),
    Status.FAILED: frozenset(),
    Status.TIMED_OUT: frozenset(),
}


class Sample(NamedTuple):
    """One point of telemetry."""

    timestamp: datetime
    metric: str
    value: float | int | str


class FailureKind(enum.StrEnum):
    """Which part of a trial failed: what is retried, and what the failure budget counts, goes by it."""

    SETUP = "setup"
    """The environment could not be made or set up, or not in time: rather the host's fault."""
    RUN = "run"
    """The run failed."""
    RESULTS = "results"
    """The run ended well, but what it reported cannot be used."""
    TIMEOUT = "timeout"
    """The run, or the trial as a whole, used up its time."""
    HOST = "host"
    """The host was lost, or would not serve."""
    ABORTED = "aborted"
    """A pruner stopped it. The trial is CANCELED, and never retried."""


class RunResult(NamedTuple):
    """What a run gave: its status, when it ended (aware UTC), and its metrics if it succeeded."""

    status: Status
    timestamp: datetime
    metrics: dict[str, Any] | None = None

    @classmethod
    def of(cls, returned: object) -> RunResult:
        """What ``Environment.run`` returned, which may be a plain tuple; a time without a zone is UTC.

        :raises ResultsInvalid: if it is anything else.
        """
        match returned:
            case RunResult(Status(), datetime() as timestamp, None | dict()) if timestamp.tzinfo is not None:
                return returned
            case (Status() as status, datetime() as timestamp, None | Mapping() as metrics):
                return cls(status, _aware(timestamp), None if metrics is None else dict(metrics))
        raise ResultsInvalid(
            f"run must return (status, timestamp, metrics or None), found {reprlib.repr(returned)}"
        )


class StatusReport(NamedTuple):
    """What an environment says of itself, with the telemetry gathered since it was last asked."""

    status: Status
    timestamp: datetime
    telemetry: list[Sample]

    @classmethod
    def of(cls, returned: object) -> StatusReport:
        """What ``Environment.status`` returned, which may be plain tuples; a time without a zone is UTC.

        :raises ResultsInvalid: if it is anything else.
        """
        match returned:
            case (Status() as status, datetime() as timestamp, list() as points):
                if isinstance(returned, cls) and not points and timestamp.tzinfo is not None:
                    return returned
                return cls(status, _aware(timestamp), [_sample(point) for point in points])
        raise ResultsInvalid(f"status must return (status, timestamp, list), found {reprlib.repr(returned)}")


def _sample(point: Any) -> Sample:
    match point:
        case (datetime() as timestamp, str() as metric, value):
            return Sample(_aware(timestamp), metric, value)
    raise ResultsInvalid(f"telemetry must be (timestamp, metric, value), found {reprlib.repr(point)}")


def _aware(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


class History(NamedTuple):
    """Trials as parallel lists: what an optimizer learns from. Those that wait or run have no scores yet."""

    trial_ids: list[int]
    configs: list[dict[str, Any]]
    scores: list[dict[str, Any] | None]
    status: list[Status]


_EMPTY: Mapping[str, Value] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One configuration to be run, as it was stored or claimed.

    :ivar trial_id: numbered from 1 within its experiment.
    :ivar parameters: values that are not tuned but belong to this trial alone.
    :ivar attempt: how many times it has been claimed, 0 before the first.
    :ivar token: grows with every claim; a write that carries an old one is refused.
    :ivar owner: the worker that holds the lease, if any.
    """

    experiment_id: str
    trial_id: int
    config_id: int
    tunables: TunableGroups
    parameters: Mapping[str, Value] = field(default_factory=lambda: _EMPTY)
    status: Status = Status.PENDING
    attempt: int = 0
    token: int = 0
    owner: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTrial:
    """A trial to be added.

    :ivar priority: higher ones are claimed first; default 0.
    :ivar not_before: do not start earlier; default at once.
    """

    tunables: TunableGroups
    parameters: Mapping[str, Value] = field(default_factory=lambda: _EMPTY)
    priority: int = 0
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRecord:
    """A trial as it is read back for people: what was run, where, when, and what came of it."""

    trial_id: int
    config_id: int
    status: Status
    attempt: int
    config: Mapping[str, Any]
    metrics: Mapping[str, Any] | None
    failure: str | None
    host: str | None
    started: datetime | None
    ended: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long each part of a trial may take; None means no limit.

    :ivar teardown: also the grace that clean-up gets when a trial is cancelled.
    :ivar status: one poll of ``Environment.status``.
    :ivar trial: set-up and run together.
    :ivar experiment: one session of the whole experiment; the trials that run then are TIMED_OUT.
    """

    setup: timedelta | None = None
    run: timedelta | None = None
    teardown: timedelta = timedelta(seconds=30)
    status: timedelta = timedelta(seconds=10)
    trial: timedelta | None = None
    experiment: timedelta | None = None


class OutlierHost(NamedTuple):
    """A host whose results differ from those of others with the same configurations.

    :ivar runs: how many of its results were compared.
    :ivar deviation: how far its results lie from those of others, in their robust standard deviations; above
        zero if they are larger.
    """

    host: str
    runs: int
    deviation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoPoint:
    """A configuration such that any that is better in one objective is worse in another.

    :ivar trials: how many of its trials succeeded.
    :ivar scores: metric → its score over those trials, for every objective.
    """

    config_id: int
    config: Mapping[str, Any]
    trials: int
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """An experiment at the end of a session; the counts are over all its sessions.

    :ivar objectives: metric → direction, the most important first.
    :ivar best: the best trial of the configuration with the best mean of the first objective, or of all of
        them if they have weights; see ``Experiment.best``.
    :ivar pareto: with several objectives, the configurations that no other beats in all of them, in order of
        the first objective; see ``Experiment.pareto``.
    :ivar failed: trials that failed or timed out.
    :ivar aborted: of the canceled ones, those that a pruner stopped; nothing more is to be done for them.
    :ivar interrupted: whether the session was stopped before the experiment was complete.
    :ivar teardowns_cut: whether the session was stopped without waiting for teardowns: they may have left
        something behind.
    :ivar stopped_by: which budget or time limit ended the session early; None if none did.
    :ivar stopped_because: the same in words.
    :ivar outlier_hosts: hosts whose results are not to be trusted; looked for with adaptive repeats only.
    """

    experiment_id: str
    objectives: Mapping[str, Direction]
    best: TrialRecord | None
    pareto: tuple[ParetoPoint, ...] = ()
    trials: int
    pending: int
    running: int
    succeeded: int
    failed: int
    canceled: int
    aborted: int = 0
    interrupted: bool = False
    teardowns_cut: bool = False
    stopped_by: StopKind | None = None
    stopped_because: str | None = None
    outlier_hosts: tuple[OutlierHost, ...] = ()
