"""A system under test that does nothing: for trying out everything else."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Annotated

import anyio
from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from windtunnel.environments.base import CommonOptions, Environment
from windtunnel.errors import EnvironmentFailed
from windtunnel.model import RunResult, Sample, Status, utc_now
from windtunnel.options import Also, Duration, parse_duration
from windtunnel.tunables import Tunable, TunableValue

__all__ = ["MockEnv", "MockOptions"]

_NOISE = 0.2


def _parse_wait(value: object) -> timedelta:
    return timedelta(0) if value in (0, timedelta(0)) else parse_duration(value)


class MockOptions(CommonOptions):
    """The ``config`` of a MockEnv."""

    model_config = ConfigDict(extra="forbid")

    mock_env_seed: int | None = Field(
        default=None, description="seed of the noise; default, and -1, no noise"
    )
    mock_env_range: tuple[float, float] = Field(default=(0.0, 1.0), description="range of the metrics")
    mock_env_metrics: tuple[str, ...] = Field(default=("score",), description="names of the metrics")
    duration: Annotated[Duration, BeforeValidator(_parse_wait), Also({"const": 0})] = Field(
        default=timedelta(0), description="how long a run takes; default 0"
    )
    telemetry: int = Field(default=0, ge=0, description="samples emitted during a run; default 0")
    fail: float = Field(
        default=0.0, ge=0, le=1, description="probability that a run fails; true is 1; default 0"
    )
    fail_setup: bool = Field(default=False, description="setup fails; default false")
    hang: bool = Field(default=False, description="a run does not end until it is cancelled; default false")

    @model_validator(mode="after")
    def _check_range(self) -> MockOptions:
        low, high = self.mock_env_range
        if not low < high:
            raise ValueError(f"mock_env_range must rise, found [{low!r}, {high!r}]")
        return self


class MockEnv(Environment):
    """Gives scores that depend on the tunables alone, or with noise on the seed, the tunables and the trial.

    The score is the mean of the squared positions of the tunables in their ranges, so that lower is better
    and all tunables matter.
    """

    options_class = MockOptions
    options: MockOptions

    @property
    def metrics(self) -> frozenset[str] | None:
        return frozenset(self.options.mock_env_metrics)

    async def _setup(self) -> None:
        if self.options.fail_setup:
            raise EnvironmentFailed("setup failed, as fail_setup asks")

    async def _run(self) -> RunResult:
        options = self.options
        trial = f"{options.mock_env_seed} {self._overlay.get('trial_id')} {self._params!r}"
        chance = random.Random(trial)  # noqa: S311 - nothing secret
        score = self._score(chance)
        pause = options.duration.total_seconds() / (options.telemetry + 1)
        for _ in range(options.telemetry):
            await anyio.sleep(pause)
            await self._emit([Sample(utc_now(), metric, score) for metric in options.mock_env_metrics])
        await anyio.sleep(pause)
        if options.hang:
            await anyio.sleep_forever()
        if chance.random() < options.fail:
            raise EnvironmentFailed(f"run failed, as fail: {options.fail:g} asks")
        return RunResult(Status.SUCCEEDED, utc_now(), dict.fromkeys(options.mock_env_metrics, score))

    def _score(self, chance: random.Random) -> float:
        positions = [
            _position(self._tunables.tunable(name), value) ** 2 for name, value in self._tunables.items()
        ]
        score = sum(positions) / len(positions) if positions else 0.0
        if self.options.mock_env_seed not in (None, -1):
            score += chance.gauss(0, _NOISE)
        low, high = self.options.mock_env_range
        return low + (high - low) * min(max(score, 0.0), 1.0)


def _position(tunable: Tunable, value: TunableValue) -> float:
    """Where a value lies in its domain, from 0 to 1; a special value outside of it is at its end."""
    if isinstance(value, str) or tunable.range is None:
        last = len(tunable.values) - 1
        return tunable.values.index(str(value)) / last if last else 0.0
    low, high = tunable.range
    return min(max((value - low) / (high - low), 0.0), 1.0)
