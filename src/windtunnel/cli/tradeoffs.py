"""``windtunnel show --pareto``: the trade-offs between several objectives."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import anyio
from rich.console import Group, RenderableType
from rich.text import Text

from windtunnel.cli import tables
from windtunnel.cli.console import make_console
from windtunnel.cli.data import as_json, pareto_data
from windtunnel.cli.logs import set_up_logging
from windtunnel.cli.stored import PATIENCE, check_exists
from windtunnel.cli.words import number, plain
from windtunnel.model import ParetoPoint
from windtunnel.storage import Experiment, HypervolumePoint, open_storage

__all__ = ["show_pareto"]


def show_pareto(experiment_id: str, storage: str, *, as_data: bool) -> None:
    """Print the Pareto front of one experiment and how its hypervolume grew.

    :raises NotFound: if there is none with this id.
    """
    set_up_logging(make_console(sys.stderr))
    check_exists(storage)
    experiment, front, growth = anyio.run(_read, experiment_id, storage)
    if as_data:
        found: dict[str, Any] = {"experiment_id": experiment_id, "objectives": experiment.opt_targets}
        sys.stdout.write(as_json({**found, **pareto_data(front, growth)}))
    else:
        make_console(sys.stdout).print(_described(experiment, front, growth))


async def _read(
    experiment_id: str, storage: str
) -> tuple[Experiment, list[ParetoPoint], list[HypervolumePoint]]:
    async with open_storage(storage, patience=PATIENCE) as opened:
        experiment = await opened.open_experiment(experiment_id)
        return experiment, await experiment.pareto(), await experiment.hypervolume()


def _described(
    experiment: Experiment, front: Sequence[ParetoPoint], growth: Sequence[HypervolumePoint]
) -> RenderableType:
    head = Text(plain(experiment.experiment_id), style="bold")
    if not front:
        return head.append("\nno trial has succeeded yet", style="not bold default")
    said = (
        f"\n{len(front)} {'configuration that' if len(front) == 1 else 'configurations that'} no other beats"
    )
    head.append(f"{said} in every objective", style="not bold default")
    parts: list[RenderableType] = [head, tables.pareto(front, experiment.opt_targets)]
    if growth and growth[-1].value is not None:
        last = growth[-1]
        parts.append(Text(f"hypervolume {number(last.value)}, since trial {last.trial_id}", style="dim"))
    return Group(*parts)
