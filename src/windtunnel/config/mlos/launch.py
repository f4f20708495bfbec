"""What a command line and its main file amount to: flags win over globals files, those over the main file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from windtunnel.config.mlos.arguments import KNOWN, Arguments, misspelt
from windtunnel.config.mlos.names import Globals, references
from windtunnel.config.mlos.nodes import Node
from windtunnel.config.mlos.remarks import Remarks
from windtunnel.config.mlos.search import SearchPath
from windtunnel.options import nearest

__all__ = ["Launch", "launch"]

_OF_PROGRAM = frozenset(
    {"config", "config_path", "environment", "globals", "log_file", "log_level", "optimizer"}
    | {"random_init", "random_seed", "scheduler", "schema_only", "service", "services", "storage"}
    | {"teardown", "tunable_values"}
)
"""Options that are no globals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Everything but what the files say that it names.

    :ivar named: option → what counts of it.
    :ivar loose: globals that nobody may have meant: those of flags and of the main file.
    """

    search: SearchPath
    globals: Globals
    named: Mapping[str, Node]
    loose: Mapping[str, Node]

    def many(self, option: str) -> list[Node]:
        """The values of an option that takes several."""
        return self.named[option].items if option in self.named else []

    def check_names(self, remarks: Remarks) -> None:
        """Look at the globals when all files have been read.

        :raises ConfigError: if one looks like a typing error of an option.
        """
        used = {word for node in self.search.read for word in _words(node)}
        if wrong := misspelt(self.loose, used):
            raise wrong[0]
        for name, node in self.loose.items():
            if name not in used and name not in KNOWN:
                hint = nearest(name, used)
                more = hint if "did you mean" in hint else ""
                remarks.note(node, f"nothing in the tree uses a global {name!r}{more}")


def launch(arguments: Arguments, *, directory: Path, home: Path, system: Mapping[str, str]) -> Launch:
    """Find out what is to be run.

    :param directory: the current folder.
    :param home: the folder of the description that is made.
    :param system: the operating system's environment.
    :raises ConfigError: if a file cannot be used.
    """
    given = arguments.named
    folders = [node.text for node in arguments.many("config_path")]
    search = SearchPath(folders, directory, home)
    main: Mapping[str, Node] = {}
    if "config" in given:
        main = _main(search.load(given["config"]), given["config"])
        folders += [node.text for node in main["config_path"].items] if "config_path" in main else []
        search = SearchPath(folders, directory, home)
        search.read += main.values()  # its keys are no sign that anything uses them
    named = {**main, **given}
    for option in ("globals", "services", "tunable_values"):
        if values := [*(main[option].items if option in main else ()), *arguments.many(option)]:
            named[option] = values[0].with_value(values)
    loose = {name: node for name, node in {**main, **arguments.extra}.items() if name not in _OF_PROGRAM}
    written = {name: node for name, node in main.items() if name not in _OF_PROGRAM}
    for file in named["globals"].items if "globals" in named else ():
        written |= search.load(file).entries
    written |= arguments.extra
    written |= {name: node for name, node in given.items() if name not in _OF_PROGRAM}
    return Launch(
        search=search,
        globals=Globals({name: node for name, node in written.items() if name != "trial_id"}, system),
        named=named,
        loose=loose,
    )


def _main(loaded: Node, named: Node) -> dict[str, Node]:
    """The main file; that of an environment stands for one that names only this."""
    if "class" in loaded.entries:
        return {"environment": named}
    return {name: node for name, node in loaded.entries.items() if node.value is not None}


def _words(node: Node) -> list[str]:
    """Every key, every name in a text, and every text that is a name."""
    if isinstance(node.value, str):
        return [*references(node.value), node.value]
    if isinstance(node.value, dict):
        return [word for key, inner in node.value.items() for word in (key, *_words(inner))]
    return [word for inner in node.items for word in _words(inner)] if isinstance(node.value, list) else []
