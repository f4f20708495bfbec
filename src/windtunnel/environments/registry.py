"""Environment classes by name: the short names of our own, and dotted paths to everybody's."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Mapping
from types import MappingProxyType

from windtunnel.environments.base import Environment
from windtunnel.errors import ConfigError
from windtunnel.options import nearest

__all__ = ["SHORT_NAMES", "environment_class"]

SHORT_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "CompositeEnv": "windtunnel.environments.composite",
        "FunctionEnv": "windtunnel.environments.function",
        "HostEnv": "windtunnel.environments.host",
        "LoadEnv": "windtunnel.environments.load",
        "LocalEnv": "windtunnel.environments.local",
        "LocalFileShareEnv": "windtunnel.environments.file_share",
        "MockEnv": "windtunnel.environments.mock",
        "OSEnv": "windtunnel.environments.os_settings",
        "RemoteEnv": "windtunnel.environments.remote",
    }
)
"""Short name → the module that defines the class."""


def environment_class(name: str) -> type[Environment]:
    """The class of a short name, or of a dotted path such as ``package.module.Class``.

    :raises ConfigError: if there is none, it cannot be imported, or it is not a concrete environment.
    """
    if name in SHORT_NAMES:
        found = getattr(importlib.import_module(SHORT_NAMES[name]), name)
    elif "." in name and all(name.replace(":", ".").split(".")):
        found = imported(name.replace(":", "."))
    else:
        hint = nearest(name, SHORT_NAMES)
        raise ConfigError(
            f"unknown environment class {name!r}{hint}; a class of your own needs its dotted path",
            path=("class",),
        )
    if not (isinstance(found, type) and issubclass(found, Environment)):
        raise ConfigError(f"{name!r} is not a subclass of windtunnel's Environment", path=("class",))
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise ConfigError(f"environment class {name!r} does not define {missing}", path=("class",))
    return found


def imported(path: str) -> object:
    """What a dotted path leads to.

    :raises ConfigError: if its module cannot be imported or does not define it.
    """
    module_name, _, attribute = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not f"{module_name}.".startswith(f"{exc.name}."):
            raise _broken(path, exc) from exc
        raise ConfigError(
            f"cannot import {path!r}: there is no module {exc.name!r}; is its directory on PYTHONPATH?",
            path=("class",),
        ) from None
    except Exception as exc:
        raise _broken(path, exc) from exc
    if not hasattr(module, attribute):
        hint = nearest(attribute, [name for name in vars(module) if not name.startswith("_")])
        raise ConfigError(f"module {module_name!r} has no {attribute!r}{hint}", path=("class",))
    return getattr(module, attribute)


def _broken(path: str, exc: Exception) -> ConfigError:
    """The user's module raised: say what and where."""
    frame = traceback.extract_tb(exc.__traceback__)[-1]
    return ConfigError(
        f"cannot import {path!r}: {type(exc).__name__}: {exc} ({frame.filename}:{frame.lineno})",
        path=("class",),
    )
