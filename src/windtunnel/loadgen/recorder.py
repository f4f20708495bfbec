"""What one generator has seen since it last told: counts, latencies and its own faults."""

from __future__ import annotations

import enum
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from windtunnel.loadgen.histogram import Histogram

__all__ = ["ErrorKind", "Recorder", "Window"]

_MESSAGE = 300


class ErrorKind(enum.StrEnum):
    """Why a request counts as an error."""

    CONNECT = "connect"
    """No connection: the name, the port, TLS or a certificate. Nothing was sent."""
    TIMEOUT = "timeout"
    """No whole answer in time."""
    RESET = "reset"
    """The connection ended before the answer did."""
    PROTOCOL = "protocol"
    """The answer is not HTTP."""
    STATUS = "status"
    """The answer's status is 400 or above, or not the one that was to be."""
    CHECK = "check"
    """The answer is not what the checks want."""
    EXCEPTION = "exception"
    """The user's function raised."""


@dataclass(slots=True, kw_only=True)
class Window:
    """What happened in a stretch of time, in one generator or in several.

    :ivar second: the number of the second of the run it belongs to; -1 while warming up.
    :ivar begun: requests that were begun, also those for which no connection could be made.
    :ivar held: those begun late because as many as allowed were in flight.
    :ivar in_flight: when the window ended.
    :ivar received: bytes.
    :ivar cpu_s: processor time of the generators; of the busiest one in ``busiest_cpu_s``.
    :ivar latency: of answers and of timeouts, in ns from the intended start; by name of the step in
        ``steps``.
    :ivar lateness: how many ns after their intended start requests were begun, without what held them back.
    """

    second: int = 0
    begun: int = 0
    held: int = 0
    in_flight: int = 0
    received: int = 0
    elapsed_s: float = 0.0
    cpu_s: float = 0.0
    busiest_cpu_s: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)
    latency: Histogram = field(default_factory=Histogram)
    lateness: Histogram = field(default_factory=Histogram)
    steps: dict[str, Histogram] = field(default_factory=dict)

    @property
    def sent(self) -> int:
        """Requests that were written to a connection."""
        return max(self.begun - self.errors[ErrorKind.CONNECT], 0)

    @property
    def completed(self) -> int:
        """Requests with a whole answer, whatever it says."""
        return self.latency.count - self.errors[ErrorKind.TIMEOUT]

    def merge(self, other: Window, *, later: bool = False) -> None:
        """Add another one.

        :param later: of the same generators at a later time; otherwise of others at the same time.
        """
        self.begun += other.begun
        self.held += other.held
        self.received += other.received
        self.cpu_s += other.cpu_s
        self.errors.update(other.errors)
        self.messages |= other.messages
        self.latency.merge(other.latency)
        self.lateness.merge(other.lateness)
        for name, histogram in other.steps.items():
            self.steps.setdefault(name, Histogram()).merge(histogram)
        if later:
            self.in_flight = other.in_flight
            self.elapsed_s += other.elapsed_s
            self.busiest_cpu_s += other.busiest_cpu_s
        else:
            self.in_flight += other.in_flight
            self.elapsed_s = max(self.elapsed_s, other.elapsed_s)
            self.busiest_cpu_s = max(self.busiest_cpu_s, other.busiest_cpu_s)

    def as_data(self) -> dict[str, Any]:
        """As plain values for JSON; see ``of``."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        steps = {name: histogram.as_data() for name, histogram in self.steps.items()}
        histograms = {"latency": self.latency.as_data(), "lateness": self.lateness.as_data(), "steps": steps}
        return {**plain, **histograms}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Window:
        """What ``as_data`` gave."""
        made = {
            "errors": Counter(data["errors"]),
            "latency": Histogram.of(data["latency"]),
            "lateness": Histogram.of(data["lateness"]),
            "steps": {name: Histogram.of(one) for name, one in data["steps"].items()},
        }
        return cls(**{**data, **made})


_HISTOGRAMS = ("latency", "lateness", "steps")
_PLAIN = [one.name for one in fields(Window) if one.name not in _HISTOGRAMS]


class Recorder:
    """Takes notes while requests run: in plain lists, since each note is on a request's way.

    Call ``flush`` often: the lists hold what came since.

    :ivar measured_from: requests that were to start before this time only warm up: their ends are not noted.
    :ivar lateness: one entry for each request that nothing but ourselves kept from starting when it was due.
    :ivar unscheduled: how many others were begun.
    :ivar held: how many of all were held back.
    """

    def __init__(self) -> None:
        self.measured_from = 0
        self.lateness: list[int] = []
        self.unscheduled = 0
        self.held = 0
        self._latencies: dict[str, list[int]] = {"": []}
        self._window = Window()
        self._since_ns = time.monotonic_ns()
        self._cpu_ns = time.process_time_ns()

    def latencies_of(self, step: str) -> list[int]:
        """Where to append the latencies of a step of this name; it stays the same list."""
        return self._latencies.setdefault(step, [])

    def failed(self, kind: ErrorKind, due: int, message: str) -> None:
        """Note that a request failed; what its answer took is noted apart.

        :param due: when it was to start.
        """
        if due < self.measured_from:
            return
        self._window.errors[kind] += 1
        self._window.messages.setdefault(kind, message[:_MESSAGE])
        if kind is ErrorKind.TIMEOUT:
            self._latencies[""].append(time.monotonic_ns() - due)

    def restart(self, now: int) -> None:
        """What is noted from now on counts from this time."""
        self._since_ns = now
        self._cpu_ns = time.process_time_ns()

    def flush(self) -> None:
        """Count what was appended to the lists."""
        window = self._window
        for name, values in self._latencies.items():
            if not values:
                continue
            window.latency.record(values)
            if name:
                window.steps.setdefault(name, Histogram()).record(values)
            values.clear()
        window.begun += len(self.lateness) + self.unscheduled
        window.lateness.record(self.lateness)
        self.lateness.clear()
        self.unscheduled = 0

    def take(self, second: int, *, in_flight: int, received: int) -> Window:
        """All since the last call."""
        self.flush()
        now, cpu = time.monotonic_ns(), time.process_time_ns()
        taken, self._window = self._window, Window()
        taken.second = second
        taken.in_flight = in_flight
        taken.received = received
        taken.held, self.held = self.held, 0
        taken.elapsed_s, self._since_ns = (now - self._since_ns) / 1e9, now
        taken.cpu_s, self._cpu_ns = (cpu - self._cpu_ns) / 1e9, cpu
        taken.busiest_cpu_s = taken.cpu_s
        return taken
