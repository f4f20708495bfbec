"""Environments of a tree in our format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from windtunnel.config.mlos.hosts import SSH_PARAMETERS, Hosts
from windtunnel.config.mlos.names import LATE, Globals, Scope, as_seen, escaped, literal, ours, rewritten
from windtunnel.config.mlos.nodes import Node, made
from windtunnel.config.mlos.remarks import Remarks
from windtunnel.config.mlos.search import SearchPath
from windtunnel.config.mlos.services import Services
from windtunnel.config.mlos.steps import Steps
from windtunnel.config.mlos.tunables import Groups, Space, included, params_of
from windtunnel.options import nearest

__all__ = ["Environments"]

_CLASSES = {
    "CompositeEnv": "CompositeEnv",
    "HostEnv": "HostEnv",
    "LocalEnv": "LocalEnv",
    "LocalFileShareEnv": "LocalFileShareEnv",
    "MockEnv": "MockEnv",
    "OSEnv": "HostEnv",
    "RemoteEnv": "RemoteEnv",
    "VMEnv": "HostEnv",
}
"""Class there, without its module → class here."""
_REFUSED = {
    "NetworkEnv": "nothing here makes networks; make it before, and leave this environment out",
    "SaaSEnv": "nothing here configures services of a cloud; do it in the scripts of a LocalEnv",
}
_ON_HOSTS = frozenset({"HostEnv", "LocalFileShareEnv", "RemoteEnv"})
_STARTED = "hosts are started if they do not run, and left running; they are neither made nor removed"
_OF_TRIAL = LATE | {"experiment_id"}
_COMMON = frozenset({"const_args", "required_args", "tunable_params"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Around:
    """What an environment has from those around it.

    :ivar parent: parameters of the composite it is directly in.
    """

    scope: Scope
    services: Services
    groups: Groups
    parent: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Parameters:
    """The parameters of an environment.

    :ivar own: its constants, as far as they are known before a trial.
    :ivar taken: those from outside.
    :ivar tunables: names of those it uses.
    """

    own: Mapping[str, object]
    taken: Mapping[str, object]
    tunables: frozenset[str]


class Environments:
    """Describes a tree of environments in our format.

    :param runners: how many trials run at once.
    :param tears_down: whether what was set up is torn down.
    :ivar space: the tunables that they use.
    :ivar hosts: the hosts that they work on.
    :ivar needed: globals that the description names, in the order of their use.
    """

    def __init__(
        self,
        *,
        search: SearchPath,
        globals: Globals,  # noqa: A002 - the name users know
        remarks: Remarks,
        runners: int,
        tears_down: bool,
    ) -> None:
        self._search = search
        self._globals = globals
        self._remarks = remarks
        self._runners = runners
        self._tears_down = tears_down
        self.space = Space()
        self.hosts = Hosts(runners, remarks)
        self.needed: dict[str, None] = {}

    def described(self, named: Node, services: Services) -> Node | None:
        """The environment in a file, or in inline JSON; None if it cannot be honoured, which is refused."""
        around = _Around(scope=Scope(self._globals), services=services, groups={})
        return self._described(self._search.load(named), around)

    def _described(self, node: Node, around: _Around) -> Node | None:
        written = node.entries.get("class")
        if written is None:
            raise node.error("expected an environment, with a name, a class and a config")
        name, cls = node.entries.get("name", written), self._class(written)
        around = self._widened(node, around)
        if cls is None:
            return None
        config = around.scope.merged(self._with_paths(node))
        described: dict[str, Node] = {}
        parameters = self._add_parameters(described, config, around, name)
        result = config.with_value(described)
        if cls == "CompositeEnv":
            children = self._children(config, around, parameters)
            if not children:
                return None
            described["children"] = config.with_value(children)
        else:
            described.setdefault("tunable_params", config.with_value([]))
            self._add_options(result, cls, config, around, parameters)
        return node.with_value(
            {"class": written.with_value(cls), "name": name.with_value(literal(name.text)), "config": result}
        )

    def _class(self, written: Node) -> str | None:
        path = written.text
        name = path.rpartition(".")[2]
        if "." in path and not path.startswith("mlos_bench."):
            return path
        if name in _CLASSES:
            return _CLASSES[name]
        hint = _REFUSED.get(name) or f"no such environment{nearest(name, _CLASSES)}"
        self._remarks.refuse(written, f"{name}: {hint}")
        return None

    def _with_paths(self, node: Node) -> Node:
        """The config, with the files found that it asks to be looked for."""
        config = node.entries.get("config") or node.with_value({})
        entries = dict(config.entries)
        for key in node.entries.get("resolve_config_property_paths", node.with_value([])).plain():
            if key in entries and isinstance(entries[key].value, str):
                found = self._search.resolve(entries[key].value)
                entries[key] = entries[key] if found is None else entries[key].with_value(str(found))
        return config.with_value(entries)

    def _widened(self, node: Node, around: _Around) -> _Around:
        services, tunables = node.get("include_services"), node.get("include_tunables")
        search, remarks = self._search, self._remarks
        if services is not None:
            found = around.services.including(services.items, around.scope, search, remarks)
            around = replace(around, services=found)
        if tunables is not None:
            around = replace(around, groups=included(tunables.items, around.groups, search, remarks))
        return around

    def _children(self, config: Node, around: _Around, parameters: _Parameters) -> list[Node]:
        inside = replace(
            around,
            scope=around.scope.within(parameters.own),
            parent={**parameters.taken, **parameters.own},
        )
        files = config.get("include_children")
        written = [] if files is None else [self._search.load(file) for file in files.items]
        children = config.get("children")
        written += [] if children is None else children.items
        if not written:
            raise config.error("expected at least one child, in children or include_children")
        found = (self._described(child, inside) for child in written)
        return [child for child in found if child is not None]

    def _add_options(
        self, result: Node, cls: str, config: Node, around: _Around, parameters: _Parameters
    ) -> None:
        steps = Steps(self._search, self._remarks, around.services, tears_down=self._tears_down)
        written = {key: node for key, node in config.entries.items() if key not in _COMMON}

        known = {*parameters.own, *parameters.tunables, "PWD"}

        def path(node: Node) -> Node:
            return node.with_value(self._text(node, known, around.scope))

        described: dict[str, Node] = result.value
        if cls in ("LocalEnv", "LocalFileShareEnv", "RemoteEnv"):
            self._add_undeclared(described, written, around, parameters)
            described.update(steps.described(written, is_local=cls != "RemoteEnv", path=path))
        else:
            described.update({key: made(escaped(node.plain()), node.place) for key, node in written.items()})
        if cls == "MockEnv":
            described["telemetry"] = config.with_value(1)
        if cls in _ON_HOSTS:
            scope = around.scope
            outside = {name: scope.value(name) for name in SSH_PARAMETERS if name in scope}
            self.hosts.use(result, {**outside, **parameters.taken, **parameters.own}, around.services.ssh)
        if cls == "HostEnv":
            self._remarks.note(config, _STARTED)
        if self._runners > 1 and (shared := described.get("temp_dir")) is not None:
            self._remarks.note(shared, "trials that run at once share this folder")

    # Parameters

    def _add_parameters(
        self, described: dict[str, Node], config: Node, around: _Around, name: Node
    ) -> _Parameters:
        """The part of the config that every environment has."""
        groups = self._groups(config)
        self.space.use(groups, around.groups)
        if groups:
            described["tunable_params"] = config.entries["tunable_params"].with_value(groups)
        constants, required = config.get("const_args"), config.get("required_args")
        written = {} if constants is None else constants.entries
        asked = {} if required is None else {node.text: node for node in required.items}
        outside = {key: node for key, node in written.items() if key in around.scope or key in _OF_TRIAL}
        tunables = frozenset(key for group in groups for key in params_of(around.groups[group.text]))
        inside = {key: node for key, node in written.items() if key not in outside}
        asked = {key: node for key, node in asked.items() if key not in inside}
        parameters = _Parameters(
            own=_evaluated(inside, around),
            taken={key: around.scope.value(key) for key in (*outside, *asked) if key in around.scope},
            tunables=tunables,
        )
        fixed = {ours(key): self._constant(node, around, parameters) for key, node in inside.items()}
        wanted = []
        for key, node in {**asked, **outside}.items():
            if key in self._globals and self._globals.is_late(key):
                fixed[ours(key)] = self._globals.node(key).with_value(self._globals.late_text(key))
            elif key in around.scope or key in tunables or key in _OF_TRIAL:
                wanted.append(node.with_value(self._name(key)))
            else:
                how = f"give it with --{key} VALUE, in a file of globals, or in const_args"
                self._remarks.refuse(node, f"environment {name.text!r} requires {key!r}; {how}")
        if fixed:
            described["const_args"] = (constants or config).with_value(fixed)
        if wanted:
            described["required_args"] = (required or config).with_value(wanted)
        return parameters

    def _groups(self, config: Node) -> list[Node]:
        """The tunable groups it uses: those it names, and those the map has for ``$name``."""
        found: list[Node] = []
        named = config.get("tunable_params")
        for node in [] if named is None else named.items:
            name = node.text
            if not name.startswith("$"):
                found.append(node)
                continue
            known = self._globals.value("tunable_params_map") if "tunable_params_map" in self._globals else {}
            if not isinstance(known, dict) or name[1:] not in known:
                hint = nearest(name[1:], known if isinstance(known, dict) else ())
                raise node.error(f"tunable_params_map has nothing for {name!r}{hint}")
            groups = known[name[1:]]
            found += [node.with_value(group) for group in ([groups] if isinstance(groups, str) else groups)]
        return found

    def _constant(self, node: Node, around: _Around, parameters: _Parameters) -> Node:
        if not isinstance(node.value, str):
            return node.with_value(escaped(as_seen(node.plain())))
        known = {*parameters.own, *parameters.tunables, *around.parent}
        return node.with_value(self._text(node, known, around.scope))

    def _text(self, node: Node, known: Iterable[str], scope: Scope) -> str:
        """A text in our form. A name that nobody knows stays as it is, as it does there."""
        names = {*known, *scope.constants, *_OF_TRIAL}

        def replacement(name: str, form: str) -> str:
            if name in self._globals and self._globals.is_late(name):
                return self._globals.late_text(name)
            if name in names or name in self._globals:
                return form.replace(name, self._name(name))
            self._remarks.note(node, f"nobody knows ${name} here; it stays as it is")
            return literal(form)

        return rewritten(node.text, replacement)

    def _name(self, name: str) -> str:
        """Our name of a parameter; if it is a global, it is needed from now on."""
        if name in self._globals and name not in _OF_TRIAL:
            self.needed[name] = None
        return ours(name)

    def _add_undeclared(
        self,
        described: dict[str, Node],
        written: Mapping[str, Node],
        around: _Around,
        parameters: _Parameters,
    ) -> None:
        """Scripts may be shown parameters that the environment forgot to require."""
        plain, renamed = written.get("shell_env_params"), written.get("shell_env_params_rename")
        asked = [*(plain.items if plain else ()), *(renamed.entries.values() if renamed else ())]
        known = {*parameters.own, *parameters.taken, *parameters.tunables, *_OF_TRIAL}
        forgotten = [one for one in asked if one.text not in known and one.text in around.scope]
        if more := [one.with_value(self._name(one.text)) for one in forgotten]:
            required = described.get("required_args", more[0].with_value([]))
            described["required_args"] = required.with_value([*required.items, *more])


def _evaluated(constants: Mapping[str, Node], around: _Around) -> dict[str, object]:
    """Constants as far as they are known. Each may name the parent's, its neighbours, and the scope's."""
    values: dict[str, object] = {key: node.plain() for key, node in constants.items()}
    for key, value in values.items():
        whole = value[1:] if isinstance(value, str) and value.startswith("$") else ""
        if whole in around.parent:
            values[key] = around.parent[whole]
        else:
            others = {name: other for name, other in values.items() if name != key}
            values[key] = around.scope.evaluated(value, others)
    return values
