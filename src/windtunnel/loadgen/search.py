"""Load tests at rising rates, until the highest that keeps its limits is known."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from windtunnel.errors import ConfigError
from windtunnel.loadgen.capacity import Capacity, Step, capacity, knee, next_rate
from windtunnel.loadgen.generator import Place, ThisMachine
from windtunnel.loadgen.generators import Watcher, run_load
from windtunnel.loadgen.result import Result
from windtunnel.loadgen.thresholds import Threshold

__all__ = ["Found", "Tried", "find_max_rate"]

_FIRST_RATE = 100.0
_DURATION = "5s"
_PATIENCE = 3
"""How often a run that says nothing is repeated."""


class Tried(NamedTuple):
    """One run of the search.

    :ivar kept: whether the limits were kept.
    :ivar valid: whether that is the target's doing; see ``Result.is_telling``.
    :ivar latency_ms: percentiles, None where nothing was answered.
    """

    rate: float
    kept: bool
    valid: bool
    latency_ms: Mapping[str, float | None]


class Found(NamedTuple):
    """What is known when a search ends.

    :ivar knee: the rate at which the p99 bends upwards most, if that can be said.
    :ivar problem: why it could not go on; empty if it ended well.
    """

    capacity: Capacity
    knee: float | None
    tried: Sequence[Tried]
    problem: str = ""

    def as_data(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "max_rate": self.capacity.rate,
            "interval": [self.capacity.low, self.capacity.high],
            "knee": self.knee,
            "problem": self.problem or None,
            "steps": [one._asdict() for one in self.tried],
        }


async def find_max_rate(
    raw: Mapping[str, Any],
    limits: Sequence[Threshold],
    *,
    directory: Path,
    tried: Sequence[Tried] = (),
    watch: Watcher | None = None,
    on_step: Callable[[Tried, Result], Awaitable[None]],
    stop: anyio.Event | None = None,
    most: int = 15,
    places: Sequence[Place] = (ThisMachine(),),
) -> Found:
    """Search for the highest rate at which all limits are kept.

    :param raw: a plan whose ``rate`` is where to begin, 100 if it has none; each run has its ``duration``,
        5 s if it has none.
    :param tried: what an earlier search has found out.
    :param on_step: called after each run.
    :param most: how many runs, those of earlier searches included.
    :param stop: ends the search; the run that is under way does not count.
    :param places: where the generators are.
    :raises ConfigError: if the plan is wrong or is none of an open loop, or there is no limit.
    :raises LoadFailed: if the target cannot be reached.
    """
    if not limits:
        raise ConfigError("a search for the highest rate needs to know what is to be kept: --slo 'p99<50ms'")
    if any(raw.get(name) is not None for name in ("users", "profile", "trace")):
        raise ConfigError("a search for the highest rate takes a rate, no users, profile or trace")
    seen = [one for one in tried if one.valid]
    in_vain, problem = 0, ""
    start = float(raw.get("rate") or _FIRST_RATE)
    while (rate := next_rate([Step(one.rate, one.kept) for one in seen], start=start, most=most)) is not None:
        plan = {"duration": _DURATION, **raw, "rate": rate}
        result = await run_load(
            plan, directory=directory, watch=watch, thresholds=limits, stop=stop, places=places
        )
        if result.ended_by:
            break
        is_telling = result.is_telling
        is_kept = is_telling and not result.missed
        step = Tried(rate, is_kept, is_telling, result.as_data()["latency_ms"])
        await on_step(step, result)
        if step.valid:
            seen.append(step)
        in_vain = 0 if step.valid else in_vain + 1
        if in_vain == _PATIENCE:
            problem = (
                f"at {rate:.5g} requests a second {in_vain} runs in a row say nothing of the target: "
                + "; ".join(result.invalid_because)
            )
            break
    return Found(capacity([Step(one.rate, one.kept) for one in seen]), knee(_p99(seen)), seen, problem)


def _p99(tried: Sequence[Tried]) -> dict[float, float]:
    return {one.rate: value for one in tried if (value := one.latency_ms["p99"]) is not None}
