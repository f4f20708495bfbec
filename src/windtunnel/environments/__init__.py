"""Systems under test."""

from __future__ import annotations

from windtunnel.environments.base import CommonOptions, Environment
from windtunnel.environments.composite import CompositeEnv
from windtunnel.environments.function import FunctionEnv
from windtunnel.environments.local import LocalEnv
from windtunnel.environments.mock import MockEnv
from windtunnel.environments.registry import environment_class

__all__ = [
    "CommonOptions",
    "CompositeEnv",
    "Environment",
    "FunctionEnv",
    "LocalEnv",
    "MockEnv",
    "environment_class",
]
