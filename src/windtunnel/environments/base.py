"""The lifecycle every environment shares. Subclasses fill in ``_run`` and, if need be, its neighbours."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from pydantic import ConfigDict, Field

from windtunnel.environments.commands import Commands
from windtunnel.environments.parameters import FixedParameters
from windtunnel.errors import ConfigError, EnvironmentFailed, HostFailed, StepTimedOut, TunableError
from windtunnel.model import RunResult, Sample, Status, StatusReport, Value, utc_now
from windtunnel.options import Options, expand, nearest, parse_options
from windtunnel.protocols import Services, TelemetrySink
from windtunnel.tunables import TunableGroups

__all__ = ["TRIAL_PARAMETERS", "CommonOptions", "Environment"]

TRIAL_PARAMETERS = frozenset({"experiment_id", "trial_id", "trial_runner_id", "host", "host_address"})
"""Parameters that only a trial has: the scheduler gives them to the constructor or to every ``setup``."""

_BUFFERED_SAMPLES = 10_000


class CommonOptions(Options):
    """What every environment's ``config`` may hold; unknown keys are kept for classes without own options."""

    model_config = ConfigDict(extra="allow")

    tunable_params: tuple[str, ...] | None = Field(
        default=None, description="names of the tunable groups it uses; default all"
    )
    const_args: dict[str, Any] = Field(default_factory=dict, description="fixed parameters; $name expands")
    required_args: tuple[str, ...] = Field(default=(), description="parameters that must come from somewhere")


