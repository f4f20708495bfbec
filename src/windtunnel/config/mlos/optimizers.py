"""The optimizer of a tree in our format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from windtunnel.config.mlos.names import Globals, Scope, escaped
from windtunnel.config.mlos.nodes import Node, made
from windtunnel.config.mlos.remarks import Remarks
from windtunnel.config.mlos.search import SearchPath
from windtunnel.config.mlos.tunables import Space, in_our_form, included
from windtunnel.optimizers.registry import OPTIMIZERS
from windtunnel.options import nearest

__all__ = ["Proposals", "proposals"]

_COMMON = frozenset(
    {"max_suggestions", "optimization_targets", "optimizer_type", "seed", "start_with_defaults"}
)
_LIMITS = ("optimization_targets", "max_suggestions")
"""Options that a global sets also where the file does not have them."""
_CLASSES = {
    "GridSearchOptimizer": "grid",
    "ManualOptimizer": "manual",
    "MlosCoreOptimizer": "",
    "MockOptimizer": "random",
    "OneShotOptimizer": "oneshot",
}
_RENAMED = {"max_cycles": "cycles", "n_random_init": "startup"}
_NOT_USED = {
    "max_ratio": "startup says how many configurations come before it learns",
    "max_trials": "the budget is that of the experiment",
    "n_random_probability": "the engine decides",
    "output_directory": "what is learned is in the database",
    "run_name": "what is learned is in the database",
    "use_default_config": "start_with_defaults says it",
}
"""Option of the predecessor's engines → what holds instead."""
_ADAPTER = {"num_low_dims": "dimensions", "max_unique_values_per_param": "buckets"}
_YES = frozenset({"y", "yes", "t", "true", "on", "1"})
_ENGINES = {"FLAML": "flaml", "RANDOM": "random", "SMAC": "smac"}
_DEFAULT_SEED = 42
_DEFAULT_SUGGESTIONS = 100
_GRID_POINTS = 5


class Proposals(NamedTuple):
    """Which configurations are tried.

    :ivar optimizer: the section of our format.
    :ivar objectives: likewise.
    :ivar most: how many configurations; None for as many as there are.
    """

    optimizer: Node
    objectives: Node
    most: int | None


def proposals(
    named: Node | None,
    *,
    scope: Scope,
    space: Space,
    first: Mapping[str, Node],
    at: Node,
    search: SearchPath,
    remarks: Remarks,
) -> Proposals:
    """What an optimizer file describes; without one it is a single configuration.

    :param first: the values that the first configuration has instead of the defaults.
    :param at: what stands for it in the tree if there is no file.
    """
    single = at.with_value({"class": at.with_value("OneShotOptimizer")})
    described = single if named is None else search.load(named)
    if (tunables := described.get("include_tunables")) is not None:
        known = included(tunables.items, space.groups, search, remarks)
        space.use([made(name, tunables.place) for name in known], known)
    cls = described.entries.get("class")
    if cls is None:
        raise described.error("expected an optimizer, with a class and a config")
    config = _config(described, scope)
    engine = _engine(cls, config.get("optimizer_type"), remarks)
    section = {"name": cls.with_value(engine)}
    if engine == "oneshot":
        section |= {"values": cls.with_value(dict(first))} if first else {}
    else:
        section["seed"] = config.get("seed", cls.with_value(_DEFAULT_SEED))
        section |= _beginning(engine, first, config.get("start_with_defaults"), at=cls)
        section |= _options(engine, config, space, remarks, at=cls)
    return Proposals(
        described.with_value(section),
        config.get("optimization_targets", made({"score": "min"}, cls.place)),
        1 if engine == "oneshot" else _most(engine, config),
    )


def _config(described: Node, scope: Scope) -> dict[str, Node]:
    config = described.entries.get("config") or described.with_value({})
    known: Globals = scope.globals
    more = {key: made(known.value(key), known.node(key).place) for key in _LIMITS if key in known}
    merged = {**scope.merged(config).entries, **more}
    return {key: node for key, node in merged.items() if node.value is not None}


