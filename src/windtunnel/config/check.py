"""All that can be said against a description without running anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from windtunnel.config.build import Parts, make_parts
from windtunnel.config.document import Document
from windtunnel.config.load import LoadedConfig, Origin, compose, expanded, names_of, without_secrets
from windtunnel.config.schema import OptimizerConfig, optimizer_section
from windtunnel.config.scripts import broken_files
from windtunnel.environments.file_share import LocalFileShareEnv
from windtunnel.environments.local import LocalEnv
from windtunnel.environments.registry import environment_class
from windtunnel.environments.remote import RemoteEnv
from windtunnel.errors import ConfigError
from windtunnel.optimizers import default_optimizer, optimizer_class
from windtunnel.options import nearest, parse_options
from windtunnel.pruners import pruner_class
from windtunnel.tunables import TunableGroups

__all__ = ["Checked", "check"]

_Steps = tuple[str | int, ...]


class Checked(NamedTuple):
    """What a check found.

    :ivar mistakes: in the order in which they are written, each with file, line and column if known.
    :ivar loaded: the description; None if there are mistakes in it.
    :ivar parts: what it needs to run; None likewise.
    """

    mistakes: tuple[ConfigError, ...]
    loaded: LoadedConfig | None = None
    parts: Parts | None = None


def check(origin: Origin, document: Document) -> Checked:
    """Check names, keys and values, the options of every part, hosts, services, scripts and objectives.

    What depends on other parts is only looked at when each part alone is right.
    """
    loaded, parts = None, None
    mistakes: list[ConfigError] = []
    try:
        loaded = compose(origin, document)
    except ConfigError as exc:
        mistakes += exc.all
    mistakes += _of_parts(origin, document, {mistake.path for mistake in mistakes})
    if loaded is not None and not mistakes:
        try:
            parts = make_parts(loaded)
        except ConfigError as exc:
            mistakes += exc.all
    if loaded is not None and parts is not None:
        found = [*_objectives(loaded, parts), *_scripts(loaded)]
        mistakes += [loaded.locate(mistake) for mistake in found]
    return Checked(_in_order(mistakes, document.source), loaded, parts)


def _in_order(mistakes: Iterable[ConfigError], source: str) -> tuple[ConfigError, ...]:
    """Each once, by file and line; those of the main file first."""
    once = {str(mistake): mistake for mistake in mistakes}
    return tuple(
        sorted(
            once.values(),
            key=lambda one: (one.source != source, one.source or "", one.line or 0, one.column or 0),
        )
    )


# Parts by themselves


def _of_parts(origin: Origin, document: Document, told: set[_Steps]) -> list[ConfigError]:
    """What is wrong with the own options of environments, optimizer and pruners, and with single tunables.

    :param told: paths of which something is said already.
    """
    try:
        names = names_of(origin)
        data = expanded(origin, names)
    except ConfigError:
        return []  # it was told
    found: list[ConfigError] = []
    for part in (_environments, _optimizer, _pruners, _tunables):
        for attempt in part(data):
            try:
                attempt()
            except ConfigError as exc:
                found += exc.all
    new = [one for one in found if not any(one.path[: len(path)] == path for path in told)]
    return [document.locate(without_secrets(one, names.secrets)) for one in new]


_Attempts = Iterator[Callable[[], object]]


def _environments(data: Mapping[str, Any]) -> _Attempts:
    for described, path in _tree(data.get("environment"), ("environment",)):
        yield partial(_environment, described, path)


def _environment(described: Mapping[str, Any], path: _Steps) -> None:
    name, config = described.get("class"), described.get("config", {})
    if not isinstance(name, str) or not isinstance(config, Mapping):
        return
    try:
        cls = environment_class(name)
    except ConfigError as exc:
        raise exc.within(*path) from exc.__cause__
    parse_options(cls.options_class, config, path=(*path, "config"))


def _tree(environment: object, path: _Steps) -> Iterator[tuple[Mapping[str, Any], _Steps]]:
    """An environment and those inside it, as they are written, each with its path."""
    if not isinstance(environment, Mapping):
        return
    yield environment, path
    config = environment.get("config")
    children = config.get("children") if isinstance(config, Mapping) else None
    for index, child in enumerate(children if isinstance(children, list) else ()):
        yield from _tree(child, (*path, "config", "children", index))


def _optimizer(data: Mapping[str, Any]) -> _Attempts:
    section = optimizer_section(data.get("optimizer", {}))
    if isinstance(section, Mapping) and section.get("name") is None:
        section = {**section, "name": default_optimizer()[0]}
    common = tuple(name for name in OptimizerConfig.model_fields if name != "name")
    yield partial(_own, section, ("optimizer",), optimizer_class, common)


def _pruners(data: Mapping[str, Any]) -> _Attempts:
    pruner = data.get("pruner")
    for index, one in enumerate(pruner if isinstance(pruner, list) else [pruner]):
        path = ("pruner", index) if isinstance(pruner, list) else ("pruner",)
        yield partial(_own, one, path, pruner_class, ())


def _own(described: object, path: _Steps, find: Callable[[str], Any], common: tuple[str, ...]) -> None:
    name = described.get("name") if isinstance(described, Mapping) else described
    if not isinstance(name, str) or not name:
        return
    try:
        cls = find(name)
    except ConfigError as exc:
        raise exc.within(*path) from exc.__cause__
    if isinstance(described, Mapping):
        own = {key: value for key, value in described.items() if key not in ("name", *common)}
        parse_options(cls.options_class, own, path=path)


def _tunables(data: Mapping[str, Any]) -> _Attempts:
    groups = data.get("tunables")
    for name, group in groups.items() if isinstance(groups, Mapping) else ():
        params = group.get("params") if isinstance(group, Mapping) else None
        for tunable, definition in params.items() if isinstance(params, Mapping) else ():
            yield partial(_tunable, name, tunable, definition)


def _tunable(group: str, name: str, definition: object) -> None:
    alone = definition
    if isinstance(definition, Mapping):  # what it depends on is not here
        alone = {key: value for key, value in definition.items() if key != "when"}
    try:
        TunableGroups({group: {"params": {name: alone}}})
    except ConfigError as exc:
        raise exc.within("tunables") from None


# Parts together


def _objectives(loaded: LoadedConfig, parts: Parts) -> Iterator[ConfigError]:
    metrics = parts.example.metrics
    if metrics is None:
        return
    for name in loaded.config.objectives:
        if name not in metrics:
            reason = nearest(name, metrics) or (
                "; it reports no metrics at all, as results_stdout_pattern or read_results_file would"
            )
            yield ConfigError(f"the environment does not report {name!r}{reason}", path=("objectives", name))


def _scripts(loaded: LoadedConfig) -> Iterator[ConfigError]:
    """Files that do not exist, for scripts that run here and for what is brought to hosts."""
    whole = {"class": loaded.config.environment.class_name, "config": loaded.config.environment.config}
    directory = loaded.origin.directory
    for described, path in _tree(whole, ("environment",)):
        cls, config = environment_class(described["class"]), described.get("config", {})
        if issubclass(cls, LocalEnv | LocalFileShareEnv):
            yield from _lines(config, (*path, "config"), directory, _exported(whole, path, loaded.globals))
        elif issubclass(cls, RemoteEnv):
            yield from _uploads(config, (*path, "config"), directory)


def _exported(root: Mapping[str, Any], path: _Steps, globals: Mapping[str, object]) -> dict[str, str]:  # noqa: A002 - as everywhere
    """What the scripts of the environment at ``path`` find in variables, as far as it is always the same."""
    known, here = dict(globals), {"environment": root}
    described: Any = here
    for step in path:
        described = described[step]
        if isinstance(described, Mapping) and isinstance(described.get("config"), Mapping):
            known |= described["config"].get("const_args", {})
    asked = described.get("config", {}).get("shell_env_params", ())
    texts = {name: value for name in asked if isinstance(value := known.get(name), str)}
    return {**texts, "HOME": str(Path.home())}


def _lines(
    config: Mapping[str, Any], path: _Steps, directory: Path, names: Mapping[str, str]
) -> Iterator[ConfigError]:
    steps = {step: config.get(step, []) for step in ("setup", "run", "abort", "teardown")}
    others = [line for written in steps.values() for line in _listed(written)]
    others += [str(config.get(option, "")) for option in ("upload", "download")]
    for step, written in steps.items():
        for index, line in enumerate(_listed(written)):
            place = (*path, step) if isinstance(written, str) else (*path, step, index)
            for problem in broken_files(line, directory, names=names, others=others):
                yield ConfigError(problem, path=place)


def _listed(written: str | Sequence[str]) -> Sequence[str]:
    return [written] if isinstance(written, str) else written


def _uploads(config: Mapping[str, Any], path: _Steps, directory: Path) -> Iterator[ConfigError]:
    for index, transfer in enumerate(config.get("upload", ())):
        source = Path(transfer["from"]).expanduser()
        if "$" not in str(source) and not (directory / source).exists():
            place = (*path, "upload", index, "from")
            yield ConfigError(f"there is no file {str(directory / source)!r}", path=place)
