"""Trials, leases, telemetry and outcomes in a database."""

from windtunnel.storage.analysis import ResultRow, TelemetryRow
from windtunnel.storage.experiment import Experiment
from windtunnel.storage.groups import ConfigGroup
from windtunnel.storage.merging import MergedData, MergedExperiment
from windtunnel.storage.pulse import Beat, Pulse
from windtunnel.storage.requests import INTERRUPTED
from windtunnel.storage.runs import ScoredRun
from windtunnel.storage.storage import ExperimentSummary, Storage, open_storage, upgrade_storage
from windtunnel.storage.stories import Attempt, Story
from windtunnel.storage.tradeoffs import HypervolumePoint

__all__ = [
    "INTERRUPTED",
    "Attempt",
    "Beat",
    "ConfigGroup",
    "Experiment",
    "ExperimentSummary",
    "HypervolumePoint",
    "MergedData",
    "MergedExperiment",
    "Pulse",
    "ResultRow",
    "ScoredRun",
    "Storage",
    "Story",
    "TelemetryRow",
    "open_storage",
    "upgrade_storage",
]
