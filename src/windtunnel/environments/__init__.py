"""Systems under test."""

from __future__ import annotations

from windtunnel.environments.base import CommonOptions, Environment
from windtunnel.environments.composite import CompositeEnv
from windtunnel.environments.file_share import LocalFileShareEnv
from windtunnel.environments.function import FunctionEnv
from windtunnel.environments.host import HostEnv
from windtunnel.environments.load import LoadEnv
from windtunnel.environments.local import LocalEnv
from windtunnel.environments.mock import MockEnv
from windtunnel.environments.os_settings import OSEnv
from windtunnel.environments.registry import environment_class
from windtunnel.environments.remote import RemoteEnv

__all__ = [
    "CommonOptions",
    "CompositeEnv",
    "Environment",
    "FunctionEnv",
    "HostEnv",
    "LoadEnv",
    "LocalEnv",
    "LocalFileShareEnv",
    "MockEnv",
    "OSEnv",
    "RemoteEnv",
    "environment_class",
]
