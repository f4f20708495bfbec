"""What the contract tests of a storage share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from windtunnel.model import Direction, NewTrial, RunResult, Sample, Status, Trial
from windtunnel.storage import Experiment, Storage, open_storage
from windtunnel.tunables import TunableGroups

__all__ = [
    "LEASE",
    "TARGETS",
    "TUNABLES",
    "Clock",
    "StorageFixtures",
    "at",
    "claim_one",
    "ended",
    "new",
    "point",
]

LEASE = timedelta(seconds=60)
TARGETS: dict[str, Direction] = {"score": "min"}
TUNABLES = TunableGroups(
    {
        "cache": {"cost": 1, "params": {"size": {"type": "int", "range": [0, 100_000], "default": 1}}},
        "journal": {"params": {"mode": {"type": "categorical", "values": ["a", "ü"], "default": "a"}}},
    }
)
_NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """A time, counted from one that never changes."""
    return _NOON + timedelta(seconds=seconds)


class Clock:
    """The time the database counts leases in, moved by hand.

    :ivar now: starts at ``at(0)``.
    """

    def __init__(self) -> None:
        self.now = at(0)

    def advance(self, by: timedelta) -> None:
        self.now += by

    def now_us(self, _connection: object) -> int:
        """Replaces ``storage.clock.now_us``."""
        return (self.now - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def new(size: int = 1, *, priority: int = 0, not_before: datetime | None = None) -> NewTrial:
    """A trial to be added."""
    return NewTrial(tunables=TUNABLES.assign({"size": size}), priority=priority, not_before=not_before)


def ended(
    score: object = 1.0, *, status: Status = Status.SUCCEEDED, seconds: float = 1, **more: object
) -> RunResult:
    """An outcome; without metrics if it is no success."""
    metrics = {"score": score, **more} if status is Status.SUCCEEDED else None
    return RunResult(status, at(seconds), metrics)


async def claim_one(experiment: Experiment, owner: str = "w1") -> Trial:
    """The next trial."""
    (trial,) = await experiment.claim(owner, limit=1, lease=LEASE)
    return trial


def point(seconds: float, metric: str, value: float | str) -> Sample:
    """A point of telemetry."""
    return Sample(at(seconds), metric, value)


class StorageFixtures:
    """A storage that is open, an experiment in it, and its clock. A subclass gives ``url``."""

    @pytest.fixture
    def url(self) -> str:
        """The database under test, empty."""
        raise NotImplementedError("a subclass of StorageContract gives the fixture 'url'")

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Clock:
        clock = Clock()
        monkeypatch.setattr("windtunnel.storage.clock.now_us", clock.now_us)
        return clock

    @pytest.fixture
    async def storage(self, url: str, clock: Clock) -> AsyncIterator[Storage]:
        async with open_storage(url) as storage:
            yield storage

    @pytest.fixture
    async def experiment(self, storage: Storage) -> AsyncIterator[Experiment]:
        async with storage.experiment(
            experiment_id="e", tunables=TUNABLES, opt_targets=TARGETS
        ) as experiment:
            yield experiment
