"""Rules that stop a trial in mid-run."""

from windtunnel.pruners.base import Abort, Pruner
from windtunnel.pruners.registry import make_pruner, pruner_class
from windtunnel.pruners.several import Pruners

__all__ = ["Abort", "Pruner", "Pruners", "make_pruner", "pruner_class"]
