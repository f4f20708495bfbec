"""The embedding face: run an experiment with one ``await``, or hold its scheduler while it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from os import PathLike
from typing import Any, TypedDict, Unpack, overload

import anyio.to_thread

from windtunnel.config.build import assemble
from windtunnel.config.load import LoadedConfig, from_mapping, load
from windtunnel.environments import Environment, FunctionEnv
from windtunnel.errors import ConfigError
from windtunnel.model import Direction, Summary, Timeouts, utc_now
from windtunnel.objectives import Objective
from windtunnel.scheduling import Host, Scheduler
from windtunnel.scheduling.hosts import MakeEnvironment
from windtunnel.storage import Storage
from windtunnel.tunables import TunableGroups

__all__ = ["RunOptions", "TuneOptions", "open_scheduler", "run", "tune"]

Benchmark = Callable[..., Mapping[str, Any] | Awaitable[Mapping[str, Any] | None] | None]
"""``f(params)`` or ``f(params, emit)``, async or plain; gives the metrics."""

_NO_NAMES: Mapping[str, object] = {}

Source = str | PathLike[str] | Mapping[str, Any]


class TuneOptions(TypedDict, total=False):
    """What ``tune`` takes besides the function, its tunables and the objectives; see there."""

    constraints: Sequence[str]
    trials: int
    concurrency: int
    repeats: int
    adaptive_repeats: bool | Mapping[str, Any]
    optimizer: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]
    seed: int | None
    pruner: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]
    const_args: Mapping[str, Any]
    timeouts: Timeouts
    time_budget: timedelta | str
    retries: Mapping[str, int | Mapping[str, Any]]
    failures: int | Mapping[str, Any]
    lease: timedelta
    storage: str | Storage
    experiment_id: str


class RunOptions(TypedDict, total=False):
    """What ``run`` takes besides the description; see there."""

    storage: str | Storage | None
    trials: int | None
    concurrency: int | None
    seed: int | None
    globals: Mapping[str, object] | None


async def tune(
    function: Benchmark,
    tunables: TunableGroups | Mapping[str, Any],
    *,
    objectives: Mapping[str, Direction | Objective | Mapping[str, Any]],
    **options: Unpack[TuneOptions],
) -> Summary:
    """Run ``function`` with many configurations and find the best.

    Everything is durable when it returns. With the id of an experiment that is there already it goes on where
    that one stopped: finished trials are not run again. Cancelling it cancels the running trials and records
    them; they are run again on resume.

    :param function: takes the parameters as a dict and gives the metrics as one. Its second argument, if it
        has one, is ``emit(metric, value[, timestamp])`` for telemetry, which an async function awaits. A
        plain function runs in a worker thread, where it cannot be stopped before it returns.
    :param tunables: a TunableGroups, or the plain mapping of the config format.
    :param objectives: metric → ``min``, ``max`` or an Objective, the most important first.
    :param constraints: what must be true of a configuration that is tried, such as ``a + b <= 10``; default
        nothing.
    :param trials: how many trials the experiment shall have in all, repeats counted; default 100.
    :param concurrency: trials at once; default 1.
    :param repeats: trials a configuration; default 1.
    :param adaptive_repeats: further runs of promising configurations, as in the config format; default none.
    :param optimizer: a name; a mapping of ``name``, ``start_with_defaults``, ``start_with`` and its own
        options; or a list of several. Default ``tpe`` if Optuna is installed, otherwise ``random``.
    :param seed: the same seed gives the same suggestions; default one is drawn.
    :param pruner: stops trials that are not worth their time, as in the config format: a name, a mapping of
        ``name`` and options, or several; default none.
    :param const_args: parameters that are not tuned.
    :param timeouts: default none but for teardown.
    :param time_budget: nothing more is started after it; default no limit.
    :param retries: failure kind → how often a trial that failed so is run again, as in the config format;
        default never.
    :param failures: how many failures end the session, as in the config format; default any number is borne.
    :param lease: how long a trial stays ours without a heartbeat; default 30 s.
    :param storage: a URL, or an open Storage that several experiments may share; default
        ``sqlite:///windtunnel.db``.
    :param experiment_id: default a new one, made of the function's name and the time.
    :raises ConfigError: if an argument is wrong.
    :raises StorageError: if the database cannot be used.
    """
    async with open_scheduler(function, tunables, objectives=objectives, **options) as scheduler:
        return await scheduler.run()


async def run(source: Source, **options: Unpack[RunOptions]) -> Summary:
    """Run the experiment that a file or a mapping describes. Running it again resumes it.

    :param source: a YAML, JSON5 or TOML file, or the same as a mapping.
    :param storage: instead of the one described: a URL, or an open Storage.
    :param trials: instead of the number described; likewise ``concurrency`` and ``seed``.
    :param globals: values for ``$name``.
    :raises ConfigError: if the description is wrong; with file and line for a file.
    :raises StorageError: if the database cannot be used.
    """
    async with open_scheduler(source, **options) as scheduler:
        return await scheduler.run()


@overload
def open_scheduler(
    what: Benchmark,
    tunables: TunableGroups | Mapping[str, Any],
    *,
    objectives: Mapping[str, Direction | Objective | Mapping[str, Any]],
    **options: Unpack[TuneOptions],
) -> AbstractAsyncContextManager[Scheduler]: ...
@overload
def open_scheduler(what: Source, **options: Unpack[RunOptions]) -> AbstractAsyncContextManager[Scheduler]: ...
@asynccontextmanager
async def open_scheduler(what: Any, tunables: Any = None, **options: Any) -> AsyncIterator[Scheduler]:
    """The scheduler of ``tune`` or ``run``, for applications that watch it or stop it; await its ``run``.

    ::

        async with open_scheduler(bench, space, objectives={"latency_ms": "min"}) as scheduler:
            events = scheduler.events()
            async with anyio.create_task_group() as group:
                await group.start(scheduler.run)
                async for event in events: ...

    :param what: the function that ``tune`` takes, with its other arguments, or what ``run`` takes.
    :raises ConfigError: if an argument is wrong.
    :raises StorageError: if the database cannot be used.
    """
    storage = options.pop("storage", None)
    opened = storage if isinstance(storage, Storage) else None
    url = None if isinstance(storage, Storage) else storage
    make: MakeEnvironment | None = None
    if callable(what):
        described, names = _description(what, tunables, options), _NO_NAMES
        overrides = {"seed": options.get("seed")}
    else:
        described, names = what, options.pop("globals", None) or _NO_NAMES
        overrides = options
    loaded = await anyio.to_thread.run_sync(_loaded, described, {**overrides, "storage": url}, names)
    if callable(what):
        make = _maker(what, loaded, options.get("const_args") or {})
    async with assemble(loaded, storage=opened, make_environment=make) as assembly:
        yield assembly.scheduler


def _description(function: Benchmark, tunables: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``tune`` in the config format."""
    name = _name_of(function)
    limits = options.get("timeouts") or Timeouts()
    if not isinstance(limits, Timeouts):
        raise ConfigError(f"expected Timeouts, found {limits!r}", path=("timeouts",))
    experiment_id = options.get("experiment_id")
    rest = {"experiment_id", "const_args", "seed"}
    return {
        **{key: value for key, value in options.items() if key not in rest},
        "experiment": f"{name}-{utc_now():%Y%m%d-%H%M%S-%f}" if experiment_id is None else experiment_id,
        "timeouts": {part: getattr(limits, part) for part in limits.__dataclass_fields__},
        "tunables": tunables,
        "environment": {"class": "FunctionEnv", "name": name},
    }


def _maker(function: Benchmark, loaded: LoadedConfig, const_args: Mapping[str, Any]) -> MakeEnvironment:
    config, space = {"const_args": dict(const_args)}, loaded.config.tunables

    def make(_host: Host, _runner_id: int) -> Environment:
        return FunctionEnv(name=_name_of(function), config=config, tunables=space, function=function)

    return make


def _name_of(function: Benchmark) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _loaded(source: Source, overrides: Mapping[str, object], names: Mapping[str, object]) -> LoadedConfig:
    if isinstance(source, Mapping):
        return from_mapping(source, overrides=overrides, globals=names)
    return load(source, overrides=overrides, globals=names)
