"""Decisions, without any doing: counts in, numbers out."""

from windtunnel.scheduling.policy.budgets import FailureBudget, Tally, exceeded, time_left
from windtunnel.scheduling.policy.judging import judge
from windtunnel.scheduling.policy.outliers import outlier_hosts
from windtunnel.scheduling.policy.repeats import AdaptiveRepeats, Repeats, further_repeats
from windtunnel.scheduling.policy.retries import Retry, pause_before
from windtunnel.scheduling.policy.runs import Run, aggregate
from windtunnel.scheduling.policy.suggesting import configurations_tried, suggestions_due

__all__ = [
    "AdaptiveRepeats",
    "FailureBudget",
    "Repeats",
    "Retry",
    "Run",
    "Tally",
    "aggregate",
    "configurations_tried",
    "exceeded",
    "further_repeats",
    "judge",
    "outlier_hosts",
    "pause_before",
    "suggestions_due",
    "time_left",
]
