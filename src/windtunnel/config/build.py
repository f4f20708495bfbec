"""The composition root: from a checked description to a scheduler that is ready to run."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple, TypedDict, TypeVar

import anyio.to_thread

from windtunnel.config.fleet import EnvironmentMaker, Fleet, find_fleet
from windtunnel.config.load import LoadedConfig
from windtunnel.config.policies import PrunerConfig
from windtunnel.config.schema import ExperimentConfig
from windtunnel.config.stored import dump, dump_refusal, optimizer_of, seed_of
from windtunnel.environments import Environment
from windtunnel.errors import ConfigError
from windtunnel.model import FailureKind, Timeouts
from windtunnel.objectives import directions
from windtunnel.optimizers import Optimizer, default_optimizer, make_optimizer
from windtunnel.pruners import Pruner, Pruners, make_pruner
from windtunnel.scheduling import Scheduler
from windtunnel.scheduling.facts import gather
from windtunnel.scheduling.hosts import MakeEnvironment, MakePlaced, SlotPool
from windtunnel.scheduling.policy import AdaptiveRepeats, FailureBudget, Retry, configurations_tried
from windtunnel.storage import Experiment, Storage, open_storage

__all__ = ["Assembly", "Parts", "assemble", "make_parts"]

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Assembly(NamedTuple):
    """An experiment that is ready to run."""

    scheduler: Scheduler
    experiment: Experiment


@asynccontextmanager
async def assemble(
    loaded: LoadedConfig,
    *,
    storage: Storage | None = None,
    make_environment: MakeEnvironment | None = None,
    host: str = "localhost",
    joins: bool = False,
    until_idle: bool = True,
    only: str | None = None,
) -> AsyncIterator[Assembly]:
    """Put the parts together for as long as the block runs.

    :param storage: one that is open already; default the one the description names.
    :param make_environment: instead of the environment the description names.
    :param host: the name under which this machine is kept with the trials.
    :param joins: the description is the one that is stored; otherwise it is stored now, for workers.
    :param only: patterns of the names of the hosts to use; default all. Workers do not know of each other's
        trials on a host: each needs hosts of its own.
    :param until_idle: whether the scheduler ends when nothing is left to run, or waits for new trials.
    :raises ConfigError: if the description is wrong; with file and line, if it came from a file.
    :raises StorageError: if the database cannot be used.
    """
    # In a thread: it reads inventories, and loading an optimizer's engine can take seconds.
    parts = await anyio.to_thread.run_sync(make_parts, loaded, make_environment, host, only)
    async with AsyncExitStack() as stack:
        if parts.fleet.ssh is not None:
            await stack.enter_async_context(parts.fleet.ssh)
        store = storage
        if store is None:
            store = await stack.enter_async_context(open_storage(loaded.config.storage))
        experiment = await stack.enter_async_context(_experiment(loaded, store))
        if not joins:
            loaded = await _described(loaded, experiment, is_python=make_environment is not None)
        scheduler = Scheduler(
            experiment=experiment,
            make_optimizer=_optimizer_maker(loaded),
            make_environment=parts.make,
            make_placed=parts.make_placed,
            host_news=None if parts.fleet.operations is None else parts.fleet.operations.news,
            hosts=parts.fleet.hosts,
            hosts_per_trial=parts.fleet.request,
            facts=await anyio.to_thread.run_sync(gather, loaded.origin.source or None),
            pruner=parts.pruner,
            until_idle=until_idle,
            hide=loaded.secrets.hide,
            **_policies(loaded.config),
        )
        yield Assembly(scheduler, experiment)


class Parts(NamedTuple):
    """What a scheduler needs.

    :ivar example: the environment of a first trial, to look at.
    :ivar optimizer: likewise.
    """

    fleet: Fleet
    make: MakeEnvironment
    make_placed: MakePlaced
    pruner: Pruner | None
    example: Environment
    optimizer: Optimizer


def make_parts(
    loaded: LoadedConfig,
    make_environment: MakeEnvironment | None = None,
    here: str = "localhost",
    only: str | None = None,
) -> Parts:
    """Make every part once: what cannot work is refused before anything is touched.

    :param make_environment: instead of the environment the description names.
    :param here: the name under which this machine is kept with the trials.
    :param only: patterns of the names of the hosts to use; default all.
    :raises ConfigError: for the parts that cannot be made, the first and the others with it.
    """
    mistakes: list[ConfigError] = []
    fleet = _noted(mistakes, lambda: find_fleet(loaded, here=here, only=only))
    made = None if fleet is None else _noted(mistakes, lambda: _environments(loaded, fleet, make_environment))
    optimizer = _noted(mistakes, lambda: _optimizer_maker(loaded)(0))
    pruner = _noted(mistakes, lambda: _pruner(loaded))
    if fleet is not None and made is not None and optimizer is not None and not mistakes:
        make, make_placed, example = made
        return Parts(fleet, make, make_placed, pruner, example, optimizer)
    raise loaded.locate(ConfigError.of(mistakes)) from None


def _noted(mistakes: list[ConfigError], make: Callable[[], T]) -> T | None:
    try:
        return make()
    except ConfigError as exc:
        mistakes.append(exc)
        return None


def _environments(
    loaded: LoadedConfig, fleet: Fleet, make_environment: MakeEnvironment | None
) -> tuple[MakeEnvironment, MakePlaced, Environment]:
    maker = EnvironmentMaker(loaded, fleet)
    make = make_environment or maker.for_host
    return make, maker.for_placement, _example(fleet, make, maker.for_placement)


def _example(fleet: Fleet, make: MakeEnvironment, make_placed: MakePlaced) -> Environment:
    if fleet.request is None:
        # Hosts differ in the variables they give.
        first, *others = {frozenset(host.variables): host for host in reversed(fleet.hosts)}.values()
        for host in others:
            make(host, 1)
        return make(first, 1)
    placement = SlotPool(fleet.hosts, make, make_placed=make_placed).take((), fleet.request)
    assert placement is not None, "there are enough hosts"  # noqa: S101
    return placement.environment


class _Policies(TypedDict):
    trials: int
    repeats: int
    adaptive: AdaptiveRepeats | None
    retries: Mapping[FailureKind, Retry]
    failures: FailureBudget
    time_budget: timedelta | None
    timeouts: Timeouts
    lease: timedelta
    poll_period: timedelta


def _policies(config: ExperimentConfig) -> _Policies:
    return _Policies(
        trials=config.trials,
        repeats=config.repeats,
        adaptive=config.adaptive_repeats.as_adaptive() if config.adaptive_repeats else None,
        retries=config.retries.as_retries(),
        failures=config.failures.as_budget(),
        time_budget=config.time_budget,
        timeouts=config.timeouts.as_timeouts(),
        lease=config.lease,
        poll_period=config.poll_period,
    )


def _experiment(loaded: LoadedConfig, store: Storage) -> AbstractAsyncContextManager[Experiment]:
    config = loaded.config
    return store.experiment(
        experiment_id=config.experiment,
        description=config.description,
        root_env_config=loaded.origin.source,
        tunables=config.tunables,
        opt_targets=config.objectives,
    )


async def _described(loaded: LoadedConfig, experiment: Experiment, *, is_python: bool) -> LoadedConfig:
    """The same with an optimizer and a seed, stored for the workers that join.

    What nobody gave is that of the last run: a resumed experiment goes on with its sequence.
    """
    config, before = loaded.config, await experiment.stored_description()
    name, seed = config.optimizer.name, config.optimizer.seed
    if name is None:
        name, reason = optimizer_of(before), "as in the session before"
        if name is None:
            name, reason = default_optimizer()
        logger.info("optimizer: %s; %s", name, reason, extra={"action": "optimizer_chosen"})
    if seed is None:
        last = seed_of(before)
        seed = secrets.randbits(32) if last is None else last
    optimizer = config.optimizer.model_copy(update={"name": name, "seed": seed})
    loaded = replace(loaded, config=config.model_copy(update={"optimizer": optimizer}))
    await experiment.describe(
        dump_refusal(optimizer) if is_python else await anyio.to_thread.run_sync(dump, loaded)
    )
    return loaded


def _pruner(loaded: LoadedConfig) -> Pruner | None:
    rules = [
        _rule(described, loaded.config, index if isinstance(loaded.origin.data.get("pruner"), list) else None)
        for index, described in enumerate(loaded.config.pruner)
    ]
    return rules[0] if len(rules) == 1 else Pruners(rules) if rules else None


def _rule(described: PrunerConfig, config: ExperimentConfig, index: int | None) -> Pruner:
    try:
        objectives = directions(config.objectives)
        return make_pruner(described.name, objectives=objectives, options=described.options)
    except ConfigError as exc:
        raise exc.within("pruner", *(() if index is None else (index,))) from None


def _optimizer_maker(loaded: LoadedConfig) -> Callable[[int], Optimizer]:
    """Makes the optimizer of an experiment in which so many configurations were tried before."""
    config = loaded.config
    described = config.optimizer

    def make(asked: int) -> Optimizer:
        try:
            return make_optimizer(
                described.name or default_optimizer()[0],
                tunables=config.tunables,
                objectives=config.objectives,
                seed=described.seed,
                start_with_defaults=described.start_with_defaults,
                start_with=described.start_with,
                asked=asked,
                planned=configurations_tried(config.trials, config.repeats),
                options=described.options,
                adapter=described.adapter,
            )
        except ConfigError as exc:
            if isinstance(loaded.origin.data.get("optimizer"), list) and exc.path[:1] == ("members",):
                exc.path = exc.path[1:]  # where it stands in the list that was written
            raise exc.within("optimizer") from None

    return make
