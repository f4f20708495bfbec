"""Runs many trials at once."""

from windtunnel.scheduling.hosts import Host
from windtunnel.scheduling.scheduler import Scheduler
from windtunnel.scheduling.snapshot import RunningTrial, Snapshot

__all__ = ["Host", "RunningTrial", "Scheduler", "Snapshot"]
