"""Decisions, without any doing: counts in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from windtunnel.model import Direction, RunResult, Status

__all__ = ["configurations_tried", "judge", "suggestions_due"]

_AT_ONCE = 512
"""Trials stored in one go at most."""


def suggestions_due(
    *, total: int, budget: int, pending: int, free: int, concurrency: int, repeats: int, learns: bool
) -> int:
    """How many new configurations to ask for now.

    An optimizer that learns is asked only for slots that are free, since a later suggestion knows more.
    Others are asked ahead in batches, so that no slot waits for them.

    :param total: trials the experiment has.
    :param budget: trials it shall have in the end.
    :param pending: trials that wait to be claimed.
    :param free: slots without a trial.
    """
    remaining = budget - total
    idle = free - pending
    if learns or pending > _ahead(concurrency) // 2:
        wanted = idle
    else:
        wanted = max(idle, _ahead(concurrency) - pending)
    return max(0, math.ceil(min(wanted, remaining, _AT_ONCE) / repeats))


def _ahead(concurrency: int) -> int:
    """How many trials to hold in store when asking early costs nothing."""
    return min(max(2 * concurrency, 64), _AT_ONCE)


def configurations_tried(total: int, repeats: int) -> int:
    """How many configurations ``total`` trials came from: where a resumed optimizer goes on."""
    return math.ceil(total / repeats)


def judge(result: RunResult, objectives: Mapping[str, Direction]) -> tuple[RunResult, str | None]:
    """The result as it is stored, and why it fails if it does: every objective must be a finite number."""
    if not result.status.is_succeeded:
        return result, None
    metrics = result.metrics or {}
    for name in objectives:
        problem = _problem(name, metrics)
        if problem is not None:
            return result._replace(status=Status.FAILED), problem
    return result, None


def _problem(name: str, metrics: Mapping[str, Any]) -> str | None:
    if name not in metrics:
        given = ", ".join(map(repr, metrics)) or "nothing"
        return f"the run gave no objective {name!r}; it gave {given}"
    value = metrics[name]
    try:
        finite = not isinstance(value, str | bool) and math.isfinite(value)
    except (TypeError, OverflowError):
        finite = False
    return None if finite else f"the objective {name!r} must be a finite number, found {value!r}"
