"""Runs many trials at once."""

from windtunnel.scheduling.hosts import Host
from windtunnel.scheduling.scheduler import Scheduler

__all__ = ["Host", "Scheduler"]
