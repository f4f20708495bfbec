"""Optimizers by name, and their construction from a config."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from windtunnel.errors import ConfigError
from windtunnel.objectives import Objective
from windtunnel.optimizers.adapters import AdapterConfig, LlamaTune
from windtunnel.optimizers.base import Given, Optimizer
from windtunnel.options import nearest, parse_options
from windtunnel.tunables import TunableGroups

__all__ = ["OPTIMIZERS", "Offer", "default_optimizer", "make_optimizer", "optimizer_class"]


class Offer(NamedTuple):
    """An optimizer that has a short name.

    :ivar place: the class, below this package; it is imported when it is wanted.
    :ivar purpose: what it is for, in some words.
    :ivar extra: of windtunnel, which installs what it needs; None if it needs nothing.
    :ivar needs: modules that must be there.
    """

    place: str
    purpose: str
    extra: str | None = None
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """What it needs that is not installed."""
        return [module for module in self.needs if find_spec(module) is None]

    def lack(self, name: str) -> str | None:
        """What has to be installed before there is an optimizer called ``name``; None if nothing."""
        if not self.missing:
            return None
        return (
            f"optimizer {name!r} needs {' and '.join(self.missing)}, which is not installed; "
            f"install it with: pip install 'windtunnel[{self.extra}]'"
        )

    def find(self) -> type[Optimizer] | None:
        """The class; None if its module needs something that is not installed."""
        module_name, _, class_name = f"{__package__}.{self.place}".rpartition(".")
        try:
            found: type[Optimizer] = getattr(import_module(module_name), class_name)
        except ImportError:
            return None
        return found


OPTIMIZERS: Mapping[str, Offer] = {
    "tpe": Offer("optuna.TPE", "most searches, and the default", "optuna", ("optuna",)),
    "gp": Offer("optuna.GP", "up to some 100 dear trials", "gp", ("optuna", "scipy", "torch")),
    "cmaes": Offer("optuna.CMAES", "many trials of ranges, one objective", "optuna", ("optuna", "cmaes")),
    "nsga2": Offer("optuna.NSGA2", "many trials, several objectives", "optuna", ("optuna",)),
    "smac": Offer("smac.SMAC", "some 100 dear trials, conditions, categories", "smac", ("smac",)),
    "flaml": Offer("flaml.FLAML", "small steps from the best that is known", "flaml", ("flaml",)),
    "qmc": Offer("qmc.QuasiRandom", "even coverage, without learning", "optuna", ("scipy",)),
    "random": Offer("random.RandomSearch", "a baseline; the default without Optuna"),
    "grid": Offer("grid.GridSearch", "all combinations of some values"),
    "capacity": Offer("capacity.CapacitySearch", "the highest rate that keeps given limits"),
    "manual": Offer("manual.Manual", "given configurations, again and again"),
    "mixed": Offer("mixed.Mixed", "several optimizers, in turn or interleaved"),
    "oneshot": Offer("oneshot.OneShot", "one configuration: a benchmark, no search"),
}


def optimizer_class(name: str) -> type[Optimizer]:
    """The optimizer of this name.

    :param name: one of ``OPTIMIZERS``, or the dotted path of a subclass of ``Optimizer``.
    :raises ConfigError: if there is no such class, it is not an optimizer, or something it needs is missing.
    """
    place = name
    if (offer := OPTIMIZERS.get(name)) is not None:
        if (lack := offer.lack(name)) is not None:
            raise ConfigError(lack, path=("name",))
        place = f"{__package__}.{offer.place}"
    module_name, _, class_name = place.rpartition(".")
    if not module_name:
        raise ConfigError(f"no optimizer {name!r}{nearest(name, OPTIMIZERS)}", path=("name",))
    found = getattr(_module(module_name, name), class_name, None)
    if not (isinstance(found, type) and issubclass(found, Optimizer)) or inspect.isabstract(found):
        raise ConfigError(
            f"optimizer {name!r}: expected a concrete subclass of Optimizer, found {found!r}",
            path=("name",),
        )
    return found


def default_optimizer() -> tuple[str, str]:
    """The optimizer of an experiment that names none, and why it is that one."""
    if OPTIMIZERS["tpe"].missing:
        return "random", "Optuna is not installed: pip install 'windtunnel[optuna]' for tpe"
    return "tpe", "Optuna is installed"


def make_optimizer(
    name: str,
    *,
    tunables: TunableGroups,
    objectives: Mapping[str, Objective],
    seed: int | None = None,
    start_with_defaults: bool = True,
    start_with: Sequence[Mapping[str, Any]] = (),
    asked: int = 0,
    planned: int | None = None,
    options: Mapping[str, Any] | None = None,
    adapter: AdapterConfig | None = None,
) -> Optimizer:
    """An optimizer as a config describes it. The other parameters are those of ``Optimizer``.

    :param name: see ``optimizer_class``.
    :param options: what the config says beyond them, checked against the optimizer's ``options_class``.
    :param adapter: gives it another space to search; default the tunables themselves.
    :raises ConfigError: if the name or an option is wrong; its path begins in the ``optimizer`` section.
    """
    cls = optimizer_class(name)
    parsed = dict(parse_options(cls.options_class, options or {}))
    given = Given(
        tunables=tunables,
        objectives=objectives,
        seed=seed,
        start_with_defaults=start_with_defaults,
        start_with=start_with,
        asked=asked,
        planned=planned,
    )
    if adapter is None:
        return cls(**given, **parsed)
    return LlamaTune(engine=lambda projected: cls(**projected, **parsed), config=adapter, **given)


def _module(module_name: str, wanted: str) -> Any:
    try:
        return import_module(module_name)
    except Exception as exc:
        raise ConfigError(
            f"optimizer {wanted!r}: module {module_name!r} cannot be imported ({type(exc).__name__}: {exc})",
            path=("name",),
        ) from exc
