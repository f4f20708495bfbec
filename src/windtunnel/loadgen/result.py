"""What came of a load test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from windtunnel.loadgen.clock import Clock
from windtunnel.loadgen.hdrlog import Interval, encoded
from windtunnel.loadgen.histogram import Histogram
from windtunnel.loadgen.recorder import Window
from windtunnel.loadgen.thresholds import Threshold

__all__ = ["LATE_MS", "Result", "percentiles_ms"]

LATE_MS = 1.0
"""A schedule error above it, at the 99th percentile, makes a run invalid."""

_SATURATED = 0.95
_SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "p9999": 0.9999, "max": 1.0}


class SecondRecord(NamedTuple):
    """One second of all generators, in some kilobytes.

    :ivar offered: requests due in it; None for a closed loop.
    :ivar latency_ms: percentiles, each None if nothing was answered.
    :ivar late_ms: the schedule error, p99.
    :ivar interval: all latencies, for a log.
    """

    second: int
    offered: int | None
    sent: int
    completed: int
    held: int
    in_flight: int
    errors: Mapping[str, int]
    latency_ms: Mapping[str, float | None]
    late_ms: float | None
    interval: Interval

    @classmethod
    def of(cls, window: Window, offered: int | None) -> Self:
        latency = window.latency
        return cls(
            second=window.second,
            offered=offered,
            sent=window.sent,
            completed=window.completed,
            held=window.held,
            in_flight=window.in_flight,
            errors={kind: count for kind, count in window.errors.items() if count},
            latency_ms=percentiles_ms(latency),
            late_ms=percentiles_ms(window.lateness)["p99"],
            interval=Interval(float(window.second), window.elapsed_s, latency.largest, encoded(latency)),
        )

    def as_data(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "second": self.second,
            "offered": self.offered,
            "sent": self.sent,
            "completed": self.completed,
            "errors": sum(self.errors.values()),
            "errors_by_class": dict(self.errors),
            "in_flight": self.in_flight,
            "held_back": self.held,
            "latency_ms": dict(self.latency_ms),
            "schedule_error_ms": {"p99": self.late_ms},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All generators together, the warm-up left out.

    :ivar total: everything.
    :ivar seconds: the same second by second.
    :ivar offered: how many requests the schedule has for this time; None for a closed loop.
    :ivar generators: how many there were; ``lost`` names those that died.
    :ivar clocks: how the clocks of those on other hosts stood to ours.
    :ivar ended_by: ``stopped``, or the limit that ended it early; empty if it ran to its end.
    """

    total: Window
    seconds: Sequence[SecondRecord] = ()
    offered: int | None = None
    generators: int = 1
    clocks: Mapping[str, Clock] = field(default_factory=dict)
    lost: Sequence[str] = ()
    ended_by: str = ""
    thresholds: Sequence[Threshold] = ()

    @property
    def unsent(self) -> int:
        """Requests that were due and that nobody began."""
        return 0 if self.offered is None else max(self.offered - self.total.begun, 0)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.total.completed / self.total.elapsed_s if self.total.elapsed_s else 0.0

    @property
    def histogram(self) -> str:
        """All latencies, as HdrHistogram's compressed base64."""
        return encoded(self.total.latency)

    @property
    def error_rate(self) -> float:
        """Share of what should have been sent that failed or was not sent, from 0 to 1."""
        return (self.total.errors.total() + self.unsent) / max(self.total.begun + self.unsent, 1)

    @property
    def schedule_error_ms(self) -> float:
        """Of 99 % of the requests: how late they were begun, not counting what the limit held back."""
        return self.total.lateness.quantile(0.99) / 1e6

    @property
    def busy(self) -> float:
        """Share of a core that the busiest generator used."""
        return self.total.busiest_cpu_s / self.total.elapsed_s if self.total.elapsed_s else 0.0

    @property
    def invalid_because(self) -> list[str]:
        """Why the figures are not to be trusted; empty if they are."""
        reasons = []
        if self.schedule_error_ms > LATE_MS:
            reasons.append(
                f"requests were begun {self.schedule_error_ms:.1f} ms late (p99, at most {LATE_MS:g} ms): "
                "the generator or its machine was too slow"
            )
        if self.busy > _SATURATED:
            reasons.append(
                f"the generator used {self.busy:.0%} of its core, so the figures may be its own; give it "
                "more workers"
            )
        if not self.total.begun:
            reasons.append("nothing was sent")
        reasons += [f"a generator was lost: {one}" for one in self.lost]
        return reasons

    @property
    def is_telling(self) -> bool:
        """Whether the verdict on the thresholds is the target's doing, even if the run is not valid.

        What was kept was kept: a generator that is late only adds to the latencies.
        """
        if self.lost or not self.missed:
            return not self.lost
        is_late_only = self.busy <= _SATURATED and self.total.begun > 0
        return not self.invalid_because or (
            is_late_only and any(one.is_missed_anyway(self.total) for one in self.missed)
        )

    @property
    def missed(self) -> list[Threshold]:
        """The thresholds that were not kept."""
        return [one for one in self.thresholds if not one.is_kept(self.total, unsent=self.unsent)]

    def as_data(self) -> dict[str, Any]:
        """For ``--json``."""
        total, reasons = self.total, self.invalid_because
        return {
            "rate": round(self.rate, 3),
            "duration_s": round(total.elapsed_s, 3),
            "offered": self.offered,
            "sent": total.sent,
            "completed": total.completed,
            "errors": total.errors.total(),
            "errors_by_class": {kind: count for kind, count in total.errors.items() if count},
            "error_messages": total.messages,
            "unsent": self.unsent,
            "held_back": total.held,
            "latency_ms": percentiles_ms(total.latency),
            "steps_latency_ms": {name: percentiles_ms(one) for name, one in total.steps.items()},
            "schedule_error_ms": percentiles_ms(total.lateness),
            "received_bytes": total.received,
            "cpu": round(self.busy, 3),
            "generators": self.generators,
            "clocks_ms": {name: one.as_data() for name, one in self.clocks.items()},
            "valid": not reasons,
            "invalid_because": reasons,
            "ended_by": self.ended_by or None,
            "thresholds": [one.as_data(total, unsent=self.unsent) for one in self.thresholds],
            "seconds": [one.as_data() for one in self.seconds],
        }


def percentiles_ms(histogram: Histogram) -> dict[str, float | None]:
    """Percentile → milliseconds, each null if there is nothing."""
    if not histogram.count:
        return dict.fromkeys([*_SHARES, "mean"])
    found = histogram.quantiles(_SHARES.values())
    values = {name: round(value / 1e6, 6) for name, value in zip(_SHARES, found, strict=True)}
    return {**values, "mean": round(histogram.mean / 1e6, 6)}
