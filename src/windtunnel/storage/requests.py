"""What adding, claiming and ending trials take and give: in terms of columns, safe to apply again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from windtunnel.model import Status

__all__ = [
    "INTERRUPTED",
    "Addition",
    "Claim",
    "Claimed",
    "Completion",
    "EndedAttempt",
    "Extension",
    "NewRow",
    "Points",
    "Release",
    "Row",
]


INTERRUPTED = "interrupted"
"""The failure text of a trial that was canceled as its scheduler stopped: it is queued again on resume."""

Row = tuple[int, int, float | None, str | None]
"""A point: ts_us, metric_id, number, text."""


class NewRow(NamedTuple):
    digest: str
    params: str
    parameters: str | None
    priority: int
    not_before_us: int | None


class Addition(NamedTuple):
    experiment: int
    rows: Sequence[NewRow]
    at_most: int | None = None
    suggested: int = 0
    leader: str | None = None


class Claim(NamedTuple):
    experiment: int
    owner: str
    limit: int
    lease_us: int


class Claimed(NamedTuple):
    trial_id: int
    config_id: int
    parameters: str | None
    priority: int
    attempt: int
    token: int
    params: str


class Extension(NamedTuple):
    experiment: int
    owner: str
    lease_us: int


class Points(NamedTuple):
    experiment: int
    trial_id: int
    attempt: int
    token: int
    rows: Sequence[Row]


class Completion(NamedTuple):
    experiment: int
    trial_id: int
    token: int
    status: int
    ended_us: int
    metrics: str | None
    score: float | None
    failure: str | None
    host: str | None
    failure_kind: str | None = None


class EndedAttempt(NamedTuple):
    """What is kept of an attempt that did not end its trial.

    :ivar host: None where the trial's row says it, if anything does.
    """

    reason: str
    status: int = Status.CANCELED.value
    failure_kind: str | None = None
    host: str | None = None


class Release(NamedTuple):
    """Puts a held trial back into the queue.

    :ivar after_us: it is claimed no earlier than this long after the release.
    :ivar attempt: what becomes of the attempt that ends.
    """

    experiment: int
    trial_id: int
    token: int
    after_us: int
    attempt: EndedAttempt
