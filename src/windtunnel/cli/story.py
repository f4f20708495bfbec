"""``windtunnel show EXPERIMENT --trial N``: all that is kept about one trial."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import anyio
from rich.text import Text

from windtunnel.cli.console import make_console
from windtunnel.cli.data import as_json
from windtunnel.cli.logs import set_up_logging
from windtunnel.cli.stored import check_exists
from windtunnel.cli.words import assignments, duration, plain
from windtunnel.storage import Attempt, Story, open_storage
from windtunnel.texts import many

__all__ = ["show_trial"]


def show_trial(experiment_id: str, trial_id: int, storage: str, *, as_data: bool) -> None:
    """Print one trial with all its attempts.

    :raises NotFound: if there is no such experiment or trial.
    """
    set_up_logging(make_console(sys.stderr))
    check_exists(storage)
    found = anyio.run(_story, experiment_id, trial_id, storage)
    if as_data:
        sys.stdout.write(as_json(_data(found)))
    else:
        make_console(sys.stdout).print(Text("\n".join(_lines(experiment_id, found))), soft_wrap=True)


async def _story(experiment_id: str, trial_id: int, storage: str) -> Story:
    async with open_storage(storage) as opened:
        return await (await opened.open_experiment(experiment_id)).story(trial_id)


def _lines(experiment_id: str, story: Story) -> Iterator[str]:
    trial = story.trial
    yield f"{plain(experiment_id)}  trial {trial.trial_id}  {trial.status.name.lower()}"
    yield f"  configuration {trial.config_id}: {assignments(trial.config)}"
    if story.parameters:
        yield f"  parameters: {assignments(story.parameters)}"
    if trial.metrics is not None:
        yield f"  metrics: {assignments(trial.metrics)}"
    yield f"  {_moment(story.created)}  pending" + (f", priority {story.priority}" if story.priority else "")
    for attempt in story.attempts:
        yield from _attempt_lines(attempt)
    if trial.status.is_pending and story.attempts:
        yield "  now pending again"


def _attempt_lines(attempt: Attempt) -> Iterator[str]:
    yield f"attempt {attempt.attempt}" + (f" on {plain(attempt.host)}" if attempt.host else "")
    if attempt.started is not None:
        yield f"  {_moment(attempt.started)}  running"
    if attempt.ended is not None:
        kind = "" if attempt.kind is None else f" ({attempt.kind.value})"
        took = "" if attempt.started is None else duration((attempt.ended - attempt.started).total_seconds())
        yield f"  {_moment(attempt.ended)}  {attempt.status.name.lower()}{kind} after {took}"
    yield f"  {many(attempt.points, 'point')} of telemetry"
    if attempt.owner:
        yield f"  worker {plain(attempt.owner)}"
    for name, value in attempt.facts.items():
        told = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else value
        yield f"  {name}: {plain(str(told))}"
    yield from (f"  host {name}: {plain(str(value))}" for name, value in attempt.host_facts.items())
    if attempt.reason:
        yield from (f"  | {line}" for line in plain(attempt.reason).splitlines())


def _moment(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S}"


def _data(story: Story) -> dict[str, Any]:
    trial = story.trial
    return {
        "trial_id": trial.trial_id,
        "config_id": trial.config_id,
        "status": trial.status.name,
        "config": dict(trial.config),
        "parameters": dict(story.parameters),
        "metrics": None if trial.metrics is None else dict(trial.metrics),
        "created": story.created.isoformat(),
        "priority": story.priority,
        "attempts": [_attempt_data(attempt) for attempt in story.attempts],
    }


def _attempt_data(attempt: Attempt) -> dict[str, Any]:
    return {
        "attempt": attempt.attempt,
        "status": attempt.status.name,
        "kind": None if attempt.kind is None else attempt.kind.value,
        "owner": attempt.owner,
        "host": attempt.host,
        "started": None if attempt.started is None else attempt.started.isoformat(),
        "ended": None if attempt.ended is None else attempt.ended.isoformat(),
        "reason": attempt.reason,
        "telemetry_points": attempt.points,
        "facts": dict(attempt.facts),
        "host_facts": dict(attempt.host_facts),
    }