def _engine(cls: Node, kind: Node | None, remarks: Remarks) -> str:
    """The name of the optimizer here."""
    name = cls.text.rpartition(".")[2]
    if name == "MlosCoreOptimizer":
        wanted = "FLAML" if kind is None else kind.text
        if wanted not in _ENGINES:
            remarks.refuse(kind or cls, f"no optimizer_type {wanted!r}{nearest(wanted, _ENGINES)}")
        engine = _ENGINES.get(wanted, "random")
        if (lack := OPTIMIZERS[engine].lack(engine)) is not None:
            remarks.lack(kind or cls, lack)
        return engine
    if name not in _CLASSES and cls.text.startswith("mlos_bench."):
        remarks.refuse(cls, f"no such optimizer {name!r}{nearest(name, _CLASSES)}")
    return _CLASSES.get(name, cls.text)


def _beginning(engine: str, first: Mapping[str, Node], starts: Node | None, *, at: Node) -> dict[str, Node]:
    """The configuration to begin with, where that is not the defaults."""
    if starts is not None and str(starts.value).lower() not in _YES:
        return {"start_with_defaults": starts.with_value(False)}
    if not first or engine in ("grid", "manual"):  # these never begin with anything else
        return {}
    begun = at.with_value([at.with_value(dict(first))])
    return {"start_with_defaults": at.with_value(False), "start_with": begun}


def _options(
    engine: str, config: Mapping[str, Node], space: Space, remarks: Remarks, *, at: Node
) -> dict[str, Node]:
    """The optimizer's own. What is unknown is kept, and refused by our own check."""
    found = {"points": at.with_value(_points(space))} if engine == "grid" else {}
    for key, node in config.items():
        if key in _COMMON or key == "space_adapter_config":
            continue
        if key in _NOT_USED:
            remarks.note(node, f"{key} is not used; {_NOT_USED[key]}")
        elif key == "space_adapter_type":
            found |= _adapter(node, config.get("space_adapter_config"), remarks)
        elif key == "tunable_values_cycle":
            found["values"] = node.with_value([in_our_form(one) for one in node.items])
        else:
            found[_RENAMED.get(key, key)] = made(escaped(node.plain()), node.place)
    return found


def _adapter(kind: Node, options: Node | None, remarks: Remarks) -> dict[str, Node]:
    """The space that the engine searches instead of that of the tunables."""
    if kind.value == "IDENTITY":
        return {}
    if kind.value != "LLAMATUNE":
        remarks.refuse(kind, f"no space_adapter_type {kind.value!r}{nearest(kind.value, ['LLAMATUNE'])}")
    described = {"name": kind.with_value("llamatune")}
    for key, node in ({} if options is None else options.entries).items():
        if key == "special_param_values":
            remarks.note(node, "special values are those of the tunables, and have a share of each axis")
        else:
            described[_ADAPTER.get(key, key)] = node
    return {"adapter": kind.with_value(described)}


def _most(engine: str, config: Mapping[str, Node]) -> int | None:
    given = config.get("max_suggestions")
    most = _DEFAULT_SUGGESTIONS if given is None else _whole(given)
    if engine == "manual" and (listed := config.get("tunable_values_cycle")) is not None:
        cycles = _whole(config["max_cycles"]) if "max_cycles" in config else 1
        most = min(most if most > 0 else cycles * len(listed.items), cycles * len(listed.items))
    return most if most > 0 else None


def _whole(node: Node) -> int:
    try:
        return int(node.value)
    except (TypeError, ValueError):
        raise node.error(f"expected a whole number, found {node.value!r}") from None


def _points(space: Space) -> int:
    """How many values stand for a range: all, where they can be counted."""
    counts = [_cardinality(node.plain()) for node in space.tunables.values()]
    return max(_GRID_POINTS, *counts, 0)


def _cardinality(tunable: Mapping[str, Any]) -> int:
    bounds = tunable.get("range")
    if tunable.get("quantization_bins") or tunable.get("type") != "int" or not bounds:
        return 0
    return int(bounds[1]) - int(bounds[0]) + 1
