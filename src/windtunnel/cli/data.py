"""What ``--json`` prints, as plain values. Numbers that JSON lacks (nan and the infinities) are null."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from windtunnel.model import ParetoPoint, TrialRecord
from windtunnel.storage import ExperimentSummary, HypervolumePoint

__all__ = ["as_json", "as_json_line", "experiment_data", "listing_data", "pareto_data"]


def as_json(data: object) -> str:
    """JSON text that every parser takes, in ASCII, with a newline at its end."""
    return json.dumps(_finite(data), indent=2, allow_nan=False) + "\n"


def as_json_line(data: object) -> str:
    """The same on one line."""
    return json.dumps(_finite(data), allow_nan=False) + "\n"


def listing_data(experiments: Iterable[ExperimentSummary]) -> list[dict[str, Any]]:
    """One object for each experiment; ``failed`` counts those that timed out too."""
    return [
        {
            "experiment_id": one.experiment_id,
            "objectives": dict(one.objectives),
            "trials": one.counts.total,
            "pending": one.counts.pending,
            "running": one.counts.running,
            "succeeded": one.counts.succeeded,
            "failed": one.counts.failed + one.counts.timed_out,
            "canceled": one.counts.canceled,
            "best": _best(one.best),
        }
        for one in experiments
    ]


def experiment_data(
    experiment_id: str,
    objectives: Mapping[str, str],
    best: TrialRecord | None,
    trials: Iterable[TrialRecord],
) -> dict[str, Any]:
    """One experiment with all its trials."""
    return {
        "experiment_id": experiment_id,
        "objectives": dict(objectives),
        "best": _best(best),
        "trials": [_trial(one) for one in trials],
    }


def pareto_data(front: Iterable[ParetoPoint], growth: Iterable[HypervolumePoint]) -> dict[str, Any]:
    """The Pareto front, and each time its hypervolume grew."""
    return {
        "pareto": [
            {
                "config_id": one.config_id,
                "config": dict(one.config),
                "trials": one.trials,
                "scores": dict(one.scores),
            }
            for one in front
        ],
        "hypervolume": [
            {"time": _time(one.timestamp), "trial_id": one.trial_id, "value": one.value} for one in growth
        ],
    }


def _best(best: TrialRecord | None) -> dict[str, Any] | None:
    if best is None:
        return None
    return {
        "trial_id": best.trial_id,
        "config_id": best.config_id,
        "config": dict(best.config),
        "metrics": dict(best.metrics or {}),
    }


def _trial(trial: TrialRecord) -> dict[str, Any]:
    return {
        "trial_id": trial.trial_id,
        "config_id": trial.config_id,
        "status": trial.status.name,
        "attempt": trial.attempt,
        "config": dict(trial.config),
        "metrics": None if trial.metrics is None else dict(trial.metrics),
        "host": trial.host,
        "started": _time(trial.started),
        "ended": _time(trial.ended),
        "failure": trial.failure,
    }


def _time(moment: datetime | None) -> str | None:
    """ISO 8601, in UTC."""
    return moment.isoformat() if moment is not None else None


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
