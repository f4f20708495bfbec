"""``windtunnel run``: one experiment from its file to its best configuration."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from rich.console import Console, Group, RenderableType
from rich.text import Text

from windtunnel.cli import tables
from windtunnel.cli.conduct import conduct
from windtunnel.cli.console import make_console
from windtunnel.cli.data import as_json
from windtunnel.cli.logs import set_up_logging
from windtunnel.cli.ranking import by_configuration
from windtunnel.cli.stored import data_of, place_of, show_command
from windtunnel.cli.verdict import Verdict, verdict
from windtunnel.cli.words import plain
from windtunnel.config.build import Assembly, assemble
from windtunnel.config.load import LoadedConfig, load
from windtunnel.model import Summary
from windtunnel.storage import Experiment
from windtunnel.storage.reads import Counts

__all__ = ["run_file"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """What is left to tell when a run is over.

    :ivar story: for people.
    :ivar data: for programs.
    """

    judged: Verdict
    story: RenderableType
    data: dict[str, Any] | None = None


def run_file(
    file: Path,
    *,
    overrides: Mapping[str, object],
    names: Mapping[str, object],
    as_data: bool,
    verbosity: int,
) -> int:
    """Run, or resume, what ``file`` describes, and print how it went.

    :param names: values for ``$name``.
    :param as_data: print JSON to the standard output and everything else to the standard error.
    :returns: the exit code.
    :raises WindtunnelError: if it cannot be run.
    """
    console = _console(sys.stderr if as_data else sys.stdout, verbosity)
    loaded = load(file, overrides=overrides, globals=names)
    _make_importable(file.absolute().parent)
    # An environment in this process may print; that must not get between the JSON.
    quiet = contextlib.redirect_stdout(sys.stderr) if as_data else contextlib.nullcontext()
    with quiet:
        ended = anyio.run(_run, loaded, console, as_data)
    with contextlib.suppress(BrokenPipeError):  # whoever read it has gone; how the run went stays true
        if as_data:
            sys.stdout.write(as_json(ended.data))
        console.print(ended.story, soft_wrap=True)
    return ended.judged.exit_code


def _make_importable(directory: Path) -> None:
    """Let dotted paths name modules in it. It comes last: scripts there hide nothing that is installed."""
    if str(directory) not in sys.path:
        sys.path.append(str(directory))


def _console(stream: Any, verbosity: int) -> Console:
    """Where the progress goes. The log goes to the standard error, but never across a live view."""
    console = make_console(stream)
    set_up_logging(console if stream.isatty() else make_console(sys.stderr), verbosity=verbosity)
    return console


async def _run(loaded: LoadedConfig, console: Console, as_data: bool) -> _Ended:
    async with assemble(loaded) as assembly:
        before = await assembly.experiment.counts()
        summary = await _conduct(assembly, loaded, console)
        judged = verdict(summary, target=loaded.config.trials)
        return _Ended(
            judged=judged,
            story=await _story(assembly.experiment, loaded, summary, before, judged),
            data=await data_of(assembly.experiment) if as_data else None,
        )


async def _conduct(assembly: Assembly, loaded: LoadedConfig, console: Console) -> Summary:
    config, (scheduler, experiment) = loaded.config, assembly
    before = await experiment.counts()
    resumed = f"; resuming, so far {tables.counted(before)}" if before.total else ""
    size = f"{tables.counted(Counts(total=config.trials))}, {config.concurrency} at once"
    line = f"{plain(config.experiment)}: {size}, in {place_of(config.storage)}{resumed}"
    with contextlib.suppress(OSError):
        console.print(Text(line, style="dim"), soft_wrap=True)
    return await conduct(
        scheduler, experiment, trials=config.trials, grace=config.timeouts.teardown, console=console
    )


async def _story(
    experiment: Experiment, loaded: LoadedConfig, summary: Summary, before: Counts, judged: Verdict
) -> RenderableType:
    """The counts, the best configuration, what went wrong, and how to see more."""
    counts, best = await experiment.counts(), summary.best
    name, target = plain(experiment.experiment_id), loaded.config.trials
    is_exhausted = counts.total < target and not summary.interrupted
    parts: list[RenderableType] = []
    if counts == before and not judged.interrupted:
        more = "" if is_exhausted else "; ask for more with --trials N"
        parts += [f"nothing to do: {name} is complete{more}"]
    if is_exhausted:
        parts += [f"{counts.total} of {target} trials: the optimizer has no more configurations to propose"]
    parts += [Text(tables.counted(counts), style="bold")]
    if best is not None:
        repeats = [trial async for trial in experiment.trials(config_id=best.config_id)]
        stats = by_configuration(repeats).get(best.config_id)
        parts += [tables.best_block(best, stats, summary.objectives)]
    failure = await experiment.last_failure() if summary.failed else None
    if failure is not None:
        parts += [tables.failure_block(failure)]
    command = show_command(experiment.experiment_id, loaded.config.storage)
    return Group(*parts, *_problem(judged), Text(f"more: {command}", style="dim"))


def _problem(judged: Verdict) -> list[RenderableType]:
    return [Text(judged.problem, style="bold red")] if judged.problem else []
