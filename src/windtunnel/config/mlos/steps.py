"""The scripts of an environment, what goes into them and what comes out, in our format."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from windtunnel.config.mlos.names import escaped, literal, ours
from windtunnel.config.mlos.nodes import Node, made
from windtunnel.config.mlos.remarks import Remarks
from windtunnel.config.mlos.scripts import rewritten_lines
from windtunnel.config.mlos.search import SearchPath
from windtunnel.config.mlos.services import Services

__all__ = ["Steps"]

_LINES = frozenset({"setup", "run", "teardown"})
_FILES = {
    "dump_params_file": "dump_tunables_file",
    "dump_meta_file": "dump_meta_file",
    "read_results_file": "read_results_file",
    "read_telemetry_file": "read_telemetry_file",
    "temp_dir": "temp_dir",
}
"""Option there → here."""
_NAMED_GROUP = re.compile(r"\(\?P<\w+>")


class Steps:
    """Describes the options of environments of scripts.

    :param services: those that the environment has at hand.
    :param tears_down: whether what was set up is torn down.
    """

    def __init__(self, search: SearchPath, remarks: Remarks, services: Services, *, tears_down: bool) -> None:
        self._search = search
        self._remarks = remarks
        self._services = services
        self._tears_down = tears_down

    def described(
        self, written: Mapping[str, Node], *, is_local: bool, path: Callable[[Node], Node]
    ) -> dict[str, Node]:
        """The options in our format. One that is unknown is kept, and refused by our own check.

        :param is_local: whether the scripts run on this machine.
        :param path: a path of the tree in our form.
        """
        described: dict[str, Node] = {}
        for key, node in written.items():
            if key in _LINES:
                if self._tears_down or key != "teardown":
                    described[key] = self._lines(node, is_local=is_local)
            elif key in _FILES and is_local:
                described[_FILES[key]] = node.with_value(literal(node.text))
            elif key == "results_stdout_pattern":
                described[key] = self._pattern(node)
            elif key in ("upload", "download"):
                described[key] = node.with_value([self._transfer(one, key, path) for one in node.items])
            elif key not in ("shell_env_params", "shell_env_params_rename"):
                described[key] = made(escaped(node.plain()), node.place)
        if is_local and "temp_dir" not in described and self._services.temp_dir is not None:
            described["temp_dir"] = self._temp_dir(self._services.temp_dir)
        if "read_telemetry_file" in described:
            described["telemetry_zone"] = described["read_telemetry_file"].with_value("local")
        return {**described, **_variables(written)}

    def _lines(self, node: Node, *, is_local: bool) -> Node:
        lines = [line.text for line in node.items]
        if is_local:
            lines = rewritten_lines(lines, self._search, goes_on=self._services.goes_on)
        elif len(lines) > 1:
            self._remarks.note(
                node, "on a host too, a line that fails ends the step; there, the last one counts"
            )
        return node.with_value([one.with_value(line) for one, line in zip(node.items, lines, strict=True)])

    def _pattern(self, node: Node) -> Node:
        pattern = node.text
        if r"\n" in pattern or "(?s" in pattern:
            self._remarks.note(node, "the pattern is looked for in each line, so that it cannot span several")
        # There, the first group is the metric and the second the value, whatever their names.
        return node if "(?P=" in pattern else node.with_value(_NAMED_GROUP.sub("(", pattern))

    def _transfer(self, node: Node, key: str, path: Callable[[Node], Node]) -> Node:
        entries = {name: path(one) for name, one in node.entries.items()}
        source = node.entries.get("from")
        found = None if source is None or "$" in source.text else self._search.resolve(source.text)
        if key == "upload" and source is not None and found is not None:
            entries["from"] = source.with_value(self._beside(found.absolute().as_posix()))
        return node.with_value(entries)

    def _beside(self, path: str) -> str:
        """A path that was found, from the folder of the description if it is below it."""
        inside = path.removeprefix(f"{self._search.home.as_posix()}/")
        return literal(path) if inside == path else f"$config_dir/{literal(inside)}"

    def _temp_dir(self, node: Node) -> Node:
        found = self._search.resolve(node.text)
        return node.with_value(literal(node.text if found is None else str(found)))


def _variables(written: Mapping[str, Node]) -> dict[str, Node]:
    """Which parameters scripts see, and under which names; those of our own parameters are taken."""
    plain, renamed = written.get("shell_env_params"), written.get("shell_env_params_rename")
    described = {}
    taken = [] if plain is None else [one for one in plain.items if ours(one.text) != one.text]
    if plain is not None:
        described["shell_env_params"] = plain.with_value([one for one in plain.items if one not in taken])
    named = {} if renamed is None else renamed.entries
    named = {**named, **{one.text: one for one in taken}}
    names = {variable: one.with_value(ours(one.text)) for variable, one in named.items()}
    if names:
        described["shell_env_params_rename"] = (renamed or taken[0]).with_value(names)
    return described