class Environment(ABC):
    """A system under test, with its set-up, its run and its way back.

    One instance serves one trial at a time and is reused from trial to trial. Order of calls: ``setup``, then
    ``run`` with ``status`` beside it, then ``abort`` if the run was given up, then ``teardown``, which
    follows every begun ``setup`` even a failed one.

    :param name: human-readable name.
    :param config: the environment's options; see ``options_class``.
    :param global_config: parameters mixed into ``const_args``: they override those present and fill
        ``required_args``.
    :param tunables: all tunables of the experiment; ``tunable_params`` chooses among their groups.
    :param service: the services it may use.
    :raises ConfigError: if an option is wrong or a required argument is not given.
    """

    options_class: ClassVar[type[CommonOptions]] = CommonOptions

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.run is not Environment.run and cls._run is Environment._run:
            cls._run = cls.run  # type: ignore[method-assign]  # it runs by itself and has nothing to fill in

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
        from windtunnel.environments.registry import environment_class  # the registry knows us

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
        self._overlay: Mapping[str, Any] = self._globals
        self._fixed = FixedParameters(self.options.const_args, self.options.required_args)
        self._begun = False
        self._ready = False
        self._running = False
        self._failure: str | None = None
        self._sink: TelemetrySink | None = None
        self._buffer: deque[Sample] = deque(maxlen=_BUFFERED_SAMPLES)
        try:
            self._tunables = self._selected(tunables or TunableGroups({}))
        except TunableError as exc:
            raise exc.within("config", "tunable_params") from None
        self._params: dict[str, Value] = {
            **self._fixed.values(self._globals, {}, missing_ok=True),
            **dict.fromkeys(self._tunables),
        }
        self._check_names()

    # What the user of an environment sees

    @property
    def parameters(self) -> dict[str, Value]:
        """All parameters, const_args and tunables together; tunables are None before ``setup``."""
        return dict(self._params)

    def parameters_for(
        self, tunables: TunableGroups, global_config: Mapping[str, Any] | None = None
    ) -> dict[str, Value]:
        """What ``parameters`` are after ``setup`` with these arguments.

        :raises ConfigError: if a parameter that the environment requires or names is not given.
        """
        mine = self._selected(tunables)
        return {**self._fixed.values(self._overlaid(global_config), mine), **mine}

    @property
    def tunable_params(self) -> TunableGroups:
        """The tunable groups this environment uses, with the values last set up."""
        return self._tunables

    @property
    def failure(self) -> str | None:
        """Why the last step did not succeed; None if it did."""
        return self._failure

    def commands(
        self, tunables: TunableGroups, global_config: Mapping[str, Any] | None = None
    ) -> list[Commands]:
        """What a trial with these values would run, in order; empty if that are no commands.

        :raises ConfigError: if a parameter that the environment requires or names is not given.
        """
        return []

    @property
    def metrics(self) -> frozenset[str] | None:
        """The names of the metrics that a run reports; None if only the run can tell."""
        return None

    @property
    def is_polled(self) -> bool:
        """Whether calling ``status`` during a run can bring anything."""
        mine, plain = type(self), Environment
        return mine._status is not plain._status or mine.status is not plain.status  # noqa: SLF001 - our own

    @property
    def leaves_nothing(self) -> bool:
        """Whether its class has nothing to tear down, so that ``teardown`` returns at once."""
        mine, plain = type(self), Environment
        return mine._teardown is plain._teardown and mine.teardown is plain.teardown  # noqa: SLF001 - our own

    @property
    def is_clean(self) -> bool:
        """Whether there is nothing to tear down."""
        return not self._begun

    def printed(self, step: str) -> str:
        """What ``step`` (setup, run, abort or teardown) printed last, for the message of a failure."""
        return ""

    def __repr__(self) -> str:
        return f"{type(self).__name__} :: {self.name!r}"

    def pprint(self, indent: int = 4, level: int = 0) -> str:
        """One line for each environment, children indented below their parent."""
        return f"{' ' * indent * level}{self!r}"

    async def setup(self, tunables: TunableGroups, global_config: dict[str, Any] | None = None) -> bool:
        """Make the environment ready to run with these values.

        With the values it is ready for, it does nothing; with others, what was set up is torn down first.

        :param global_config: parameters of this trial (``trial_id``, ``host``, …), mixed in as in the
            constructor.
        :returns: True if it is ready; otherwise ``failure`` says why, and ``teardown`` is due.
        :raises HostFailed: if a host is to blame; likewise ``run``.
        :raises ConfigError: if a parameter that the environment requires or names is not given.
        """
        params = self.parameters_for(tunables, global_config)
        overlay = self._overlaid(global_config)
        if self._ready and params == self._params:
            self._overlay = overlay
            return True
        try:
            await self.teardown()
            self._overlay, self._params, self._failure = overlay, params, None
            self._tunables = self._selected(tunables)
            self._begun = True
            await self._setup()
        except HostFailed:
            raise  # it says nothing of the configuration
        except EnvironmentFailed as exc:
            self._failure = str(exc)
            return False
        self._ready = True
        return True

    async def run(self) -> RunResult:
        """Run once and say what came of it.

        :returns: the status, when it ended, and the metrics if it succeeded. An environment that is not set
            up returns PENDING and does not run.
        """
        if not self._ready:
            self._failure = f"environment {self.name!r} is not set up; await setup() before run()"
            return RunResult(Status.PENDING, utc_now(), None)
        self._running, self._failure = True, None
        try:
            return RunResult.of(await self._run())
        except HostFailed:
            raise
        except EnvironmentFailed as exc:
            self._failure = str(exc)
            return RunResult(
                Status.TIMED_OUT if isinstance(exc, StepTimedOut) else Status.FAILED, utc_now(), None
            )
        finally:
            self._running = False

    async def status(self) -> StatusReport:
        """The state now, with the telemetry that came since the last call and went to no sink."""
        report = StatusReport.of(await self._status())
        if not self._buffer:
            return report
        buffered = list(self._buffer)
        self._buffer.clear()
        return report._replace(telemetry=buffered + report.telemetry)

    async def abort(self) -> None:
        """Tell the system that the run, which was cancelled, is not worth going on with.

        It comes before ``teardown``, which is due all the same. Does nothing unless a set-up was begun.

        :raises EnvironmentFailed: if a step of it failed.
        """
        if self._begun:
            await self._abort()

    async def teardown(self) -> None:
        """Undo the set-up, also a half-finished one. Does nothing when there is nothing to undo.

        It stays due until it has succeeded. Call it where a cancelled trial cannot cut it off.

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

    async def _abort(self) -> None:  # noqa: B027 - an environment may have nobody to tell
        """Stop what a cancelled ``_run`` left going, if that cannot wait for ``_teardown``."""

    async def _teardown(self) -> None:  # noqa: B027 - an environment may have nothing to tear down
        """Undo ``_setup``, also a half-finished one."""

    async def _emit(self, samples: Iterable[Sample]) -> None:
        """Pass telemetry on. Without a sink the newest are kept for ``status``, older ones are dropped."""
        if self._sink is not None:
            await self._sink.emit_many(samples)
        else:
            self._buffer.extend(samples)

    def _expand(self, text: str, **more: Value) -> str:
        """``text`` with ``$name`` replaced by parameters and the trial's globals; unknown names stay."""
        return expand(text, {**self._overlay, **self._params, **more}, missing_ok=True)

    def _overlaid(self, global_config: Mapping[str, Any] | None) -> Mapping[str, Any]:
        return {**self._globals, **global_config} if global_config else self._globals

    def _selected(self, tunables: TunableGroups) -> TunableGroups:
        """The groups of ``tunables`` this environment uses."""
        chosen = self.options.tunable_params
        return tunables if chosen is None else tunables.subgroup(chosen)

    def _check_names(self) -> None:
        """:raises ConfigError: if a required or a referenced parameter can never be known."""
        known = {*self._params, *self._globals, *TRIAL_PARAMETERS}
        missing = [name for name in self.options.required_args if name not in known]
        if missing:
            raise ConfigError(
                f"environment {self.name!r} requires {', '.join(map(repr, missing))}; give it in const_args, "
                f"as a tunable or as a global (-g {missing[0]}=VALUE)",
                path=("config", "required_args"),
            )
        for name in sorted(self._fixed.references - known):
            hint = nearest(name, known)
            raise ConfigError(
                f"${name} is not defined{hint}; $$ is a dollar sign", path=("config", "const_args")
            )
