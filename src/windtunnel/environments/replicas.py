"""The same environment on several hosts of one trial."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from windtunnel.environments.base import Environment
from windtunnel.environments.commands import Commands, in_order
from windtunnel.environments.hosts import hosts_of
from windtunnel.environments.together import RunEnded, at_once, ran
from windtunnel.errors import EnvironmentFailed
from windtunnel.model import RunResult, Sample, Status, StatusReport, Value, utc_now
from windtunnel.options import Also
from windtunnel.protocols import TelemetrySink
from windtunnel.tunables import TunableGroups

__all__ = ["ALL", "Aggregates", "Replicas"]

ALL = "*"
"""Stands for every metric that has no aggregate of its own."""

_AGGREGATES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "sum": sum,
    "min": min,
    "max": max,
}

Aggregates = Annotated[
    dict[str, Literal["mean", "sum", "min", "max"]],
    BeforeValidator(lambda value: {ALL: value} if isinstance(value, str) else value),
    Also({"enum": list(_AGGREGATES)}),
]
"""Metric → how one value is made of those of all hosts; a single word is for all metrics."""


class Replicas(Environment):
    """Environments of one kind, each on a host of its own: every step is taken on all hosts at the same time.

    Metrics and telemetry get the host's index at the end, from 0: ``qps.0``, ``qps.1``. A metric for which
    there is an aggregate has its plain name too, if all hosts report a number. The first replica that fails
    ends the step on the others; abort and teardown go on.

    :param replicas: at least one, by the index of their host.
    :param role: of the hosts.
    """

    def __init__(self, replicas: Sequence[Environment], *, role: str, aggregates: Aggregates) -> None:
        self._replicas = tuple(replicas)
        self._role = role
        self._offered = TunableGroups({})
        self._aggregates = aggregates
        super().__init__(name=f"{replicas[0].name} on {role}", config={})
        for index, replica in enumerate(replicas):
            replica.name = f"{replica.name}.{index}"
        self._tunables = replicas[0].tunable_params
        self._params = replicas[0].parameters

    def parameters_for(
        self, tunables: TunableGroups, global_config: Mapping[str, Any] | None = None
    ) -> dict[str, Value]:
        return self._replicas[0].parameters_for(tunables, global_config)

    def commands(
        self, tunables: TunableGroups, global_config: Mapping[str, Any] | None = None
    ) -> list[Commands]:
        overlay = self._overlaid(global_config)
        hosts = hosts_of(self._role, overlay)
        return in_order(
            [
                replica.commands(tunables, {**overlay, **host})
                for replica, host in zip(self._replicas, hosts, strict=True)
            ]
        )

    @property
    def is_polled(self) -> bool:
        return any(replica.is_polled for replica in self._replicas)

    def printed(self, step: str) -> str:
        return "".join(replica.printed(step) for replica in self._replicas)

    def pprint(self, indent: int = 4, level: int = 0) -> str:
        lines = [super().pprint(indent, level)]
        lines += [replica.pprint(indent, level + 1) for replica in self._replicas]
        return "\n".join(lines)

    def attach(self, sink: TelemetrySink | None) -> None:
        super().attach(sink)
        for index, replica in enumerate(self._replicas):
            replica.attach(None if sink is None else _Indexed(sink, index))

    async def setup(self, tunables: TunableGroups, global_config: dict[str, Any] | None = None) -> bool:
        self._offered = tunables
        if not await super().setup(tunables, global_config):
            return False
        await self._setup()  # when nothing was to be done, the replicas have yet to hear of the new trial
        return True

    async def _setup(self) -> None:
        hosts = hosts_of(self._role, self._overlay)
        await at_once(
            [
                partial(self._set_up, replica, {**self._overlay, **host})
                for replica, host in zip(self._replicas, hosts, strict=True)
            ]
        )

    async def _set_up(self, replica: Environment, seen: dict[str, Any]) -> None:
        if not await replica.setup(self._offered, seen):
            raise EnvironmentFailed(f"{replica.name}: {replica.failure}")

    async def _run(self) -> RunResult:
        try:
            found = await at_once([partial(ran, replica) for replica in self._replicas])
        except RunEnded as exc:
            self._failure = exc.failure
            return exc.result
        return RunResult(Status.SUCCEEDED, utc_now(), self._merged(found))

    def _merged(self, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        merged = {
            _indexed(metric, index): value
            for index, metrics in enumerate(found)
            for metric, value in metrics.items()
        }
        for metric in found[0]:
            how = self._aggregates.get(metric, self._aggregates.get(ALL))
            values = [metrics.get(metric) for metrics in found]
            if how is not None and (numbers := _numbers(values)):
                merged[metric] = _AGGREGATES[how](numbers)
        return merged

    async def _status(self) -> StatusReport:
        own = await super()._status()
        reports = await at_once([replica.status for replica in self._replicas])
        bad = [report.status for report in reports if not report.status.is_good]
        telemetry = [
            sample
            for index, report in enumerate(reports)
            for sample in _renamed(StatusReport.of(report).telemetry, index)
        ]
        return StatusReport(bad[0] if bad else own.status, own.timestamp, telemetry)

    async def _abort(self) -> None:
        await at_once([replica.abort for replica in self._replicas], all_end=True)

    async def _teardown(self) -> None:
        await at_once([replica.teardown for replica in self._replicas], all_end=True)


class _Indexed:
    """A telemetry sink for the samples of one replica."""

    def __init__(self, sink: TelemetrySink, index: int) -> None:
        self._sink = sink
        self._index = index

    async def emit(self, metric: str, value: float | str, timestamp: datetime | None = None) -> None:
        await self._sink.emit(_indexed(metric, self._index), value, timestamp)

    async def emit_many(self, samples: Iterable[Sample]) -> None:
        await self._sink.emit_many(_renamed(samples, self._index))


def _indexed(metric: str, index: int) -> str:
    return f"{metric}.{index}"


def _renamed(samples: Iterable[Sample], index: int) -> list[Sample]:
    return [sample._replace(metric=_indexed(sample.metric, index)) for sample in samples]


def _numbers(values: Sequence[Any]) -> list[float]:
    """The values if all are numbers, else none."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return numbers if len(numbers) == len(values) else []
