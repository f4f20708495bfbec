"""Where new configurations come from."""

from windtunnel.optimizers.base import Given, Optimizer
from windtunnel.optimizers.registry import default_optimizer, make_optimizer, optimizer_class

__all__ = ["Given", "Optimizer", "default_optimizer", "make_optimizer", "optimizer_class"]
