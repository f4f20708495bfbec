"""Several environments as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from pydantic import ConfigDict, Field

from windtunnel.environments.base import CommonOptions, Environment
from windtunnel.environments.commands import Commands, in_order
from windtunnel.environments.hosts import hosts_of
from windtunnel.environments.replicas import Aggregates, Replicas
from windtunnel.environments.together import RunEnded, all_in_turn, at_once, ran
from windtunnel.errors import ConfigError, EnvironmentFailed
from windtunnel.model import RunResult, Status, StatusReport, Value, utc_now
from windtunnel.options import Options
from windtunnel.protocols import Services, TelemetrySink
from windtunnel.tunables import TunableGroups

__all__ = ["ChildOptions", "CompositeEnv", "CompositeOptions"]


class ChildOptions(Options):
    """One of the ``children`` of a CompositeEnv."""

    class_name: str = Field(alias="class", description="short name or dotted path")
    name: str | None = Field(default=None, description="for people; default the class")
    config: dict[str, Any] = Field(default_factory=dict, description="the child's own options")
    on: str | None = Field(
        default=None,
        min_length=1,
        description="role of hosts_per_trial on whose hosts it is, all of them; default the trial's $host",
    )
    aggregate: Aggregates = Field(
        default_factory=dict,
        description="of a metric over the hosts: mean, sum, min, max, or metric → one of them; default none",
    )


class CompositeOptions(CommonOptions):
    """The ``config`` of a CompositeEnv."""

    model_config = ConfigDict(extra="forbid")

    children: tuple[ChildOptions, ...] = Field(min_length=1, description="in the order of set-up")
    concurrent: bool = Field(
        default=False, description="run the children at the same time, not one after the other; default false"
    )


class CompositeEnv(Environment):
    """Sets its children up in order, runs them in order, and aborts them and tears them down in reverse.

    Children choose among all tunables. Each sees the globals, this environment's parameters and those of the
    children before it: they fill its ``required_args`` and the ``$name`` in its ``const_args``, and never
    override constants of its own. The first child that fails ends set-up and run. Metrics and telemetry are
    merged; where children report the same metric, the later one's value counts.

    A child that is ``on`` a role has the role's host for its ``$host``; with several, see ``Replicas``. One
    whose own options have ``on``, such as LoadEnv, takes the role as a whole.
    """

    options_class = CompositeOptions
    options: CompositeOptions

    def __init__(
        self,
        *,
        name: str,
        config: dict[str, Any],
        global_config: dict[str, Any] | None = None,
        tunables: TunableGroups | None = None,
        service: Services | None = None,
    ) -> None:
        self._children: list[Environment] = []
        self._offered = tunables or TunableGroups({})
        super().__init__(
            name=name, config=config, global_config=global_config, tunables=tunables, service=service
        )
        mistakes: list[ConfigError] = []
        for index, child in enumerate(self.options.children):
            try:
                made = self._made(child)
            except ConfigError as exc:
                mistakes.append(exc.within("config", "children", index))
                # What the others would have had of it is no mistake of theirs.
                self._params = {**child.config.get("const_args", {}), **self._params}
                continue
            self._children.append(made)
            self._params = {**made.parameters, **self._params}
        if mistakes:
            raise ConfigError.of(mistakes) from mistakes[0].__cause__
        self._tunables = self._selected(tunables or TunableGroups({}))

    def _made(self, child: ChildOptions) -> Environment:
        takes_role = child.on is not None and _takes_role(child.class_name)
        make = partial(
            Environment.new,
            env_name=child.name or child.class_name,
            class_name=child.class_name,
            config={**child.config, "on": child.on} if takes_role else child.config,
            tunables=self._offered,
            service=self._services,
        )
        seen = _seen_by(child, self._params, self._globals)
        if child.on is None or takes_role or len(hosts := hosts_of(child.on, self._globals)) == 1:
            return make(global_config=seen)
        replicas = [make(global_config={**seen, **host}) for host in hosts]
        return Replicas(replicas, role=child.on, aggregates=child.aggregate)

    @property
    def children(self) -> tuple[Environment, ...]:
        """In the order of set-up."""
        return tuple(self._children)

    def parameters_for(
        self, tunables: TunableGroups, global_config: Mapping[str, Any] | None = None
    ) -> dict[str, Value]:
        merged = super().parameters_for(tunables, global_config)
        overlay = self._overlaid(global_config)
        for child, options in self._pairs():
            merged = {**child.parameters_for(tunables, _seen_by(options, merged, overlay)), **merged}
        return merged

    @property
    def is_polled(self) -> bool:
        return any(child.is_polled for child in self._children)

    def commands(
        self, tunables: TunableGroups, global_config: Mapping[str, Any] | None = None
    ) -> list[Commands]:
        shared, overlay = super().parameters_for(tunables, global_config), self._overlaid(global_config)
        found = []
        for child, options in self._pairs():
            seen = _seen_by(options, shared, overlay)
            found.append(child.commands(tunables, seen))
            shared = {**child.parameters_for(tunables, seen), **shared}
        return in_order(found)

    @property
    def metrics(self) -> frozenset[str] | None:
        names: set[str] = set()
        for child in self._children:
            if child.metrics is None:
                return None
            names |= child.metrics
        return frozenset(names)

    def printed(self, step: str) -> str:
        return "".join(child.printed(step) for child in self._children)

    def pprint(self, indent: int = 4, level: int = 0) -> str:
        lines = [super().pprint(indent, level)]
        lines += [child.pprint(indent, level + 1) for child in self._children]
        return "\n".join(lines)

    def attach(self, sink: TelemetrySink | None) -> None:
        super().attach(sink)
        for child in self._children:
            child.attach(sink)

    def _pairs(self) -> Iterator[tuple[Environment, ChildOptions]]:
        return zip(self._children, self.options.children, strict=True)

    def _selected(self, tunables: TunableGroups) -> TunableGroups:
        own = super()._selected(tunables) if self.options.tunable_params else tunables.subgroup(())
        used = dict.fromkeys(own.groups)
        for child in self._children:
            used.update(dict.fromkeys(child.tunable_params.groups))
        return tunables.subgroup(used)

    async def setup(self, tunables: TunableGroups, global_config: dict[str, Any] | None = None) -> bool:
        self._offered = tunables
        if not await super().setup(tunables, global_config):
            return False
        await self._setup()  # when nothing was to be done, the children have yet to hear of the new trial
        return True

    async def _setup(self) -> None:
        shared = super().parameters_for(self._offered, self._overlay)
        for child, options in self._pairs():
            if not await child.setup(self._offered, _seen_by(options, shared, self._overlay)):
                raise EnvironmentFailed(f"{child.name}: {child.failure}")
            shared = {**child.parameters, **shared}

    async def _run(self) -> RunResult:
        metrics: dict[str, Any] = {}
        try:
            if self.options.concurrent:
                for found in await at_once([partial(ran, child) for child in self._children]):
                    metrics.update(found)
            else:
                for child in self._children:
                    metrics.update(await ran(child))
        except RunEnded as exc:
            self._failure = exc.failure
            return exc.result
        return RunResult(Status.SUCCEEDED, utc_now(), metrics)

    async def _status(self) -> StatusReport:
        own = await super()._status()
        reports = [StatusReport.of(await child.status()) for child in self._children]
        bad = [report.status for report in reports if not report.status.is_good]
        telemetry = [sample for report in reports for sample in report.telemetry]
        return StatusReport(bad[0] if bad else own.status, own.timestamp, telemetry)

    async def _abort(self) -> None:
        await all_in_turn([child.abort for child in reversed(self._children)])

    async def _teardown(self) -> None:
        await all_in_turn([child.teardown for child in reversed(self._children)])


def _takes_role(class_name: str) -> bool:
    from windtunnel.environments.registry import environment_class  # the registry knows us

    return "on" in environment_class(class_name).options_class.model_fields


def _seen_by(
    child: ChildOptions, shared: Mapping[str, Value], global_config: Mapping[str, Any]
) -> dict[str, Any]:
    """The globals of a child: its host, the real ones, and what is shared and not a constant of its own."""
    own = child.config.get("const_args") or {}
    passed = {
        name: value
        for name, value in shared.items()
        if name not in own or own[name] in (f"${name}", f"${{{name}}}")
    }
    placed = {} if child.on is None else hosts_of(child.on, global_config)[0]
    return {**passed, **global_config, **placed}
