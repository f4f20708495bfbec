"""``windtunnel load``: from a URL or a file to what came of it."""

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
from rich.console import Console, Group, RenderableType
from rich.text import Text

from windtunnel.cli.console import make_console
from windtunnel.cli.data import as_json, as_json_line
from windtunnel.cli.load_view import LoadView, curve, story
from windtunnel.cli.verdict import FAILED, INTERRUPTED, OK
from windtunnel.concurrency import first_error
from windtunnel.config.document import FORMATS, Document, read_document
from windtunnel.errors import ConfigError
from windtunnel.loadgen.generators import run_load
from windtunnel.loadgen.hdrlog import log_lines
from windtunnel.loadgen.result import Result, SecondRecord
from windtunnel.loadgen.search import Tried, find_max_rate
from windtunnel.loadgen.thresholds import Threshold

__all__ = ["load_target"]

_OUTPUTS = (".csv", ".json", ".hlog")
_OPEN = ("rate", "users", "profile", "trace")


class _Ended(NamedTuple):
    code: int
    data: dict[str, Any]
    story: RenderableType


def load_target(
    target: str,
    given: Mapping[str, Any],
    *,
    profile: Path | None,
    headers: Sequence[str],
    thresholds: Sequence[str],
    abort_on: Sequence[str],
    slo: Sequence[str] | None,
    steps: Path | None,
    output: Path | None,
    as_data: bool,
) -> int:
    """Run one load test, or with ``slo`` a search, and give the exit code.

    :param given: options of the plan that override the file's.
    :raises WindtunnelError: if it cannot be run.
    """
    if output is not None and output.suffix not in _OUTPUTS:
        raise ConfigError(
            f"--output: expected a name that ends in {', '.join(_OUTPUTS)}, found {str(output)!r}"
        )
    for option, path in (("--output", output), ("--steps", steps)):
        if path is not None and not path.parent.is_dir():  # told before the load, not after it
            raise ConfigError(f"{option}: the folder {str(path.parent)!r} does not exist; create it first")
    plan, directory, document = _plan(target)
    plan = _overridden(plan, given, profile, headers)
    limits, aborts = (tuple(map(Threshold.parse, some)) for some in (thresholds, abort_on))
    console = make_console(sys.stderr if as_data else sys.stdout)

    async def run() -> _Ended:
        with LoadView(console) as view:
            async with _signals() as stop:
                if slo is not None:
                    wanted = tuple(map(Threshold.parse, slo))
                    return await _search(plan, wanted, directory, steps, view, console, stop)
                return await _test(plan, limits, aborts, directory, output, view, stop)

    try:
        ended = anyio.run(run)
    except ExceptionGroup as group:
        error = first_error(group)
        if document is not None and isinstance(error, ConfigError) and error.path:
            error = document.locate(error)
        raise error from None
    with contextlib.suppress(BrokenPipeError):
        if as_data:
            sys.stdout.write(as_json(ended.data))
        console.print(ended.story, soft_wrap=True)
    return ended.code


async def _test(
    plan: Mapping[str, Any],
    limits: Sequence[Threshold],
    aborts: Sequence[Threshold],
    directory: Path,
    output: Path | None,
    view: LoadView,
    stop: anyio.Event,
) -> _Ended:
    began = datetime.now(UTC)
    result = await run_load(
        plan,
        directory=directory,
        thresholds=limits,
        abort_on=aborts,
        watch=_watcher(view),
        stop=stop,
    )
    if output is not None:
        await anyio.to_thread.run_sync(_write, output, result, began)
    code = FAILED if result.missed or result.ended_by else OK
    return _Ended(INTERRUPTED if stop.is_set() else code, result.as_data(), story(result))


async def _search(
    plan: Mapping[str, Any],
    limits: Sequence[Threshold],
    directory: Path,
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
        plan,
        limits,
        directory=directory,
        tried=_read_steps(steps) if steps is not None else (),
        watch=_watcher(view),
        on_step=on_step,
        stop=stop,
    )
    points = [(one.rate, one.kept, one.latency_ms["p99"]) for one in found.tried]
    is_good = found.capacity.rate and not found.problem
    code = INTERRUPTED if stop.is_set() else OK if is_good else FAILED
    problem = [Text(f"ended early: {found.problem}", style="bold red")] if found.problem else []
    return _Ended(code, found.as_data(), Group(curve(points, found.capacity, found.knee), *problem))


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


# The plan


def _plan(target: str) -> tuple[dict[str, Any], Path, Document | None]:
    """The plan, where its files are, and the file it is in."""
    if "://" in target:
        return {"url": target}, Path.cwd(), None
    path = Path(target)
    if path.suffix == ".py":
        return _python_plan(path), path.parent.absolute(), None
    if path.suffix in FORMATS:
        document = read_document(path)
        return dict(document.data), path.parent.absolute(), document
    raise ConfigError(
        f"expected a URL such as http://127.0.0.1:8080/, a plan or a Python file, found {target!r}"
    )


def _python_plan(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"cannot read {str(path)!r}: {exc.strerror}") from None
    shared = {"resource": f"{path.name}:resource"} if "def resource(" in text else {}
    return {"scenarios": [{"function": f"{path.name}:load"}], **shared}


def _overridden(
    plan: Mapping[str, Any], given: Mapping[str, Any], profile: Path | None, headers: Sequence[str]
) -> dict[str, Any]:
    loads = {name: value for name, value in given.items() if name in _OPEN}
    if profile is not None:
        loads |= _profile(profile)
    kept = {name: value for name, value in plan.items() if not loads or name not in _OPEN}
    merged = {**kept, **given, **loads}
    if headers:
        merged["headers"] = {**plan.get("headers", {}), **dict(map(_header, headers))}
    return merged


def _profile(path: Path) -> dict[str, Any]:
    if path.suffix not in FORMATS:
        return {"trace": str(path.absolute())}
    found = read_document(path).data
    if "profile" not in found:
        raise ConfigError("expected profile: a list of {rate, to, for}", source=str(path))
    return {"profile": found["profile"]}


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ConfigError(f"--header: expected 'Name: value', found {text!r}")
    return name.strip(), value.strip()


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
