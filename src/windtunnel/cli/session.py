"""What ``run`` and ``worker`` have in common: a session on one experiment, from its start to its story."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
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
from windtunnel.cli.logs import LogFormat, set_up_logging
from windtunnel.cli.ranking import by_configuration
from windtunnel.cli.stored import data_of, is_gone, place_of, show_command
from windtunnel.cli.verdict import Verdict, verdict
from windtunnel.cli.words import outlier, plain
from windtunnel.config.build import Assembly
from windtunnel.config.load import LoadedConfig
from windtunnel.model import Summary
from windtunnel.scheduling import Scheduler
from windtunnel.storage import Experiment
from windtunnel.storage.reads import Counts

__all__ = ["Ended", "Output", "hold", "make_importable", "present", "summary_data"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a session tells, how, and where.

    :ivar as_data: print JSON to the standard output and everything else to the standard error.
    :ivar metrics_port: where metrics are served; None if nowhere.
    """

    as_data: bool = False
    verbosity: int = 0
    log_format: LogFormat = "text"
    metrics_port: int | None = None

    def console(self) -> Console:
        """Where the progress goes. The log goes to the standard error, but never across a live view."""
        stream = sys.stderr if self.as_data else sys.stdout
        console = make_console(stream)
        log = console if stream.isatty() else make_console(sys.stderr)
        set_up_logging(log, verbosity=self.verbosity, form=self.log_format)
        return console


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What is left to tell when a session is over.

    :ivar story: for people.
    :ivar data: for programs.
    """

    judged: Verdict
    story: RenderableType
    data: dict[str, Any] | None = None


def present(session: Callable[[Console], Awaitable[Ended]], console: Console, *, as_data: bool) -> int:
    """Hold a session, print how it went, and give the exit code.

    :raises WindtunnelError: what the session raises.
    """
    # An environment in this process may print; that must not get between the JSON.
    quiet = contextlib.redirect_stdout(sys.stderr) if as_data else contextlib.nullcontext()
    with quiet:
        ended = anyio.run(session, console)
    with contextlib.suppress(BrokenPipeError):  # whoever read it has gone; how the run went stays true
        if as_data:
            sys.stdout.write(as_json(ended.data))
        console.print(ended.story, soft_wrap=True)
    return ended.judged.exit_code


def make_importable(directory: Path) -> None:
    """Let dotted paths name modules in it. It comes last: scripts there hide nothing that is installed."""
    if str(directory) not in sys.path:
        sys.path.append(str(directory))


async def hold(assembly: Assembly, loaded: LoadedConfig, console: Console, output: Output) -> Ended:
    """Run trials in front of a person until the session is over.

    :raises WindtunnelError: what ``Scheduler.run`` raises.
    """
    config, (scheduler, experiment) = loaded.config, assembly
    before = await experiment.counts()
    gc.freeze()  # what is loaded by now stays: to look through it again and again costs a tenth of the time
    _announce(loaded, before, console)
    async with _metrics(scheduler, output.metrics_port):
        summary = await conduct(
            scheduler, experiment, trials=config.trials, grace=config.timeouts.teardown, console=console
        )
    judged = verdict(summary, target=config.trials)
    return Ended(
        judged=judged,
        story=await _story(experiment, loaded, summary, before, judged),
        data={**await data_of(experiment), **summary_data(summary)} if output.as_data else None,
    )


def _metrics(scheduler: Scheduler, port: int | None) -> AbstractAsyncContextManager[object]:
    if port is None:
        return contextlib.nullcontext()
    from windtunnel.observing.prometheus import serving_metrics

    return serving_metrics(scheduler, port=port)


def summary_data(summary: Summary) -> dict[str, Any]:
    """What programs are told of a session beside what is stored."""
    return {
        "stopped_by": summary.stopped_by,
        "stopped_because": summary.stopped_because,
        "outlier_hosts": [host._asdict() for host in summary.outlier_hosts],
    }


def _announce(loaded: LoadedConfig, before: Counts, console: Console) -> None:
    config = loaded.config
    resumed = f"; resuming, so far {tables.counted(before)}" if before.total else ""
    size = f"{tables.counted(Counts(total=config.trials))}, {config.concurrency} at once"
    line = f"{plain(config.experiment)}: {size}, in {place_of(config.storage)}{resumed}"
    with contextlib.suppress(OSError):
        console.print(Text(line, style="dim"), soft_wrap=True)


async def _story(
    experiment: Experiment, loaded: LoadedConfig, summary: Summary, before: Counts, judged: Verdict
) -> RenderableType:
    """The counts, the best configuration, what went wrong, and how to see more."""
    counts, best = await experiment.counts(), summary.best
    parts: list[RenderableType] = [*_remarks(loaded, summary, before, counts, judged)]
    parts += [Text(tables.counted(counts), style="bold")]
    if best is not None:
        repeats = [trial async for trial in experiment.trials(config_id=best.config_id)]
        stats = by_configuration(repeats).get(best.config_id)
        parts += [tables.best_block(best, stats, summary.objectives)]
    failure = await experiment.last_failure() if summary.failed else None
    if failure is not None:
        parts += [tables.failure_block(failure)]
    parts += [Text(outlier(host), style="yellow") for host in summary.outlier_hosts]
    storage = loaded.config.storage
    more = f"more: {show_command(experiment.experiment_id, storage)}"
    if is_gone(storage):
        more = "this was kept in memory only; name a database as the storage to see more of it"
    return Group(*parts, *_problem(judged), Text(more, style="dim"))


def _remarks(
    loaded: LoadedConfig, summary: Summary, before: Counts, counts: Counts, judged: Verdict
) -> list[str]:
    """Why there is nothing to tell, or less than was asked for."""
    if (reason := summary.stopped_because) is not None:
        return [] if reason in judged.problem else [f"stopped early: {reason}"]
    target = loaded.config.trials
    is_exhausted = counts.total < target and not summary.interrupted
    remarks = []
    if counts == before and not judged.interrupted:
        is_worker = loaded.document is None
        more = "" if is_exhausted or is_worker else "; ask for more with --trials N"
        remarks += [f"nothing to do: {plain(loaded.config.experiment)} is complete{more}"]
    if is_exhausted:
        remarks += [f"{counts.total} of {target} trials: the optimizer has no more configurations to propose"]
    return remarks


def _problem(judged: Verdict) -> list[RenderableType]:
    return [Text(judged.problem, style="bold red")] if judged.problem else []
