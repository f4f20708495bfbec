"""Where new configurations come from."""

from windtunnel.optimizers.base import Optimizer
from windtunnel.optimizers.registry import make_optimizer, optimizer_class

__all__ = ["Optimizer", "make_optimizer", "optimizer_class"]
