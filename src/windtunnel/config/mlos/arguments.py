"""The command line of mlos_bench."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from windtunnel.config.mlos.nodes import Node
from windtunnel.config.places import Place
from windtunnel.errors import ConfigError
from windtunnel.options import nearest

__all__ = ["KNOWN", "Arguments", "flag", "misspelt", "parse_arguments"]

_SIMILAR = 0.8
_WITH_TEXT = (
    *("config", "environment", "optimizer", "scheduler", "storage"),
    *("experiment_id", "log_file", "log_level"),
)
_OPTIONS = (
    *("config_id", "experiment_id", "max_suggestions", "max_trials", "mock_env_seed", "num_trial_runners"),
    *("optimization_targets", "random_init", "random_seed", "seed", "start_with_defaults", "trial_id"),
    *("trial_config_repeat_count", "tunable_params_map", "ssh_hostname", "ssh_port", "ssh_username"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """What was given.

    :ivar named: option → its value, of those that have a flag; lists are lists of nodes.
    :ivar extra: name → value of a global, for every other flag.
    """

    named: Mapping[str, Node]
    extra: Mapping[str, Node]

    def many(self, option: str) -> list[Node]:
        """The values of a flag that takes several."""
        return self.named[option].items if option in self.named else []


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see 'windtunnel mlos --help'")


def _parser() -> _Parser:
    parser = _Parser(add_help=False)
    for name in _WITH_TEXT:
        parser.add_argument(*_spellings(name), dest=name)
    for name in ("trial_config_repeat_count", "num_trial_runners", "random_seed"):
        parser.add_argument(*_spellings(name), dest=name, type=int)
    for dest, names in {
        "config_path": ("config_path", "config_paths"),
        "services": ("service", "services"),
        "tunable_values": ("tunable_values",),
        "globals": ("globals",),
    }.items():
        spellings = [spelling for name in names for spelling in _spellings(name)]
        parser.add_argument(*spellings, dest=dest, nargs="+", action="extend")
    parser.add_argument(*_spellings("random_init"), dest="random_init", action="store_true", default=None)
    parser.add_argument(*_spellings("no_teardown"), dest="teardown", action="store_false", default=None)
    parser.add_argument(
        "--create-update-storage-schema-only", dest="schema_only", action="store_true", default=None
    )
    return parser


def _spellings(name: str) -> list[str]:
    return list(dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")))


KNOWN = frozenset(
    {action.dest for action in _parser()._actions} | {"no_teardown", "service"} | set(_OPTIONS)  # noqa: SLF001
)
"""Names that mean something by themselves: flags, and options of optimizers, schedulers and services."""


def flag(value: Any, name: str) -> Node:
    """A value that was given with a flag."""
    place = Place(line=0, source=f"--{name}")
    return Node([Node(one, place) for one in value] if isinstance(value, list) else value, place)


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """The command line.

    :raises ConfigError: if a flag lacks its value, or has one of the wrong type.
    """
    known, rest = _parser().parse_known_args(list(argv))
    named = {name: flag(value, name) for name, value in vars(known).items() if value is not None}
    return Arguments(named=named, extra=dict(_extra(rest)))


def _extra(rest: Sequence[str]) -> Iterator[tuple[str, Node]]:
    """Globals, given as ``--name value`` or ``--name=value``."""
    words = iter(rest)
    for word in words:
        if not word.startswith("--") or word == "--":
            raise ConfigError(f"no flag stands before {word!r}; globals are given as --name value")
        name, equals, text = word[2:].partition("=")
        value = text if equals else next(words, None)
        if value is None or (not equals and value.startswith("--")):
            hint = _close(name.replace("-", "_"), KNOWN)
            raise ConfigError(f"--{name} has no value{f'; did you mean --{hint}?' if hint else ''}")
        name = name.strip().replace("-", "_")
        yield name, flag(_parsed(value), name)


def _parsed(text: str) -> int | float | str:
    """A number if Python takes it for one, as it does there; what is not finite stays a text."""
    for number in (int, float):
        try:
            parsed = number(text)
        except ValueError:
            continue
        return parsed if abs(parsed) < float("inf") else text
    return text


def misspelt(names: Mapping[str, Node], used: Collection[str]) -> list[ConfigError]:
    """An error for each name that looks like a typing error of a known one.

    :param names: globals from flags, or from the main file.
    :param used: names that the tree has itself; they are what they are.
    """
    return [
        node.error(f"{name!r} is no option, and would be a global that nothing uses{nearest(close, [close])}")
        for name, node in names.items()
        if name not in KNOWN and name not in used and (close := _close(name, KNOWN))
    ]


def _close(name: str, known: Collection[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=_SIMILAR)), None)
