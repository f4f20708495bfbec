"""``windtunnel copy`` and ``windtunnel import-mlos``: experiments from one database to another."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial

import anyio
from rich.console import Console
from rich.text import Text

from windtunnel.cli.console import is_live, make_console
from windtunnel.cli.data import as_json
from windtunnel.cli.logs import set_up_logging
from windtunnel.cli.stored import place_of
from windtunnel.cli.words import plain
from windtunnel.storage.copying import copy_storage
from windtunnel.storage.importing import import_mlos
from windtunnel.storage.transfer import Progress, Transferred
from windtunnel.texts import many

__all__ = ["copy_experiments", "import_experiments"]


def copy_experiments(source: str, target: str, experiments: Sequence[str] | None, *, as_data: bool) -> None:
    """Copy experiments, and tell what was copied.

    :raises WindtunnelError: if they cannot be copied.
    """
    _transfer(partial(copy_storage, source, target, experiments or None), source, target, as_data=as_data)


def import_experiments(
    source: str, target: str, experiments: Sequence[str] | None, *, prefix: str, as_data: bool
) -> None:
    """Import experiments of mlos_bench, and tell what was imported.

    :raises WindtunnelError: if they cannot be imported.
    """
    work = partial(import_mlos, source, target, experiments or None, prefix=prefix)
    _transfer(work, source, target, as_data=as_data)


def _transfer(
    work: Callable[..., Awaitable[list[Transferred]]], source: str, target: str, *, as_data: bool
) -> None:
    console = make_console(sys.stderr if as_data else sys.stdout)
    set_up_logging(make_console(sys.stderr))
    with _shown(console) as progress:
        done = anyio.run(partial(work, progress=progress))
    if as_data:
        sys.stdout.write(as_json([asdict(one) for one in done]))
        return
    for one in done:
        console.print(plain(_told(one)), soft_wrap=True)
        for note in one.notes:
            console.print(Text(f"  {plain(note)}", style="dim"), soft_wrap=True)
    if not done:
        console.print(f"{place_of(source)} holds no experiment", soft_wrap=True)
    else:
        console.print(Text(f"in {place_of(target)}", style="dim"), soft_wrap=True)


@contextlib.contextmanager
def _shown(console: Console) -> Iterator[Progress | None]:
    """A status line where there is a terminal."""
    if not is_live(console):
        yield None
        return
    with console.status("") as status:
        yield lambda done: status.update(Text(plain(_told(done))))


def _told(done: Transferred) -> str:
    updated = f", {done.updated} brought up to date" if done.updated else ""
    return (
        f"{done.experiment_id}: {many(done.trials, 'trial')}, {done.new} of them new{updated}; "
        f"{done.points} new points of telemetry"
    )
