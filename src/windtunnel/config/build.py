"""The composition root: from a checked description to a scheduler that is ready to run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import NamedTuple

import anyio.to_thread

from windtunnel.config.load import LoadedConfig
from windtunnel.environments import Environment
from windtunnel.errors import ConfigError
from windtunnel.optimizers import Optimizer, make_optimizer
from windtunnel.protocols import LocalExec, Services
from windtunnel.scheduling import Host, Scheduler
from windtunnel.scheduling.facts import gather
from windtunnel.scheduling.hosts import MakeEnvironment
from windtunnel.scheduling.policy import configurations_tried
from windtunnel.services.local_exec import LocalExecService
from windtunnel.storage import Experiment, Storage, open_storage

__all__ = ["Assembly", "assemble"]


class Assembly(NamedTuple):
    """An experiment that is ready to run."""

    scheduler: Scheduler
    experiment: Experiment


@asynccontextmanager
async def assemble(
    loaded: LoadedConfig, *, storage: Storage | None = None, make_environment: MakeEnvironment | None = None
) -> AsyncIterator[Assembly]:
    """Put the parts together for as long as the block runs.

    :param storage: one that is open already; default the one the description names.
    :param make_environment: instead of the environment the description names.
    :raises ConfigError: if the description is wrong; with file and line, if it came from a file.
    :raises StorageError: if the database cannot be used.
    """
    config = loaded.config
    make = make_environment or _environment_maker(loaded)
    try:
        make(Host(), 1)  # a description that cannot work is refused before anything is touched
        await _optimizer(loaded, asked=0)
    except ConfigError as exc:
        raise loaded.locate(exc) from None
    async with AsyncExitStack() as stack:
        store = storage
        if store is None:
            store = await stack.enter_async_context(open_storage(config.storage))
        experiment = await stack.enter_async_context(
            store.experiment(
                experiment_id=config.experiment,
                description=config.description,
                root_env_config=loaded.document.source if loaded.document else "",
                tunables=config.tunables,
                opt_targets=config.objectives,
            )
        )
        source = loaded.document.source if loaded.document else None
        tried = configurations_tried((await experiment.counts()).total, config.repeats)
        scheduler = Scheduler(
            experiment=experiment,
            optimizer=await _optimizer(loaded, asked=tried),
            make_environment=make,
            hosts=(Host(slots=config.concurrency),),
            trials=config.trials,
            repeats=config.repeats,
            timeouts=config.timeouts.as_timeouts(),
            lease=config.lease,
            facts=await anyio.to_thread.run_sync(gather, source),
        )
        yield Assembly(scheduler, experiment)


def _environment_maker(loaded: LoadedConfig) -> MakeEnvironment:
    described = loaded.config.environment
    services = Services({LocalExec: LocalExecService()})

    def make(host: Host, runner_id: int) -> Environment:
        try:
            return Environment.new(
                env_name=described.name,
                class_name=described.class_name,
                config=described.config,
                global_config={**loaded.globals, "host": host.name, "trial_runner_id": runner_id},
                tunables=loaded.config.tunables,
                service=services,
            )
        except ConfigError as exc:
            raise exc.within("environment") from None

    return make


async def _optimizer(loaded: LoadedConfig, *, asked: int) -> Optimizer:
    """Made in a worker thread, where it will work: loading its engine can take seconds."""
    return await anyio.to_thread.run_sync(partial(_make_optimizer, loaded, asked=asked))


def _make_optimizer(loaded: LoadedConfig, *, asked: int) -> Optimizer:
    config = loaded.config
    try:
        return make_optimizer(
            config.optimizer.name,
            tunables=config.tunables,
            objectives=config.objectives,
            seed=config.optimizer.seed,
            start_with_defaults=config.optimizer.start_with_defaults,
            asked=asked,
            options=config.optimizer.options,
        )
    except ConfigError as exc:
        raise exc.within("optimizer") from None
