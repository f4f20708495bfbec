"""Pruners by name, and their construction from a config."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from windtunnel.errors import ConfigError
from windtunnel.model import Direction
from windtunnel.options import nearest, parse_options
from windtunnel.pruners.base import Pruner
from windtunnel.pruners.halving import Halving
from windtunnel.pruners.median import Median
from windtunnel.pruners.threshold import Threshold
from windtunnel.pruners.worst import Worst

__all__ = ["PRUNERS", "make_pruner", "pruner_class"]

PRUNERS: Mapping[str, type[Pruner]] = {
    "halving": Halving,
    "median": Median,
    "threshold": Threshold,
    "worst": Worst,
}


def pruner_class(name: str) -> type[Pruner]:
    """The pruner of this name.

    :param name: ``median``, ``halving``, ``worst``, ``threshold``, or the dotted path of a subclass of
        ``Pruner``.
    :raises ConfigError: if there is no such class or it is not a pruner.
    """
    if name in PRUNERS:
        return PRUNERS[name]
    module_name, _, class_name = name.rpartition(".")
    if not module_name:
        raise ConfigError(f"no pruner {name!r}{nearest(name, PRUNERS)}", path=("name",))
    found = getattr(_module(module_name, name), class_name, None)
    if not (isinstance(found, type) and issubclass(found, Pruner)) or inspect.isabstract(found):
        raise ConfigError(
            f"pruner {name!r}: expected a concrete subclass of Pruner, found {found!r}", path=("name",)
        )
    return found


def make_pruner(
    name: str, *, objectives: Mapping[str, Direction], options: Mapping[str, Any] | None = None
) -> Pruner:
    """A pruner as a config describes it.

    :param name: see ``pruner_class``.
    :param objectives: see ``Pruner``.
    :param options: what the config says beyond the name, checked against the pruner's ``options_class``.
    :raises ConfigError: if the name or an option is wrong; its path begins in the ``pruner`` section.
    """
    cls = pruner_class(name)
    parsed = parse_options(cls.options_class, options or {})
    return cls(objectives=objectives, **dict(parsed))


def _module(module_name: str, wanted: str) -> Any:
    try:
        return import_module(module_name)
    except Exception as exc:
        raise ConfigError(
            f"pruner {wanted!r}: module {module_name!r} cannot be imported ({type(exc).__name__}: {exc})",
            path=("name",),
        ) from exc
