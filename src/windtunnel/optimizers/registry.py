"""Optimizers by name, and their construction from a config."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from windtunnel.errors import ConfigError
from windtunnel.objectives import Objective
from windtunnel.optimizers.base import Optimizer
from windtunnel.optimizers.grid import GridSearch
from windtunnel.optimizers.oneshot import OneShot
from windtunnel.optimizers.random import RandomSearch
from windtunnel.options import nearest, parse_options
from windtunnel.tunables import TunableGroups

__all__ = ["OPTIMIZERS", "make_optimizer", "optimizer_class"]

OPTIMIZERS: Mapping[str, type[Optimizer]] = {"grid": GridSearch, "oneshot": OneShot, "random": RandomSearch}


def optimizer_class(name: str) -> type[Optimizer]:
    """The optimizer of this name.

    :param name: ``random``, ``grid``, ``oneshot``, or the dotted path of a subclass of ``Optimizer``.
    :raises ConfigError: if there is no such class or it is not an optimizer.
    """
    if name in OPTIMIZERS:
        return OPTIMIZERS[name]
    module_name, _, class_name = name.rpartition(".")
    if not module_name:
        raise ConfigError(f"no optimizer {name!r}{nearest(name, OPTIMIZERS)}", path=("name",))
    found = getattr(_module(module_name, name), class_name, None)
    if not (isinstance(found, type) and issubclass(found, Optimizer)) or inspect.isabstract(found):
        raise ConfigError(
            f"optimizer {name!r}: expected a concrete subclass of Optimizer, found {found!r}",
            path=("name",),
        )
    return found


def make_optimizer(
    name: str,
    *,
    tunables: TunableGroups,
    objectives: Mapping[str, Objective],
    seed: int | None = None,
    start_with_defaults: bool = True,
    asked: int = 0,
    options: Mapping[str, Any] | None = None,
) -> Optimizer:
    """An optimizer as a config describes it. The other parameters are those of ``Optimizer``.

    :param name: see ``optimizer_class``.
    :param options: what the config says beyond them, checked against the optimizer's ``options_class``.
    :raises ConfigError: if the name or an option is wrong; its path begins in the ``optimizer`` section.
    """
    cls = optimizer_class(name)
    parsed = parse_options(cls.options_class, options or {})
    return cls(
        tunables=tunables,
        objectives=objectives,
        seed=seed,
        start_with_defaults=start_with_defaults,
        asked=asked,
        **dict(parsed),
    )


def _module(module_name: str, wanted: str) -> Any:
    try:
        return import_module(module_name)
    except Exception as exc:
        raise ConfigError(
            f"optimizer {wanted!r}: module {module_name!r} cannot be imported ({type(exc).__name__}: {exc})",
            path=("name",),
        ) from exc
