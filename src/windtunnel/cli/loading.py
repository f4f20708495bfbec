"""``windtunnel load``: from what is to be done to what came of it."""

from __future__ import annotations

import contextlib
import csv
import json
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import anyio.to_thread
from rich.console import Console, RenderableType
from rich.text import Text

from windtunnel.cli.console import make_console
from windtunnel.cli.data import as_json, as_json_line
from windtunnel.cli.load_order import Order, order_of
from windtunnel.cli.load_view import LoadView, curve, story
from windtunnel.cli.verdict import Verdict, verdict_of_load, verdict_of_search
from windtunnel.errors import ConfigError
from windtunnel.loadgen.generators import run_load
from windtunnel.loadgen.hdrlog import log_lines
from windtunnel.loadgen.result import Result, SecondRecord
from windtunnel.loadgen.search import Tried, find_max_rate
from windtunnel.loadgen.thresholds import Threshold

__all__ = ["load_target"]

_OUTPUTS = (".csv", ".json", ".hlog")


class _Ended(NamedTuple):
    verdict: Verdict
    data: dict[str, Any]
    story: RenderableType


def load_target(options: Mapping[str, Any]) -> int:
    """Run one load test, or a search, and give the exit code.

    :param options: those of the command.
    :raises WindtunnelError: if it cannot be run.
    """
    _check_outputs(options)
    limits, aborts, slo = (
        tuple(map(Threshold.parse, options[name] or ())) for name in ("threshold", "abort_on", "slo")
    )
    order = order_of(options)
    as_data = options["as_json"]
    console = make_console(sys.stderr if as_data else sys.stdout)

    async def run() -> _Ended:
        with LoadView(console) as view:
            async with contextlib.AsyncExitStack() as stack:
                if order.generators.ssh is not None:
                    await stack.enter_async_context(order.generators.ssh)
                stop = await stack.enter_async_context(_signals())
                if options["find_max_rate"]:
                    return await _search(order, slo, options["steps"], view, console, stop)
                return await _test(order, limits, aborts, options["output"], view, stop)

    with order.located():
        ended = anyio.run(run)
    with contextlib.suppress(BrokenPipeError):
        if as_data:
            sys.stdout.write(as_json({**ended.data, "problem": ended.verdict.problem or None}))
        console.print(ended.story, soft_wrap=True)
        if ended.verdict.problem:
            console.print(Text(ended.verdict.problem, style="bold red"), soft_wrap=True)
    return ended.verdict.exit_code


def _check_outputs(options: Mapping[str, Any]) -> None:
    """What cannot be written is told before the load, not after it."""
    output = options["output"]
    if output is not None and output.suffix not in _OUTPUTS:
        raise ConfigError(
            f"--output: expected a name that ends in {', '.join(_OUTPUTS)}, found {str(output)!r}"
        )
    for name in ("output", "steps"):
        path = options[name]
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"--{name}: the folder {str(path.parent)!r} does not exist; create it first")


async def _test(
    order: Order,
    limits: Sequence[Threshold],
    aborts: Sequence[Threshold],
    output: Path | None,
    view: LoadView,
    stop: anyio.Event,
) -> _Ended:
    began = datetime.now(UTC)
    result = await run_load(
        order.plan,
        directory=order.directory,
        places=order.generators.places,
        thresholds=limits,
        abort_on=aborts,
        watch=_watcher(view),
        stop=stop,
    )
    if output is not None:
        await anyio.to_thread.run_sync(_write, output, result, began)
    return _Ended(verdict_of_load(result, interrupted=stop.is_set()), result.as_data(), story(result))


async def _search(
    order: Order,
    limits: Sequence[Threshold],
    steps: Path | None,
    view: LoadView,
    console: Console,
    stop: anyio.Event,
) -> _Ended:
    async def on_step(tried: Tried, result: Result) -> None:
        reasons = "; ".join(result.invalid_because)
        told = "kept" if tried.kept else "missed" if tried.valid else f"says nothing: {reasons}"
        p99 = tried.latency_ms["p99"]
        console.print(Text(f"{tried.rate:.5g}/s: {told}, p99 {p99 if p99 is None else f'{p99:.4g}'} ms"))
        if steps is not None:
            await anyio.to_thread.run_sync(_append, steps, tried)

    found = await find_max_rate(
        order.plan,
        limits,
        directory=order.directory,
        places=order.generators.places,
        tried=_read_steps(steps) if steps is not None else (),
        watch=_watcher(view),
        on_step=on_step,
        stop=stop,
    )
    points = [(one.rate, one.kept, one.latency_ms["p99"]) for one in found.tried]
    verdict = verdict_of_search(found, interrupted=stop.is_set())
    return _Ended(verdict, found.as_data(), curve(points, found.capacity, found.knee))


def _watcher(view: LoadView) -> Any:
    one_at_a_time = anyio.CapacityLimiter(1)

    async def watch(second: SecondRecord) -> None:
        # A paused terminal holds nothing up but its own thread.
        with anyio.move_on_after(0.5):
            await anyio.to_thread.run_sync(view.show, second, abandon_on_cancel=True, limiter=one_at_a_time)

    return watch


@contextlib.asynccontextmanager
async def _signals() -> AsyncIterator[anyio.Event]:
    """The event is set by the first SIGINT or SIGTERM; a second one interrupts the block."""
    stop = anyio.Event()

    async def listen() -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
            async for _ in received:
                if stop.is_set():
                    raise KeyboardInterrupt
                stop.set()

    async with anyio.create_task_group() as beside:
        beside.start_soon(listen)
        yield stop
        beside.cancel_scope.cancel()


# What is kept


def _write(path: Path, result: Result, began: datetime) -> None:
    match path.suffix:
        case ".json":
            path.write_text(as_json(result.as_data()))
        case ".hlog":
            lines = log_lines((one.interval for one in result.seconds), start=began)
            path.write_text("".join(f"{line}\n" for line in lines))
        case _:
            with path.open("w", newline="") as file:
                rows = [_row(one) for one in result.seconds]
                writer = csv.DictWriter(file, list(rows[0]) if rows else ["second"])
                writer.writeheader()
                writer.writerows(rows)


def _row(second: SecondRecord) -> dict[str, Any]:
    latencies = {f"{name}_ms": value for name, value in second.latency_ms.items()}
    return {
        "second": second.second,
        "offered": second.offered,
        "sent": second.sent,
        "completed": second.completed,
        "errors": sum(second.errors.values()),
        "in_flight": second.in_flight,
        "held_back": second.held,
        **latencies,
        "schedule_error_p99_ms": second.late_ms,
    }


def _append(path: Path, tried: Tried) -> None:
    with path.open("a") as file:
        file.write(as_json_line(tried._asdict()))


def _read_steps(path: Path) -> list[Tried]:
    """What an earlier search has written."""
    if not path.exists():
        return []
    found: list[Tried] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            found.append(Tried(**json.loads(line)))
        except (ValueError, TypeError):
            raise ConfigError(
                "expected a step of a search; remove the line, or name another file",
                source=str(path),
                line=number,
            ) from None
    return found
