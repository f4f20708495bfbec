"""A configuration tree of mlos_bench as one description in our own format."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from windtunnel.config.document import Document
from windtunnel.config.load import LoadedConfig, Origin, compose
from windtunnel.config.mlos.arguments import parse_arguments
from windtunnel.config.mlos.environments import Environments
from windtunnel.config.mlos.launch import Launch, launch
from windtunnel.config.mlos.names import Scope, literal
from windtunnel.config.mlos.nodes import Node, made
from windtunnel.config.mlos.optimizers import Proposals, proposals
from windtunnel.config.mlos.remarks import Remarks
from windtunnel.config.mlos.services import Services
from windtunnel.config.mlos.storage import Database, database
from windtunnel.config.mlos.tunables import Space, drawn
from windtunnel.errors import ConfigError
from windtunnel.options import nearest

__all__ = ["Tree", "read_tree"]

_SCHEDULER = frozenset(
    {"config_id", "experiment_id", "max_trials", "num_trial_runners", "teardown", "trial_config_repeat_count"}
    | {"trial_id"}
)
_ENDLESS = 1_000_000_000
"""Trials of an experiment without a limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """What a command line asks for.

    :ivar document: the description, with the file and line of each part.
    :ivar home: what ``$config_dir`` stands for in it.
    :ivar database: where it is stored; the description itself has a variable instead of the password.
    :ivar refused: what cannot be honoured; with any of it, nothing is run.
    :ivar noted: what is done otherwise.
    :ivar lacking: what has to be installed before it is run.
    :ivar config_id: a stored configuration to be run first; None if there is none.
    :ivar log_level: name or number of a level; None if none is asked for.
    :ivar only_schema: nothing is run, the database is made or brought up to date.
    """

    document: Document
    home: Path
    database: Database
    refused: tuple[ConfigError, ...]
    noted: tuple[ConfigError, ...]
    lacking: tuple[ConfigError, ...] = ()
    config_id: int | None = None
    log_level: str | None = None
    log_file: Path | None = None
    only_schema: bool = False

    def load(self) -> LoadedConfig:
        """The description, expanded and checked.

        :raises ConfigError: with file and line, if something is refused or wrong.
        """
        if self.refused or self.lacking:
            raise ConfigError.of((*self.refused, *self.lacking))
        origin = Origin(
            data=self.document.data,
            directory=self.home,
            given={},
            changes={"storage": self.database.url},
            source=self.document.source,
        )
        return compose(origin, self.document)


def read_tree(
    argv: Sequence[str],
    *,
    directory: Path,
    home: Path | None = None,
    system: Mapping[str, str] | None = None,
) -> Tree:
    """Read all files that a command line of mlos_bench names, directly or not.

    :param directory: the current folder.
    :param home: the folder of the description that is made; default the current one.
    :param system: default the operating system's environment.
    :raises ConfigError: with file and line, if a file cannot be used or something is not known.
    """
    started = launch(
        parse_arguments(argv),
        directory=directory,
        home=home or directory,
        system=os.environ if system is None else system,
    )
    return _Reader(started).tree()


