"""What each database says in its own words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Dialect, Table, bindparam

__all__ = [
    "CHUNK",
    "chunks",
    "has_update_returning",
    "insert_new",
    "insert_rows",
    "lock_schema",
    "unchecked_references",
]

CHUNK = 500
"""Values in one IN list: within every database's limit on parameters."""
_SCHEMA_LOCK = 0x77696E6474756E6C  # "windtunl"
_ROWS_AT_ONCE = 2000
"""Rows in one INSERT to MySQL, whose driver writes each as text in the event loop: some 10 ms."""
_WORTH_COPY = 500
"""Rows from which COPY, three times as fast, makes up for the savepoint around it."""


def chunks(values: Iterable[Any]) -> Iterable[list[Any]]:
    """``values`` in lists that fit into one IN."""
    rest = list(values)
    while rest:
        yield rest[:CHUNK]
        rest = rest[CHUNK:]


def has_update_returning(dialect: Dialect) -> bool:
    """Whether an UPDATE can give the rows it changed; MySQL and MariaDB cannot."""
    return dialect.name != "mysql"


def lock_schema(connection: Connection) -> None:
    """Keep others from making or changing the tables until this transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")
    elif (
        connection.dialect.name == "mysql"
    ):  # its DDL ends the transaction; the lock goes with the connection
        connection.exec_driver_sql("SELECT GET_LOCK('windtunnel_schema', 60)")


@contextmanager
def unchecked_references(connection: Connection) -> Iterator[None]:
    """On SQLite, run the block in a transaction of its own that does not look at foreign keys.

    A table that others refer to is changed by putting a new one in its place; with foreign keys on, dropping
    the old one would delete all that refers to it. They can be switched outside of transactions only: what
    was done on ``connection`` before is committed, and the block's work is when it ends without an error.
    """
    if connection.dialect.name != "sqlite":
        yield
        return
    say = connection.exec_driver_sql
    was_on = say("PRAGMA foreign_keys").scalar()
    say("COMMIT")
    say("PRAGMA foreign_keys=OFF")
    try:
        say("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            say("ROLLBACK")
            raise
        say("COMMIT")
    finally:
        say(f"PRAGMA foreign_keys={was_on}")
        say("BEGIN")  # for whoever commits or rolls back what they began


def insert_new(table: Table, dialect: Dialect) -> Any:
    """An INSERT that leaves rows alone whose key is there already."""
    # Loaded on use: the others' dialects would take a tenth of the time in which a command starts.
    if dialect.name == "mysql":  # IGNORE would also hide values that do not fit
        from sqlalchemy.dialects import mysql

        key = next(iter(table.primary_key.columns))
        return mysql.insert(table).on_duplicate_key_update({key.name: key})
    if dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table).on_conflict_do_nothing()
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table).on_conflict_do_nothing()


def insert_rows(connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert many whole rows, leaving alone those whose key is there already; nothing is faster for many."""
    dialect = connection.dialect
    if dialect.name == "sqlite":
        connection.exec_driver_sql(_insert_rows_sql(table, dialect), list(rows))
    elif dialect.name == "mysql":
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = list(rows[start : start + _ROWS_AT_ONCE])
            connection.exec_driver_sql(_insert_rows_sql(table, dialect), some)
    elif len(rows) < _WORTH_COPY or not _copied(connection, table, rows):
        # One statement with an array a column, instead of one for each row.
        connection.exec_driver_sql(
            _insert_columns_sql(table, dialect), tuple(map(list, zip(*rows, strict=True)))
        )


def _copied(connection: Connection, table: Table, rows: Sequence[tuple[Any, ...]]) -> bool:
    """Insert the rows by PostgreSQL's COPY, which knows no ``ON CONFLICT``: all, or none if one is there."""
    from asyncpg import UniqueViolationError  # of an optional extra

    driver: Any = connection.connection.dbapi_connection
    try:
        with connection.begin_nested():
            driver.run_async(
                lambda asyncpg: asyncpg.copy_records_to_table(
                    table.name, records=rows, columns=[column.name for column in table.c]
                )
            )
    except UniqueViolationError:
        return False
    return True


@lru_cache(maxsize=16)
def _insert_rows_sql(table: Table, dialect: Dialect) -> str:
    """``insert_new`` as text with one positional parameter a column."""
    values: Any = {column: bindparam(column.name) for column in table.c}
    return str(insert_new(table, dialect).values(values).compile(dialect=dialect))


@lru_cache(maxsize=16)
def _insert_columns_sql(table: Table, dialect: Dialect) -> str:
    """``insert_new`` as text with one array a column."""
    types = [column.type.compile(dialect=dialect) for column in table.c]
    arrays = ", ".join(f"${place}::{kind}[]" for place, kind in enumerate(types, 1))
    names = ", ".join(column.name for column in table.c)
    chosen = f"SELECT * FROM unnest({arrays})"  # noqa: S608 - our own names and types
    return f"INSERT INTO {table.name} ({names}) {chosen} ON CONFLICT DO NOTHING"
