"""Trials, leases, telemetry and outcomes in a database."""

from windtunnel.storage.experiment import INTERRUPTED, Experiment
from windtunnel.storage.storage import ExperimentSummary, Storage, open_storage

__all__ = ["INTERRUPTED", "Experiment", "ExperimentSummary", "Storage", "open_storage"]
