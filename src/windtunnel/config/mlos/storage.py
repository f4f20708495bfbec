"""The database of a tree as a URL."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from windtunnel.config.mlos.names import Scope, literal, references
from windtunnel.config.mlos.nodes import Node
from windtunnel.config.mlos.remarks import Remarks
from windtunnel.config.mlos.search import SearchPath

__all__ = ["Database", "database"]

MEMORY = "sqlite:///:memory:"
_SERVERS = {"postgresql": "postgresql", "postgres": "postgresql", "mysql": "mysql", "mariadb": "mysql"}
_KEYS = frozenset(
    {"drivername", "database", "username", "password", "host", "port", "query"}
    | {"log_sql", "lazy_schema_create"}
)
_PASSWORD = "DB_PASSWORD"  # noqa: S105 - the name of a variable
_OF_MLOS = frozenset({"config_param", "objectives", "trial_telemetry"})
"""Tables that only a database of mlos_bench has."""


class Database(NamedTuple):
    """:ivar url: with the password; for one run, and never to be written.
    :ivar written: the same for a file, in which ``$name`` expands, with a variable for the password.
    :ivar variable: that variable; None if there is no password.
    """

    url: str
    written: str
    variable: str | None = None


def database(named: Node | None, scope: Scope, search: SearchPath, remarks: Remarks) -> Database:
    """The database that a storage file describes; without one it is in memory, and gone afterwards."""
    if named is None:
        return Database(MEMORY, MEMORY)
    described = search.load(named)
    config = scope.merged(described.entries.get("config") or described.with_value({}))
    for key, node in config.entries.items():
        if key not in _KEYS:
            remarks.refuse(node, f"a storage has no option {key!r} here")
    driver = config.get("drivername")
    if driver is None:
        raise config.error("expected the drivername of a database")
    kind = str(driver.value).partition("+")[0]
    if kind == "sqlite":
        return _sqlite(described, config, search, remarks)
    if kind not in _SERVERS:
        remarks.refuse(driver, f"{kind} is not supported; use sqlite, postgresql, mysql or mariadb")
        return Database(MEMORY, MEMORY)
    return _server(_SERVERS[kind], config, scope)


def _sqlite(described: Node, config: Node, search: SearchPath, remarks: Remarks) -> Database:
    name = config.get("database")
    text = ":memory:" if name is None else name.text
    if name is None or text == ":memory:":
        return Database(MEMORY, MEMORY)
    resolved = described.entries.get("resolve_config_property_paths", described.with_value([])).plain()
    found = search.resolve(text) if "database" in resolved else None
    path = Path(search.shown(found)) if found is not None else Path(text)
    if _is_of_mlos(search.directory / path):
        mine = path.with_name(f"{path.stem}.windtunnel{path.suffix}")
        remarks.note(
            name,
            f"{str(path)!r} is a database of mlos_bench and stays as it is; results go into {str(mine)!r}. "
            f"To bring over what it holds: windtunnel import-mlos sqlite:///{path} --storage sqlite:///{mine}",
        )
        path = mine
    url = f"sqlite:///{path}"
    return Database(url, literal(url))


def _is_of_mlos(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    except sqlite3.Error:  # told when it is opened
        return False
    return {name for (name,) in tables} >= _OF_MLOS


def _server(kind: str, config: Node, scope: Scope) -> Database:
    given = {key: node.value for key, node in config.entries.items() if node.value not in (None, "")}
    if isinstance(given.get("query"), dict):
        given["query"] = config.entries["query"].plain()
    url = _url(kind, given, _quoted(given["password"]) if "password" in given else None)
    if "password" not in given:
        return Database(url, literal(url))
    variable = _variable(scope) or _PASSWORD
    rest = literal(_url(kind, given, "\0"))
    return Database(url, rest.replace("\0", f"${variable}"), variable)


def _variable(scope: Scope) -> str | None:
    """The variable of the operating system that the password is taken from, if there is one."""
    if "password" not in scope.globals:
        return None
    written = scope.globals.node("password").value
    names = list(references(written)) if isinstance(written, str) else []
    is_one = len(names) == 1 and written in (f"${names[0]}", f"${{{names[0]}}}") and names[0] not in scope
    return names[0] if is_one else None


def _url(kind: str, given: Mapping[str, Any], password: str | None) -> str:
    user = _quoted(given["username"]) if "username" in given else ""
    login = "" if not user else f"{user}@" if password is None else f"{user}:{password}@"
    port = f":{given['port']}" if "port" in given else ""
    query = "&".join(f"{_quoted(key)}={_quoted(value)}" for key, value in given.get("query", {}).items())
    return f"{kind}://{login}{given.get('host', '')}{port}/{given.get('database', '')}{query and '?'}{query}"


def _quoted(part: object) -> str:
    return quote(str(part), safe="")
