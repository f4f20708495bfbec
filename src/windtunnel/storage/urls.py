"""Which database a URL names, and how people may be told of it."""

from __future__ import annotations

import importlib.util
import re
from typing import NamedTuple

from sqlalchemy import URL, exc, make_url

from windtunnel.errors import ConfigError
from windtunnel.options import nearest

__all__ = ["MEMORY", "Target", "parse_url"]

MEMORY = ":memory:"


class Target(NamedTuple):
    """A database to be opened.

    :ivar backend: ``sqlite``, ``postgresql`` or ``mysql``.
    :ivar url: with the driver filled in.
    :ivar place: how people know it; holds neither password nor options.
    """

    backend: str
    url: URL
    place: str


class _Driver(NamedTuple):
    backend: str
    module: str
    extra: str


_DRIVERS = {
    "postgresql": _Driver("postgresql", "asyncpg", "postgres"),
    "postgres": _Driver("postgresql", "asyncpg", "postgres"),
    "mysql": _Driver("mysql", "aiomysql", "mysql"),
    "mariadb": _Driver("mysql", "aiomysql", "mysql"),
}


def parse_url(url: str) -> Target:
    """The database ``url`` names. Messages show no more of it than its kind: it may hold a password.

    :raises ConfigError: if it cannot be understood, is not supported, or its driver is not installed.
    """
    try:
        parsed = make_url(url)
        scheme = parsed.drivername.partition("+")[0]
    except (exc.ArgumentError, ValueError):
        raise _wrong(f"expected a URL such as sqlite:///windtunnel.db, found {_harmless(url)!r}") from None
    if scheme == "sqlite":
        return _sqlite(parsed, url)
    driver = _DRIVERS.get(scheme)
    if driver is None:
        known = ["sqlite", "postgresql", "mysql", "mariadb"]
        raise _wrong(
            f"expected a URL such as sqlite:///windtunnel.db, found one of {scheme!r}, "
            f"which is not supported{nearest(scheme, known)}"
        )
    if importlib.util.find_spec(driver.module) is None:
        raise _wrong(
            f"{scheme} needs the driver {driver.module}; install it: pip install 'windtunnel[{driver.extra}]'"
        )
    if not parsed.database:
        raise _wrong(f"expected the name of a database at the end of the {scheme} URL, found none")
    shown = parsed.set(drivername=scheme, query={}).render_as_string(hide_password=True)
    return Target(driver.backend, parsed.set(drivername=f"{driver.backend}+{driver.module}"), shown)


def _sqlite(parsed: URL, url: str) -> Target:
    if parsed.host is not None:
        raise _wrong(
            "expected three slashes before a relative path and four before an absolute one, "
            f"found {_harmless(url)!r}"
        )
    if parsed.query:
        raise _wrong(f"an SQLite URL takes no options, found {sorted(parsed.query)}; remove them")
    name = parsed.database or MEMORY
    return Target("sqlite", URL.create("sqlite", database=name), f"sqlite:///{name}")


def _wrong(message: str) -> ConfigError:
    return ConfigError(message, path=("storage",))


def _harmless(url: object) -> str:
    """``url`` without what may be a name and a password."""
    return re.sub(r"^([^/@]*/*).*@", r"\1***@", str(url), flags=re.DOTALL)
