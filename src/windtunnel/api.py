"""The embedding face: run an experiment with one ``await``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from os import PathLike
from typing import Any

import anyio.to_thread

from windtunnel.config.build import assemble
from windtunnel.config.load import LoadedConfig, from_mapping, load
from windtunnel.environments import Environment, FunctionEnv
from windtunnel.model import Direction, Summary, Timeouts, utc_now
from windtunnel.scheduling import Host
from windtunnel.storage import Storage
from windtunnel.tunables import TunableGroups

__all__ = ["run", "tune"]

Benchmark = Callable[..., Mapping[str, Any] | Awaitable[Mapping[str, Any] | None] | None]
"""``f(params)`` or ``f(params, emit)``, async or plain; gives the metrics."""


async def tune(
    function: Benchmark,
    tunables: TunableGroups | Mapping[str, Any],
    *,
    objectives: Mapping[str, Direction],
    trials: int = 100,
    concurrency: int = 1,
    repeats: int = 1,
    optimizer: str | Mapping[str, Any] = "random",
    seed: int | None = None,
    const_args: Mapping[str, Any] | None = None,
    timeouts: Timeouts | None = None,
    lease: timedelta = timedelta(seconds=30),
    storage: str | Storage = "sqlite:///windtunnel.db",
    experiment_id: str | None = None,
) -> Summary:
    """Run ``function`` with many configurations and find the best.

    Everything is durable when it returns. With the id of an experiment that is there already it goes on where
    that one stopped: finished trials are not run again. Cancelling it cancels the running trials and records
    them; they are run again on resume.

    :param function: takes the parameters as a dict and gives the metrics as one. Its second argument, if it
        has one, is ``emit(metric, value[, timestamp])`` for telemetry, which an async function awaits. A
        plain function runs in a worker thread, where it cannot be stopped before it returns.
    :param tunables: a TunableGroups, or the plain mapping of the config format.
    :param objectives: metric → ``min`` or ``max``, the most important first.
    :param trials: how many trials the experiment shall have in all, repeats counted.
    :param concurrency: trials at once.
    :param repeats: trials a configuration.
    :param optimizer: a name, or a mapping of ``name``, ``start_with_defaults`` and the optimizer's own
        options.
    :param seed: the same seed gives the same suggestions; default one is drawn.
    :param const_args: parameters that are not tuned.
    :param timeouts: default none but for teardown.
    :param lease: how long a trial stays ours without a heartbeat.
    :param storage: a URL, or an open Storage that several experiments may share.
    :param experiment_id: default a new one, made of the function's name and the time.
    :raises ConfigError: if an argument is wrong.
    :raises StorageError: if the database cannot be used.
    """
    name = getattr(function, "__name__", type(function).__name__)
    limits = timeouts or Timeouts()
    description: dict[str, Any] = {
        "experiment": experiment_id or f"{name}-{utc_now():%Y%m%d-%H%M%S-%f}",
        "objectives": dict(objectives),
        "trials": trials,
        "concurrency": concurrency,
        "repeats": repeats,
        "optimizer": {"name": optimizer} if isinstance(optimizer, str) else dict(optimizer),
        "timeouts": {part: getattr(limits, part) for part in limits.__dataclass_fields__},
        "lease": lease,
        "tunables": tunables,
        "environment": {"class": "FunctionEnv", "name": name},
    }
    overrides = {"seed": seed, "storage": storage if isinstance(storage, str) else None}
    loaded = await anyio.to_thread.run_sync(_loaded, description, overrides, {})
    space = loaded.config.tunables
    config = {"const_args": dict(const_args or {})}

    def make(_host: Host, _runner_id: int) -> Environment:
        return FunctionEnv(name=name, config=config, tunables=space, function=function)

    opened = storage if isinstance(storage, Storage) else None
    async with assemble(loaded, storage=opened, make_environment=make) as (scheduler, _):
        return await scheduler.run()


async def run(
    source: str | PathLike[str] | Mapping[str, Any],
    *,
    storage: str | Storage | None = None,
    trials: int | None = None,
    concurrency: int | None = None,
    seed: int | None = None,
    globals: Mapping[str, object] | None = None,  # noqa: A002 - the name users know
) -> Summary:
    """Run the experiment that a file or a mapping describes. Running it again resumes it.

    :param source: a YAML, JSON5 or TOML file, or the same as a mapping.
    :param storage: instead of the one described: a URL, or an open Storage.
    :param trials: instead of the number described; likewise ``concurrency`` and ``seed``.
    :param globals: values for ``$name``.
    :raises ConfigError: if the description is wrong; with file and line for a file.
    :raises StorageError: if the database cannot be used.
    """
    overrides = {
        "storage": storage if isinstance(storage, str) else None,
        "trials": trials,
        "concurrency": concurrency,
        "seed": seed,
    }
    loaded = await anyio.to_thread.run_sync(_loaded, source, overrides, globals or {})
    async with assemble(loaded, storage=storage if isinstance(storage, Storage) else None) as (scheduler, _):
        return await scheduler.run()


def _loaded(
    source: str | PathLike[str] | Mapping[str, Any],
    overrides: Mapping[str, object],
    names: Mapping[str, object],
) -> LoadedConfig:
    if isinstance(source, Mapping):
        return from_mapping(source, overrides=overrides, globals=names)
    return load(source, overrides=overrides, globals=names)
