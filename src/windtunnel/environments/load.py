"""A load test as an environment: the client's side of a trial."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from pydantic import ConfigDict, Field

from windtunnel.environments.base import CommonOptions, Environment
from windtunnel.environments.hosts import THIS_MACHINE, hosts_of, remote_service
from windtunnel.errors import ConfigError, EnvironmentFailed, LoadFailed
from windtunnel.loadgen.plan import LoadPlan, needs_consent
from windtunnel.loadgen.thresholds import Threshold
from windtunnel.model import RunResult, Sample, Status, utc_now
from windtunnel.options import REFERENCE, expand, parse_options
from windtunnel.protocols import FileShare, RemoteExec, RemotePipes

if TYPE_CHECKING:
    from windtunnel.loadgen.generator import Place
    from windtunnel.loadgen.result import Result, SecondRecord

__all__ = ["LoadEnv", "LoadOptions"]

_GENERATORS = "windtunnel.loadgen.generators"
"""Loaded on use: it needs an extra, and takes longer than the event loop may stand still."""
_PERCENTILES = ("p50", "p90", "p99", "p999", "p9999", "max", "mean")


class LoadOptions(CommonOptions):
    """The ``config`` of a LoadEnv."""

    model_config = ConfigDict(extra="forbid")

    load: dict[str, Any] = Field(
        description="the load test: url, rate, duration, …, as for 'windtunnel load'; $name expands"
    )
    on: str | None = Field(
        default=None, min_length=1, description="role whose hosts put the load; default this machine"
    )
    slo: tuple[str, ...] = Field(
        default=(), description="limits such as p99<50ms or errors<1%, for rate_within_slo; default none"
    )
    keep_invalid: bool = Field(
        default=False, description="whether a run that the generator was too slow for succeeds; default false"
    )


class LoadEnv(Environment):
    """Puts a target under load. Its rate, as everything else in the plan, can be a tunable: ``rate: $rate``.

    With ``on``, it is the hosts of that role of a trial that do so, together, over SSH: ``hosts_per_trial``.

    Metrics are percentiles of the latency from the intended start (``p50_ms`` to ``p9999_ms``, ``max_ms``,
    ``mean_ms``), ``rate``, ``sent``, ``completed``, ``errors``, ``error_rate``, ``unsent``, ``held_back`` and
    ``schedule_error_p99_ms``. With ``slo`` there are ``slo_kept``, 1 or 0, and ``rate_within_slo``, 0 if a
    limit was missed. Telemetry has the same of each second, and at the end ``latency_histogram``: all
    latencies in ns as HdrHistogram's compressed base64, which merge exactly.
    """

    options_class = LoadOptions
    options: LoadOptions

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        known = {**self._globals, **self._params, **self._tunables}
        self._slo = tuple(map(_limit, range(len(self.options.slo)), self.options.slo))
        if self.options.on is not None:
            for protocol in (RemoteExec, RemotePipes, FileShare):
                remote_service(self._services, protocol, asker="LoadEnv with on")
            hosts_of(self.options.on, known)
        if _references(self.options.load) <= known.keys():  # otherwise it is checked when it is set up
            self._plan(known)

    async def _setup(self) -> None:
        self._plan({**self._overlay, **self._params})

    async def _run(self) -> RunResult:
        generators = await anyio.to_thread.run_sync(importlib.import_module, _GENERATORS)
        places = await anyio.to_thread.run_sync(self._places)
        raw = _expanded(self.options.load, {**self._overlay, **self._params})
        directory = Path(str(self._overlay.get("config_dir", ".")))
        try:
            result: Result = await generators.run_load(
                raw, directory=directory, watch=self._tell, places=places, thresholds=self._slo
            )
        except LoadFailed as exc:
            raise EnvironmentFailed(f"run failed: {exc}") from exc
        await self._emit([Sample(utc_now(), "latency_histogram", result.histogram)])
        if result.invalid_because and not self.options.keep_invalid:
            reasons = "; ".join(result.invalid_because)
            raise EnvironmentFailed(f"run failed: the load is not what it was to be: {reasons}")
        if not result.total.latency.count:
            told = "; ".join(f"{kind}: {message}" for kind, message in result.total.messages.items())
            raise EnvironmentFailed(f"run failed: nothing was answered; {told}")
        return RunResult(Status.SUCCEEDED, utc_now(), _metrics(result))

    def _places(self) -> list[Place]:
        from windtunnel.loadgen.generator import ThisMachine
        from windtunnel.loadgen.remote import OtherHost

        if self.options.on is None:
            return [ThisMachine()]
        return [
            ThisMachine()
            if host["host_address"] == THIS_MACHINE
            else OtherHost(str(host["host"]), self._services)
            for host in hosts_of(self.options.on, self._overlay)
        ]

    def _plan(self, names: Mapping[str, Any]) -> LoadPlan:
        plan = parse_options(LoadPlan, _expanded(self.options.load, names), path=("config", "load"))
        if (reason := needs_consent(plan)) is not None:
            raise ConfigError(
                f"this load has to be confirmed: {reason}; say confirmed: true", path=("config", "load")
            )
        return plan

    async def _tell(self, second: SecondRecord) -> None:
        values: dict[str, float | None] = {
            "rate_sent": second.sent,
            "rate": second.completed,
            "errors": sum(second.errors.values()),
            "in_flight": second.in_flight,
            "held_back": second.held,
            "schedule_error_p99_ms": second.late_ms,
            **{f"{name}_ms": second.latency_ms[name] for name in _PERCENTILES},
        }
        now = utc_now()
        await self._emit([Sample(now, name, value) for name, value in values.items() if value is not None])


def _limit(number: int, text: str) -> Threshold:
    try:
        return Threshold.parse(text)
    except ConfigError as exc:
        raise exc.within("config", "slo", number) from None


def _metrics(result: Result) -> dict[str, float | int]:
    data = result.as_data()
    kept = not result.missed
    within = {"slo_kept": int(kept), "rate_within_slo": data["rate"] if kept else 0.0}
    return {
        **(within if result.thresholds else {}),
        **{f"{name}_ms": data["latency_ms"][name] for name in _PERCENTILES},
        "rate": data["rate"],
        "sent": data["sent"],
        "completed": data["completed"],
        "errors": data["errors"],
        "error_rate": result.error_rate,
        "unsent": result.unsent,
        "held_back": data["held_back"],
        "schedule_error_p99_ms": result.schedule_error_ms,
    }


def _references(value: object) -> set[str]:
    return {match["name"] for text in _texts(value) for match in REFERENCE.finditer(text) if match["name"]}


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)


def _expanded(value: Any, names: Mapping[str, Any]) -> Any:
    """With ``$name`` replaced by parameters; what is exactly one has its type. Names of the data stay."""
    if isinstance(value, str):
        whole = REFERENCE.fullmatch(value)
        if whole and whole["name"] in names:
            return names[whole["name"]]
        return expand(value, names, missing_ok=True)
    if isinstance(value, Mapping):
        return {key: _expanded(inner, names) for key, inner in value.items()}
    return [_expanded(inner, names) for inner in value] if isinstance(value, list) else value
