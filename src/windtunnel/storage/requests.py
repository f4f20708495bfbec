"""What the writes of ``queries.py`` take and give: plain values in terms of columns, safe to apply again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Addition", "Claim", "Claimed", "Completion", "Extension", "NewRow", "Points", "Release", "Row"]


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


class Release(NamedTuple):
    experiment: int
    trial_id: int
    token: int
    reason: str
