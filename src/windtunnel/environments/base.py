"""The lifecycle every environment shares. Subclasses fill in ``_setup``, ``_run``, ``_status`` and ``_teardown``."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, cast

from pydantic import ConfigDict, Field

from windtunnel.errors import ConfigError, EnvironmentFailed, StepTimedOut
from windtunnel.model import RunResult, Sample, Status, StatusReport, Value, utc_now
from windtunnel.options import Options, expand, parse_options
from windtunnel.protocols import Services, TelemetrySink
from windtunnel.tunables import TunableGroups

__all__ = ["CommonOptions", "Environment"]

logger = logging.getLogger(__name__)

_BUFFERED_SAMPLES = 10_000


class CommonOptions(Options):
    """What every environment's ``config`` may hold. Unknown keys are kept, for classes that declare no options."""

    model_config = ConfigDict(extra="allow")

    tunable_params: tuple[str, ...] = Field(default=(), description="names of the tunable groups it uses")
    const_args: dict[str, Any] = Field(default_factory=dict, description="fixed parameters; $name expands")
    required_args: tuple[str, ...] = Field(default=(), description="parameters that must come from somewhere")


class Environment(ABC):
    """A system under test, with its set-up, its run and its way back.

    One instance serves one trial at a time and is reused from trial to trial. Order of calls: ``setup``, then
    ``run`` with ``status`` beside it, then ``teardown``, which follows every begun ``setup`` even a failed one.

    :param name: human-readable name.
    :param config: the environment's options; see ``options_class``.
    :param global_config: parameters mixed into ``const_args``: they override those present and fill
        ``required_args``.
    :param tunables: all tunables of the experiment; ``tunable_params`` chooses among their groups.
    :param service: the services it may use.
    :raises ConfigError: if an option is wrong or a required argument is not given.
    """

    options_class: ClassVar[type[CommonOptions]] = CommonOptions

    @classmethod
    def new(
        cls,
        *,
        env_name: str,
        class_name: str,
        config: dict[str, Any],
        global_config: dict[str, Any] | None = None,
        tunables: TunableGroups | None = None,
        service: Services | None = None,
    ) -> Environment:
        """An environment of the class named: a registered short name or the dotted path of a subclass.

        :raises ConfigError: if there is no such class or it is not an environment.
        """
        from windtunnel.environments.registry import environment_class  # noqa: PLC0415 - the registry knows us

        return environment_class(class_name)(
            name=env_name, config=config, global_config=global_config, tunables=tunables, service=service
        )

    def __init__(
        self,
        *,
        name: str,
        config: dict[str, Any],
        global_config: dict[str, Any] | None = None,
        tunables: TunableGroups | None = None,
        service: Services | None = None,
    ) -> None:
        self.name = name
        self.options = parse_options(self.options_class, config, path=("config",))
        self._services = service or Services()
        self._globals: Mapping[str, Any] = dict(global_config or {})
        self._tunables = (tunables or TunableGroups({})).subgroup(self.options.tunable_params)
        self._params: dict[str, Value] = {**self._fixed(self._globals), **dict.fromkeys(self._tunables)}
        self._begun = False
        self._ready = False
        self._running = False
        self._failure: str | None = None
        self._sink: TelemetrySink | None = None
        self._buffer: deque[Sample] = deque(maxlen=_BUFFERED_SAMPLES)
        missing = [arg for arg in self.options.required_args if arg not in self._params and not self._is_late(arg)]
        if missing:
            raise ConfigError(
                f"environment {name!r} requires {', '.join(map(repr, missing))}; give it in const_args, "
                f"as a tunable or as a global (-g {missing[0]}=VALUE)",
                path=("config", "required_args"),
            )

    # What the user of an environment sees

    @property
    def parameters(self) -> dict[str, Value]:
        """All parameters, const_args and tunables together; tunables are None before ``setup``."""
        return dict(self._params)

    @property
    def tunable_params(self) -> TunableGroups:
        """The tunable groups this environment uses, with the values last set up."""
        return self._tunables

    @property
    def failure(self) -> str | None:
        """Why the last step did not succeed; None if it did."""
        return self._failure

    @property
    def is_polled(self) -> bool:
        """Whether calling ``status`` during a run can bring anything: the class reports more than the default."""
        return type(self)._status is not Environment._status

    def __repr__(self) -> str:
        return f"{type(self).__name__} :: {self.name!r}"

    def pprint(self, indent: int = 4, level: int = 0) -> str:
        """One line for each environment, children indented below their parent."""
        return f"{' ' * indent * level}{self!r}"

    async def setup(self, tunables: TunableGroups, global_config: dict[str, Any] | None = None) -> bool:
        """Make the environment ready to run with these values. Repeating it with the same values does nothing.

        :param global_config: parameters of this trial (``trial_id``, ``host``, …), mixed in as in the constructor.
        :returns: True if it is ready; otherwise ``failure`` says why, and ``teardown`` is due.
        """
        mine = tunables.subgroup(self.options.tunable_params)
        overlay = {**self._globals, **(global_config or {})}
        params: dict[str, Value] = {**self._fixed(overlay), **mine}
        if self._ready and params == self._params:
            return True
        self._tunables, self._params, self._ready = mine, params, False
        self._trial_globals: Mapping[str, Any] = overlay
        self._begun, self._failure = True, None
        try:
            await self._setup()
        except EnvironmentFailed as exc:
            self._failure = str(exc)
            return False
        self._ready = True
        return True

    async def run(self) -> RunResult:
        """Run once and say what came of it.

        :returns: the status, when it ended, and the metrics if it succeeded. An environment that is not set up
            returns PENDING and does not run.
        """
        if not self._ready:
            self._failure = f"environment {self.name!r} is not set up; await setup() before run()"
            return RunResult(Status.PENDING, utc_now(), None)
        self._running, self._failure = True, None
        try:
            return await self._run()
        except EnvironmentFailed as exc:
            self._failure = str(exc)
            return RunResult(Status.TIMED_OUT if isinstance(exc, StepTimedOut) else Status.FAILED, utc_now(), None)
        finally:
            self._running = False

    async def status(self) -> StatusReport:
        """The state now, with the telemetry that came since the last call and went to no sink."""
        report = await self._status()
        buffered = list(self._buffer)
        self._buffer.clear()
        return report._replace(telemetry=buffered + report.telemetry)

    async def teardown(self) -> None:
        """Undo the set-up. Does nothing when there is nothing to undo; stays due until it has succeeded.

        :raises EnvironmentFailed: if a step of it failed.
        """
        if not self._begun:
            return
        self._ready = False
        await self._teardown()
        self._begun = False

    @contextmanager
    def streaming_to(self, sink: TelemetrySink) -> Iterator[None]:
        """While the block runs, samples go to ``sink`` at once instead of waiting for ``status``."""
        self.attach(sink)
        try:
            yield
        finally:
            self.attach(None)

    def attach(self, sink: TelemetrySink | None) -> None:
        """Send samples to ``sink`` from now on, or keep the newest for ``status`` if None."""
        self._sink = sink

    # What a subclass fills in and may use

    async def _setup(self) -> None:  # noqa: B027 - an environment may have nothing to set up
        """Make ready for ``self._params``; raise EnvironmentFailed if that does not work."""

    @abstractmethod
    async def _run(self) -> RunResult:
        """Run once; raise EnvironmentFailed if that does not work."""

    async def _status(self) -> StatusReport:
        """Poll the system. Overriding it makes the scheduler call it beside every run."""
        if self._running:
            return StatusReport(Status.RUNNING, utc_now(), [])
        return StatusReport(Status.READY if self._ready else Status.PENDING, utc_now(), [])

    async def _teardown(self) -> None:  # noqa: B027 - an environment may have nothing to tear down
        """Undo ``_setup``, also a half-finished one."""

    async def _emit(self, samples: Iterable[Sample]) -> None:
        """Pass telemetry on. Without a sink the newest are kept for ``status``, older ones are dropped."""
        if self._sink is not None:
            await self._sink.emit_many(samples)
        else:
            self._buffer.extend(samples)

    def _expand(self, text: str) -> str:
        """``text`` with ``$name`` replaced from the parameters and the trial's globals."""
        names = {**self._globals, **getattr(self, "_trial_globals", {}), **self._params}
        return expand(text, cast("Mapping[str, object]", names))

    def _fixed(self, global_config: Mapping[str, Any]) -> dict[str, Value]:
        """const_args and required_args as they stand under ``global_config``."""
        names = {*self.options.const_args, *self.options.required_args}
        fixed = {**self.options.const_args, **{k: v for k, v in global_config.items() if k in names}}
        known = {**global_config, **fixed}
        return {k: expand(v, known, missing_ok=True) if isinstance(v, str) else v for k, v in fixed.items()}

    @staticmethod
    def _is_late(name: str) -> bool:
        """Whether a parameter is only known once a trial begins."""
        return name in TRIAL_PARAMETERS


TRIAL_PARAMETERS = frozenset({"experiment_id", "trial_id", "trial_runner_id", "host"})
"""Parameters the scheduler gives to every ``setup``."""