class _Reader:
    """Reads one tree."""

    def __init__(self, started: Launch) -> None:
        self._started = started
        self._search = started.search
        self._named = started.named
        self._scope = Scope(started.globals)
        self._remarks = Remarks()

    def tree(self) -> Tree:
        named = self._named
        environment = named.get("environment")
        if environment is None:
            self._started.check_names(self._remarks)
            raise ConfigError("no environment is given; name one with --environment, or in the main file")
        at = named.get("config", environment)
        scheduling = self._scheduling(at)
        stored = database(named.get("storage"), self._scope, self._search, self._remarks)
        description = self._description(environment, scheduling, stored, at)
        self._started.check_names(self._remarks)
        source = str(at.value)
        level, file = named.get("log_level"), named.get("log_file")
        return Tree(
            document=Document(data=description.plain(), source=source, places=description.places),
            home=self._search.home,
            database=stored,
            refused=tuple(self._remarks.refused),
            noted=tuple(self._remarks.noted),
            lacking=tuple(self._remarks.lacking),
            config_id=_above(scheduling.get("config_id"), 0),
            log_level=None if level is None else str(level.value),
            log_file=None if file is None else self._search.directory / file.text,
            only_schema="schema_only" in named,
        )

    def _description(
        self, environment: Node, scheduling: Mapping[str, Node], stored: Database, at: Node
    ) -> Node:
        runners = _above(scheduling.get("num_trial_runners"), 1) or 1
        repeats = scheduling.get("trial_config_repeat_count", at.with_value(1))
        environments = Environments(
            search=self._search,
            globals=self._scope.globals,
            remarks=self._remarks,
            runners=runners,
            tears_down=self._tears_down(scheduling),
        )
        services = Services().including(
            self._started.many("services"), self._scope, self._search, self._remarks
        )
        root = environments.described(environment, services)
        if root is None:
            raise ConfigError.of(self._remarks.refused)
        proposed = self._proposals(environments.space, at)
        self._note_hidden(environments.space)
        hosts = environments.hosts.described()
        sections = {
            "experiment": self._experiment_id(scheduling, environment),
            "description": root.entries["name"],
            "objectives": proposed.objectives,
            "trials": at.with_value(_trials(proposed.most, repeats, scheduling)),
            "repeats": repeats,
            **(hosts or {"concurrency": at.with_value(runners)}),
            "storage": self._named.get("storage", at).with_value(stored.written),
            "optimizer": proposed.optimizer,
            "tunables": environments.space.described(at),
            "environment": root,
            "globals": at.with_value(self._scope.globals.described(environments.needed, self._remarks)),
        }
        return at.with_value({key: node for key, node in sections.items() if node.value not in ({}, "")})

    # The scheduler

    def _scheduling(self, at: Node) -> dict[str, Node]:
        """The scheduler's options, of which globals win."""
        named = self._named.get("scheduler")
        config: dict[str, Node] = {}
        if named is not None:
            described = self._search.load(named)
            cls = described.entries.get("class")
            if cls is not None and cls.text.rpartition(".")[2] != "SyncScheduler":
                self._remarks.refuse(cls, f"no such scheduler{nearest(cls.text, ['SyncScheduler'])}")
            config = dict((described.entries.get("config") or described.with_value({})).entries)
        for key, node in config.items():
            if key not in _SCHEDULER:
                self._remarks.refuse(node, f"a scheduler has no option {key!r}{nearest(key, _SCHEDULER)}")
        known = self._scope.globals
        config |= {
            key: made(known.value(key), known.node(key).place)
            for key in _SCHEDULER - {"teardown"}
            if key in known
        }
        if "trial_id" in config and (_above(config["trial_id"], 1) or 1) > 1:
            self._remarks.note(config["trial_id"], "trials get the next free number; trial_id is not used")
        return config

    def _tears_down(self, scheduling: Mapping[str, Node]) -> bool:
        """A flag or the main file decides; otherwise the scheduler's file."""
        said = self._named.get("teardown") or scheduling.get("teardown")
        if said is None or said.value:
            return True
        self._remarks.note(said, "teardown lines are not run; processes and folders of a trial end with it")
        return False

    def _experiment_id(self, scheduling: Mapping[str, Node], environment: Node) -> Node:
        said = scheduling.get("experiment_id")
        if said is not None:
            return said.with_value(literal(str(said.value).strip()))
        stem = "mlos" if "{" in environment.text else Path(environment.text).stem
        self._remarks.note(environment, f"no experiment_id is given; it is {stem!r}")
        return environment.with_value(literal(stem))

    # What is tried

    def _proposals(self, space: Space, at: Node) -> Proposals:
        return proposals(
            self._named.get("optimizer"),
            scope=self._scope,
            space=space,
            first=self._first(space),
            at=at,
            search=self._search,
            remarks=self._remarks,
        )

    def _first(self, space: Space) -> dict[str, Node]:
        """The values that the first configuration has instead of the defaults."""
        first: dict[str, Node] = {}
        if (wanted := self._named.get("random_init")) is not None and wanted.value:
            first = drawn(space.tunables, self._named.get("random_seed"))
        for file in self._started.many("tunable_values"):
            first |= space.chosen(self._search.load(file))
        return first

    def _note_hidden(self, space: Space) -> None:
        for name in space.tunables:
            if name in self._scope.globals:
                self._remarks.note(
                    self._scope.globals.node(name),
                    f"{name!r} is a tunable too; scripts see the tunable's value, not this one",
                )


def _trials(most: int | None, repeats: Node, scheduling: Mapping[str, Node]) -> int:
    limit = _above(scheduling.get("max_trials"), 0)
    if not isinstance(repeats.value, int) or repeats.value < 1:
        raise repeats.error(f"expected a whole number above 0, found {repeats.value!r}")
    asked = None if most is None else most * repeats.value
    return min(limit or _ENDLESS, asked or _ENDLESS)


def _above(node: Node | None, least: int) -> int | None:
    """A number of at least ``least``; None if there is none, or a lower one, which means the same there."""
    if node is None:
        return None
    if isinstance(node.value, bool) or not isinstance(node.value, int):
        raise node.error(f"expected a whole number, found {node.value!r}")
    return node.value if node.value >= max(least, 1) else None
