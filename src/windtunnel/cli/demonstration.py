"""``windtunnel demo``: tunes SQLite with the example that is shipped, and says what that was good for."""

from __future__ import annotations

import re
import shlex
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import anyio
from rich.console import Console, Group, RenderableType
from rich.text import Text

from windtunnel.cli import tables
from windtunnel.cli.comparison import compare, render
from windtunnel.cli.conduct import conduct
from windtunnel.cli.console import make_console
from windtunnel.cli.data import as_json
from windtunnel.cli.logs import set_up_logging
from windtunnel.cli.program import program
from windtunnel.cli.session import summary_data
from windtunnel.cli.stored import data_of, place_of, show_command
from windtunnel.cli.verdict import Verdict, verdict
from windtunnel.config.build import assemble
from windtunnel.config.load import LoadedConfig, load
from windtunnel.errors import ConfigError
from windtunnel.storage import Experiment, ExperimentSummary, Storage, open_storage
from windtunnel.storage.reads import Counts

__all__ = ["DEMO_STORAGE", "EXAMPLE", "next_session", "run_demo"]

EXAMPLE = Path(str(resources.files("windtunnel"))) / "examples" / "sqlite_pragmas" / "experiment.yaml"
DEMO_STORAGE = "sqlite:///windtunnel-demo.db"
_ABOUT = """\
Each trial makes a database in {} and reads and writes it for about a second.
Every setting it may choose keeps commits as safe as SQLite's defaults do, or safer."""


class _Ended(NamedTuple):
    """What is left to tell when the demo is over."""

    judged: Verdict
    report: RenderableType
    data: dict[str, Any] | None


def run_demo(*, overrides: Mapping[str, object], as_data: bool, verbosity: int) -> int:
    """Run the example, or resume it where it was interrupted, and print what the best configuration gains.

    :param overrides: ``storage`` (default ``DEMO_STORAGE``), ``trials``, ``concurrency`` and ``seed``.
    :param as_data: print JSON to the standard output and everything else to the standard error.
    :returns: the exit code.
    :raises WindtunnelError: if it cannot be run.
    """
    console = make_console(sys.stderr if as_data else sys.stdout)
    set_up_logging(console if console.file.isatty() else make_console(sys.stderr), verbosity=verbosity)
    with _example(overrides) as loaded:
        ended = anyio.run(_run, loaded, console, as_data)
    if as_data:
        sys.stdout.write(as_json(ended.data))
    console.print(ended.report)
    return ended.judged.exit_code


@contextmanager
def _example(overrides: Mapping[str, object]) -> Iterator[LoadedConfig]:
    """The example, to be run while the block lasts. Its data lies below the current directory.

    Not in the system's place for temporary files: that is often in memory, where nothing has to reach a disk.

    :raises ConfigError: if an override is wrong or the current directory cannot be written to.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        scratch = tempfile.TemporaryDirectory(
            prefix="windtunnel-demo-", dir=Path.cwd(), ignore_cleanup_errors=True
        )
    except OSError as exc:
        raise ConfigError(
            f"the demo measures on the disk of the current directory, but cannot write there: {exc}; "
            "change to a directory that you may write to"
        ) from exc
    with scratch as directory:
        names = {"data_dir": directory, "python": sys.executable}
        yield load(EXAMPLE, overrides={"storage": DEMO_STORAGE, **given}, globals=names)


async def _run(loaded: LoadedConfig, console: Console, as_data: bool) -> _Ended:
    async with open_storage(loaded.config.storage) as storage:
        loaded = await _in_session(loaded, storage)
        config = loaded.config
        async with assemble(loaded, storage=storage) as (scheduler, experiment):
            _announce(console, loaded, await experiment.counts())
            summary = await conduct(
                scheduler, experiment, trials=config.trials, grace=config.timeouts.teardown, console=console
            )
            judged = verdict(summary, target=config.trials)
            return _Ended(
                judged=judged,
                report=await _report(experiment, judged, storage=config.storage),
                data={**await data_of(experiment), **summary_data(summary)} if as_data else None,
            )


async def _in_session(loaded: LoadedConfig, storage: Storage) -> LoadedConfig:
    config = loaded.config
    session = next_session(config.experiment, await storage.experiments())
    return replace(
        loaded,
        config=config.model_copy(update={"experiment": session}),
        globals={**loaded.globals, "experiment_id": session},
    )


def next_session(name: str, stored: Iterable[ExperimentSummary]) -> str:
    """The id to run under: ``name``, then ``name-2`` and so on; the newest again if it was interrupted."""
    form = re.compile(rf"{re.escape(name)}(?:-([1-9]\d*))?")
    sessions = {int(match[1] or 1): one for one in stored if (match := form.fullmatch(one.experiment_id))}
    if not sessions:
        return name
    newest = max(sessions)
    counts = sessions[newest].counts
    is_interrupted = counts.pending + counts.running + counts.canceled - counts.aborted > 0
    return sessions[newest].experiment_id if is_interrupted else f"{name}-{newest + 1}"


def _announce(console: Console, loaded: LoadedConfig, before: Counts) -> None:
    config = loaded.config
    size = f"{tables.counted(Counts(total=config.trials))}, {config.concurrency} at once"
    console.print(f"Tuning SQLite: {size}", style="bold", soft_wrap=True)
    console.print(_ABOUT.format(Path.cwd()), soft_wrap=True)
    resumed = f"; resuming, so far {tables.counted(before)}" if before.total else ""
    kept = f"{config.experiment}, kept in {place_of(config.storage)}{resumed}"
    console.print(kept, style="dim", soft_wrap=True)


async def _report(experiment: Experiment, judged: Verdict, *, storage: str) -> RenderableType:
    """What came of it, for people: the best beside the default, what went wrong, and what to do next."""
    parts: list[RenderableType] = []
    if (failure := await experiment.last_failure()) is not None:
        parts.append(tables.failure_block(failure))
    if (best := await experiment.best()) is not None:
        comparison = compare(
            [record async for record in experiment.trials()],
            default=dict(experiment.tunables.defaults()),
            best_config_id=best.config_id,
        )
        parts.append(render(comparison, metric=next(iter(experiment.opt_targets)), beside=["p99_ms"]))
    if judged.problem:
        parts.append(Text(judged.problem, style="bold red"))
    return Group(*parts, Text(), *_next_steps(experiment.experiment_id, storage))


def _next_steps(experiment_id: str, storage: str) -> list[RenderableType]:
    steps = {
        "See more of it:": show_command(experiment_id, storage),
        "Make it yours; copy this file with the script beside it, and change what you like:": (
            f"{program()} run {shlex.quote(str(EXAMPLE))}"
        ),
    }
    lines: list[RenderableType] = []
    for why, command in steps.items():
        lines += [Text(why), Text(f"  {command}", style="bold", overflow="ignore", no_wrap=True)]
    return lines
