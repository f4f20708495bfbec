"""Whether what a run reported is a success."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from windtunnel.model import RunResult, Status
from windtunnel.objectives import Objective

__all__ = ["judge"]


def judge(result: RunResult, objectives: Mapping[str, Objective]) -> tuple[RunResult, str | None]:
    """The result as it is stored, and why it fails if it does.

    Every objective must be a finite number within its bounds.
    """
    if not result.status.is_succeeded:
        return result, None
    metrics = result.metrics or {}
    for name, objective in objectives.items():
        problem = _problem(name, objective, metrics)
        if problem is not None:
            return result._replace(status=Status.FAILED), problem
    return result, None


def _problem(name: str, objective: Objective, metrics: Mapping[str, Any]) -> str | None:
    if name not in metrics:
        given = ", ".join(map(repr, metrics)) or "nothing"
        return f"the run gave no objective {name!r}; it gave {given}"
    value = metrics[name]
    try:
        finite = not isinstance(value, str | bool) and math.isfinite(value)
    except (TypeError, OverflowError):
        finite = False
    if not finite:
        return f"the objective {name!r} must be a finite number, found {value!r}"
    outside = objective.problem(value)
    return f"the objective {name!r} is {value!r}, {outside}" if outside else None
