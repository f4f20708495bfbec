"""What a database says of its tables, to compare those of migrations with those that are made at once."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, inspect

from windtunnel.storage import schema

__all__ = ["described"]


def described(connection: Connection) -> dict[str, dict[str, object]]:
    """table → all that SQLAlchemy can see of it; of the version's table its rows, too."""
    look = inspect(connection)
    tables = {name: _table(look, name) for name in look.get_table_names()}
    tables[schema.VERSION_TABLE]["rows"] = [
        tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {schema.VERSION_TABLE}")
    ]
    return tables


def _table(look: Any, name: str) -> dict[str, object]:
    indexes = [
        {**index, "dialect_options": {k: str(v) for k, v in index.get("dialect_options", {}).items()}}
        for index in look.get_indexes(name)
    ]
    columns = [
        (c["name"], str(c["type"]), c["nullable"], c["default"], c.get("primary_key"))
        for c in look.get_columns(name)
    ]
    return {
        "columns": columns,
        "primary key": look.get_pk_constraint(name),
        "foreign keys": sorted(look.get_foreign_keys(name), key=str),
        "unique": sorted(look.get_unique_constraints(name), key=str),
        "checks": look.get_check_constraints(name),
        "indexes": sorted(indexes, key=str),
    }
