"""What a scheduler is doing at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from windtunnel.model import Status

__all__ = ["RunningTrial", "Snapshot", "State"]

State = Literal["new", "running", "stopping", "ended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTrial:
    """A trial that this worker holds.

    :ivar step: ``waiting`` for a slot, ``setup``, ``run``, ``abort``, ``teardown`` or ``storing``.
    :ivar host: None while it waits for a slot.
    """

    trial_id: int
    config_id: int
    attempt: int
    step: str
    since: datetime
    host: str | None = None
    runner_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One worker's view of its experiment; counts of things that happened are since it began.

    :ivar owner: this worker's name in the database.
    :ivar leads: whether this worker runs the experiment's optimizer.
    :ivar target: how many trials the experiment shall have.
    :ivar total: how many it has, as far as this worker knows; likewise ``pending``.
    :ivar finished: outcomes stored by this worker: status → number.
    :ivar retried: attempts of this worker that were queued again.
    :ivar aborted: trials that a pruner stopped.
    :ivar stale_refused: outcomes that came too late, after the lease was lost, and were refused.
    :ivar lost: trials cancelled here because their lease was lost, or they were canceled from outside.
    :ivar heartbeat_age_s: seconds since the leases were last renewed; None before the first time.
    :ivar samples_buffered: telemetry that waits to be written; likewise written and refused.
    :ivar quarantined: hosts that get no trials now → until when.
    :ivar events_dropped: events that slow subscribers have missed, over all of them.
    """

    experiment_id: str
    owner: str
    state: State
    leads: bool
    target: int
    total: int
    pending: int
    slots: int
    slots_free: int
    running: tuple[RunningTrial, ...] = ()
    finished: Mapping[Status, int] = field(default_factory=dict)
    retried: int = 0
    aborted: int = 0
    stale_refused: int = 0
    lost: int = 0
    heartbeat_age_s: float | None = None
    samples_buffered: int = 0
    samples_written: int = 0
    samples_refused: int = 0
    events_dropped: int = 0
    quarantined: Mapping[str, datetime] = field(default_factory=dict)
