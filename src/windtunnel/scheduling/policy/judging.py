"""Whether what a run reported is a success."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from windtunnel.model import Direction, RunResult, Status

__all__ = ["judge"]


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
