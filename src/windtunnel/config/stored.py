"""A description as text that is kept with its experiment, so that workers elsewhere can run it too.

What was written is kept, not what it was expanded to: ``$NAME`` from the operating system's environment stays
a name, and each worker looks it up where it runs. Where the experiment is stored is left out as well, since
that may hold a password and every worker is told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

from windtunnel.config.expand import check_globals
from windtunnel.config.load import LoadedConfig, Origin, compose
from windtunnel.config.schema import ExperimentConfig, OptimizerConfig
from windtunnel.errors import ConfigError
from windtunnel.tunables import TunableGroups

__all__ = ["dump", "dump_refusal", "optimizer_of", "restore", "seed_of", "target_of"]

_FORM = 1
_TRIALS = ExperimentConfig.model_fields["trials"].default
_NOTHING: Mapping[str, object] = MappingProxyType({})
_KEPT_OVERRIDES = frozenset({"trials"})
"""The seed is kept apart, since it may be drawn; the others are each worker's own."""
_ONCE_DEFAULT = "random"
"""The optimizer of descriptions that name none and were stored before one was chosen."""
_PYTHON = (
    "runs a Python function; start another worker by calling windtunnel.tune with the same experiment_id and "
    "storage in that program"
)


def dump(loaded: LoadedConfig) -> str:
    """JSON that ``restore`` takes; if a value cannot be kept, it says so to those who try."""
    origin, optimizer = loaded.origin, loaded.config.optimizer
    try:
        data = {key: _plain(value, (key,)) for key, value in origin.data.items() if key != "storage"}
    except ConfigError as exc:
        return _text(optimizer, refusal=f"cannot be run by another process: {exc}")
    return _text(
        optimizer,
        source=origin.source,
        directory=str(origin.directory),
        data=data,
        globals=dict(origin.given),
        overrides={name: value for name, value in origin.changes.items() if name in _KEPT_OVERRIDES},
    )


def dump_refusal(optimizer: OptimizerConfig) -> str:
    """JSON for an experiment whose environment exists in its own program only, which ``restore`` refuses."""
    return _text(optimizer, refusal=_PYTHON)


def optimizer_of(text: str | None) -> str | None:
    """The name of the optimizer it was last run with, given or chosen; None if none is known."""
    name = _parsed(text).get("optimizer", _ONCE_DEFAULT) if text is not None else None
    return name if isinstance(name, str) else None


def seed_of(text: str | None) -> int | None:
    """The seed a stored description was last run with, given or drawn; None if none is known."""
    seed = _parsed(text).get("seed") if text is not None else None
    return seed if isinstance(seed, int) else None


def target_of(text: str | None) -> int | None:
    """How many trials a stored description asks for; None if that depends on where it is run."""
    kept = _parsed(text) if text is not None else {}
    data, changes = kept.get("data"), kept.get("overrides") or {}
    wanted = changes.get("trials", data.get("trials", _TRIALS) if isinstance(data, dict) else None)
    return wanted if isinstance(wanted, int) else None


def restore(
    text: str,
    *,
    experiment_id: str,
    overrides: Mapping[str, object] = _NOTHING,
    globals: Mapping[str, object] = _NOTHING,  # noqa: A002 - the name users know
    directory: str | PathLike[str] | None = None,
) -> LoadedConfig:
    """The description again, as this machine and its environment expand it.

    :param experiment_id: the id it has now; what was written may give another here.
    :param overrides: ``storage`` and ``concurrency`` of this worker; None is the same as not given.
    :param globals: values for ``$name`` on this machine, which win over those that are kept.
    :param directory: what ``$config_dir`` stands for; default the folder it was, if it exists here.
    :raises ConfigError: if it cannot be run here; it says what to do.
    """
    kept = _parsed(text)
    if kept.get("form") != _FORM:
        raise ConfigError(
            f"experiment {experiment_id!r} was last run by a newer windtunnel; install that one here"
        )
    if kept.get("refusal"):
        raise ConfigError(f"experiment {experiment_id!r} {kept['refusal']}")
    given = {name: value for name, value in overrides.items() if value is not None}
    folder = _folder(experiment_id, kept["directory"], directory)
    origin = Origin(
        data={**kept["data"], "experiment": _literal(experiment_id)},
        directory=folder,
        given={**kept["globals"], **check_globals(globals)},
        changes={**kept["overrides"], "seed": kept["seed"], **given},
        source=str(folder / Path(kept["source"]).name) if kept["source"] else "",
    )
    try:
        loaded = compose(origin)
    except ConfigError as exc:
        if exc.path[:1] in {(name,) for name in given}:
            raise
        exc.source = f"the stored description of {experiment_id!r}"
        raise
    optimizer = loaded.config.optimizer
    optimizer = optimizer.model_copy(update={"name": optimizer.name or optimizer_of(text)})
    return replace(loaded, config=loaded.config.model_copy(update={"optimizer": optimizer}))


def _folder(experiment_id: str, was: str, given: str | PathLike[str] | None) -> Path:
    folder = Path(was if given is None else given).absolute()
    if folder.is_dir():
        return folder
    if given is not None:
        raise ConfigError(f"there is no folder {str(given)!r}; name one with --config-dir")
    raise ConfigError(
        f"the folder {was!r} of experiment {experiment_id!r} does not exist on this machine; "
        "copy it here and name it with --config-dir DIR"
    )


def _text(optimizer: OptimizerConfig, **parts: object) -> str:
    return json.dumps({"form": _FORM, "optimizer": optimizer.name, "seed": optimizer.seed, **parts})


def _parsed(text: str) -> dict[str, Any]:
    try:
        kept = json.loads(text)
    except ValueError:
        kept = None
    return kept if isinstance(kept, dict) else {}


def _plain(value: object, path: tuple[str | int, ...]) -> object:
    """``value`` as JSON holds it, so that it means the same when it is read.

    :raises ConfigError: for what JSON cannot hold.
    """
    if isinstance(value, TunableGroups) and path == ("tunables",):
        return _literal(value.definition())  # the only values whose dollar signs are not expanded
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, PathLike):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(one, (*path, index)) for index, one in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(one, (*path, key)) for key, one in value.items()}
    # Not shown: it may be anything, a key to something else too.
    raise ConfigError(f"a {type(value).__name__} cannot be stored", path=path)


def _literal(value: Any) -> Any:
    """``value`` so that it is itself when it has been expanded."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, dict):
        return {key: _literal(one) for key, one in value.items()}
    return [_literal(one) for one in value] if isinstance(value, list) else value
