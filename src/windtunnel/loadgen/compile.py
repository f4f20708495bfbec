"""From a plan to a client: what can be known before the first request is made ready here."""

from __future__ import annotations

import bisect
import csv
import importlib
import importlib.util
import inspect
import itertools
import json
import random
import re
import ssl
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from windtunnel.errors import ConfigError
from windtunnel.loadgen.arrivals import due_times, share_of
from windtunnel.loadgen.calls import CallClient, CallSession
from windtunnel.loadgen.checks import checker, saver
from windtunnel.loadgen.client import Client
from windtunnel.loadgen.connection import HttpStep, Session
from windtunnel.loadgen.http import HttpClient, Origin
from windtunnel.loadgen.plan import LoadPlan, ScenarioPlan, StepPlan
from windtunnel.loadgen.recorder import Recorder
from windtunnel.options import REFERENCE, as_text, expand, nearest, shown
from windtunnel.texts import unreadable

__all__ = ["Part", "client_of", "named", "resource_of", "schedule"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MOST_DATA = 64 << 20


class Part:
    """Which share of the load one generator has: every ``of``-th arrival from the ``number``-th on."""

    def __init__(self, number: int = 0, of: int = 1) -> None:
        self.number, self.of = number, of

    def share(self, total: int) -> int:
        """Its share of something that is divided, at least 1."""
        return max(total // self.of + (self.number < total % self.of), 1)


def schedule(plan: LoadPlan, directory: Path) -> Iterator[int]:
    """The intended start of every request, in ns from the beginning, the warm-up included.

    :raises ConfigError: if the trace cannot be read.
    """
    if plan.trace is None:
        return due_times(plan.pieces(), seed=plan.seed if plan.arrivals == "poisson" else None)
    until = plan.whole_s if plan.duration is not None else float("inf")
    return (round(time_s * 1e9) for time_s in _trace(directory / plan.trace) if time_s < until)


def _trace(path: Path) -> list[float]:
    times: list[float] = []
    for number, line in enumerate(_lines(path, ("trace",)), 1):
        text = line.partition(",")[0].strip()
        try:
            times.append(float(text))
        except ValueError:
            if number > 1 or not text:  # a first line may be a header
                raise ConfigError(
                    f"expected a time in seconds, found {shown(text)}",
                    path=("trace",),
                    source=str(path),
                    line=number,
                ) from None
    if times != sorted(times) or not times or times[0] < 0:
        raise ConfigError(f"expected times in {str(path)!r} that rise from 0", path=("trace",))
    return times


def client_of(
    plan: LoadPlan, recorder: Recorder, part: Part, directory: Path, resource: Any = None
) -> Client:
    """The client of a generator.

    :raises ConfigError: if something the plan names is not there.
    """
    rows = _rows(directory / plan.data) if plan.data is not None else []
    numbers = itertools.count(part.number, part.of)
    limit = part.share(plan.connections if plan.users is None else plan.users)
    timeout_s = plan.timeout.total_seconds()
    scenarios = _scenarios(plan)
    choose = _chooser(scenarios, random.Random(f"{plan.seed} {part.number}"))  # noqa: S311 - no secret
    if plan.calls_functions:
        functions = [named(one.function or "", directory) for one in scenarios]
        lists = [recorder.latencies_of(one.name) for one in scenarios]

        def call() -> CallSession:
            chosen, number = choose(), next(numbers)
            return CallSession(
                functions[chosen], lists[chosen], number, rows[number % len(rows)] if rows else {}
            )

        return CallClient(recorder, limit=limit, timeout_s=timeout_s, sessions=call, resource=resource)

    known = {*(rows[0] if rows else ()), "number"}
    steps = [_steps(one, plan, recorder, known) for one in scenarios]
    wants_values = any(callable(step.payload) for some in steps for step in some)

    def session() -> Session:
        number = next(numbers)
        values = {**(rows[number % len(rows)] if rows else {}), "number": number} if wants_values else {}
        return Session(steps[choose()], values)

    return HttpClient(
        recorder,
        Origin(*plan.address(), _tls(plan, directory)),
        limit=limit,
        timeout_s=timeout_s,
        sessions=session,
        only=session() if len(steps) == 1 and not wants_values else None,
        looks_inside=any(step.looks_inside for some in steps for step in some),
    )


def _scenarios(plan: LoadPlan) -> Sequence[ScenarioPlan]:
    if plan.scenarios:
        return plan.scenarios
    target = plan.target()
    path = (target.path or "/") + (f"?{target.query}" if target.query else "")
    return [ScenarioPlan(steps=(StepPlan(path=path),))]


def _chooser(scenarios: Sequence[ScenarioPlan], chance: random.Random) -> Callable[[], int]:
    """Chooses the number of one by weight."""
    if len(scenarios) == 1:
        return lambda: 0
    limits = list(itertools.accumulate(one.weight for one in scenarios))
    return lambda: min(bisect.bisect(limits, chance.random() * limits[-1]), len(limits) - 1)


# HTTP


def _steps(
    scenario: ScenarioPlan, plan: LoadPlan, recorder: Recorder, known: Iterable[str]
) -> list[HttpStep]:
    names = set(known)
    steps: list[HttpStep] = []
    for step in scenario.steps:
        steps.append(
            HttpStep(
                payload=_payload(step, plan, names),
                latencies=recorder.latencies_of(step.name or scenario.name),
                problem=checker(step.check) if step.check is not None else None,
                save=saver(step.save) if step.save else None,
                think_s=step.think.total_seconds(),
                is_head=step.method == "HEAD",
            )
        )
        names.update(step.save)
    return steps


def _payload(step: StepPlan, plan: LoadPlan, known: set[str]) -> bytes | Callable[[Mapping[str, Any]], bytes]:
    target = plan.target()
    headers = {"Host": target.netloc, "User-Agent": f"windtunnel/{version('windtunnel')}", "Accept": "*/*"}
    headers |= plan.headers | step.headers
    for text in (step.path, *headers, *headers.values()):
        if _CONTROL.search(text):
            raise ConfigError(f"expected one line without controls, found {shown(text)}", path=("headers",))
    head = f"{step.method} {step.path} HTTP/1.1\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    texts = (head, step.body)
    wanted = {match["name"] for text in texts for match in REFERENCE.finditer(text or "")}
    if not wanted:
        return _request(head, step.body)
    for name in sorted(wanted - {None} - known):
        raise ConfigError(
            f"${name} is not defined{nearest(name, known)}; $$ is a dollar sign", path=("scenarios",)
        )
    return lambda values: _request(
        # What comes from data must not smuggle in a header.
        expand(head, {name: _CONTROL.sub(" ", as_text(value)) for name, value in values.items()}),
        None if step.body is None else expand(step.body, values),
    )


def _request(head: str, body: str | None) -> bytes:
    content = b"" if body is None else body.encode()
    length = "" if body is None else f"Content-Length: {len(content)}\r\n"
    return f"{head}{length}\r\n".encode() + content


def _tls(plan: LoadPlan, directory: Path) -> ssl.SSLContext | None:
    if plan.target().scheme == "http":
        return None
    try:
        context = ssl.create_default_context(
            cafile=None if plan.ca_file is None else str(directory / plan.ca_file)
        )
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"cannot use {shown(plan.ca_file)}: {exc}", path=("ca_file",)) from None
    if plan.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


# Data and functions


def _lines(path: Path, where: tuple[str, ...]) -> list[str]:
    try:
        if path.stat().st_size > _MOST_DATA:
            raise ConfigError(f"expected at most {_MOST_DATA >> 20} MiB in {str(path)!r}", path=where)
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(unreadable(path, exc), path=where) from None


def _rows(path: Path) -> list[dict[str, Any]]:
    lines = _lines(path, ("data",))
    rows: list[dict[str, Any]]
    if path.suffix in (".jsonl", ".ndjson"):
        rows = [_json_row(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    else:
        rows = [{str(name): value or "" for name, value in row.items()} for row in csv.DictReader(lines)]
    if not rows:
        raise ConfigError(f"expected rows in {str(path)!r}, found none", path=("data",))
    return rows


def _json_row(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise ConfigError(
            f"expected a JSON object, found {shown(line)}", path=("data",), source=str(path), line=number
        )
    return row


def named(name: str, directory: Path) -> Any:
    """What ``package.module:name`` or ``file.py:name`` leads to, a callable.

    :raises ConfigError: if there is no such thing.
    """
    where, _, attribute = name.rpartition(":")
    if not where:
        raise ConfigError(
            f"expected package.module:name or file.py:name, found {shown(name)}", path=("function",)
        )
    try:
        module = (
            _module_of_file(directory / where) if where.endswith(".py") else importlib.import_module(where)
        )
    except Exception as exc:
        raise ConfigError(
            f"cannot import {where!r}: {type(exc).__name__}: {exc}", path=("function",)
        ) from exc
    found = getattr(module, attribute, None)
    if not callable(found):
        known = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        raise ConfigError(
            f"{where!r} has no function {attribute!r}{nearest(attribute, known)}", path=("function",)
        )
    return found


def _module_of_file(path: Path) -> Any:
    name = f"windtunnel_load_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise FileNotFoundError(path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module  # what is half loaded is not kept
    return sys.modules[name]


def resource_of(plan: LoadPlan, directory: Path) -> AbstractAsyncContextManager[Any] | None:
    """What functions are to share, not entered yet.

    :raises ConfigError: if it is no async context manager.
    """
    if plan.resource is None:
        return None
    made = named(plan.resource, directory)()
    if not isinstance(made, AbstractAsyncContextManager):
        raise ConfigError(
            f"{plan.resource!r} must be an async context manager, found {shown(made)}", path=("resource",)
        )
    return made


def share(plan: LoadPlan, directory: Path, part: Part, *, since: int = 0) -> Iterator[int]:
    """The starts that are this generator's.

    :param since: leave out those before this time, in ns from the beginning.
    """
    times = schedule(plan, directory)
    return share_of(
        itertools.dropwhile(lambda time: time < since, times) if since else times, part.number, part.of
    )
