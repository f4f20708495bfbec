"""``windtunnel merge``: let an experiment learn from the trials of others."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import anyio

from windtunnel.cli.console import make_console
from windtunnel.cli.data import as_json
from windtunnel.cli.logs import set_up_logging
from windtunnel.cli.stored import check_exists
from windtunnel.cli.words import plain
from windtunnel.storage import MergedData, MergedExperiment, open_storage
from windtunnel.texts import many

__all__ = ["merge_experiments"]


def merge_experiments(experiment_id: str, others: Sequence[str], storage: str, *, as_data: bool) -> None:
    """Merge ``others`` in, and print what an optimizer is told of them.

    :raises StorageError: if one of them does not exist, does not fit, or learns from ``experiment_id``.
    """
    set_up_logging(make_console(sys.stderr))
    check_exists(storage)
    merged = anyio.run(_merged, experiment_id, others, storage)
    if as_data:
        learns_from = [_data(one) for one in merged.experiments]
        sys.stdout.write(as_json({"experiment_id": experiment_id, "learns_from": learns_from}))
        return
    console = make_console(sys.stdout)
    console.print(f"{plain(experiment_id)} learns from:", soft_wrap=True)
    for one in merged.experiments:
        console.print(f"  {_described(one)}", soft_wrap=True)


async def _merged(experiment_id: str, others: Sequence[str], storage: str) -> MergedData:
    async with open_storage(storage) as opened:
        experiment = await opened.open_experiment(experiment_id)
        await experiment.merge(others)
        return await experiment.load_merged()


def _data(one: MergedExperiment) -> dict[str, object]:
    return {
        "experiment_id": one.experiment_id,
        "trials": one.trials,
        "imputed": dict(one.imputed),
        "from_parameters": dict(one.from_parameters),
        "left_out": one.left_out,
        "outside": dict(one.outside),
        "dropped": list(one.dropped),
    }


def _described(one: MergedExperiment) -> str:
    """``a: 20 trials; cache missing in 20, the default is taken``."""
    parts = [f"{plain(one.experiment_id)}: {many(one.trials, 'trial')}"]
    for name, count in one.imputed.items():
        parts.append(f"{name} is missing in {count}, its default is taken")
    for name, count in one.from_parameters.items():
        parts.append(f"{name} is a fixed parameter in {count}")
    if one.left_out:
        outside = ", ".join(f"{name} in {count}" for name, count in one.outside.items())
        parts.append(
            f"{many(one.left_out, 'trial')} left out, with values outside today's domain ({outside})"
        )
    if one.dropped:
        parts.append(f"ignored: {', '.join(one.dropped)}")
    return "; ".join(parts)
