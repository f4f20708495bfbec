"""Leases of optimizers, kinds of failure, descriptions of experiments; ids are never reused on SQLite."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGTEXT

revision = "0003"
down_revision = "0002"

_TEXT = sa.Text().with_variant(LONGTEXT, "mysql")
_EVERYWHERE: Any = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin", "mysql_engine": "InnoDB"}
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_EXPERIMENT = (
    "id, name, description, root_env_config, objectives, tunables, next_trial_id, created_us, windtunnel"
)


def upgrade() -> None:
    for table in ("trial", "trial_attempt"):
        op.add_column(table, sa.Column("failure_kind", sa.String(length=16), nullable=True))
    op.create_index(
        "ix_trial_host",
        "trial",
        ["experiment", "config_id", "host"],
        unique=False,
        sqlite_where=sa.text("host IS NOT NULL"),
        postgresql_where=sa.text("host IS NOT NULL"),
    )
    if op.get_bind().dialect.name == "sqlite":
        _remake_experiment()
    else:
        op.add_column("experiment", sa.Column("document", _TEXT, nullable=True))
        op.add_column("experiment", sa.Column("suggested", sa.BigInteger(), nullable=True))
    op.add_column("session", sa.Column("wanting", sa.Integer(), nullable=True))
    op.add_column("session", sa.Column("wanting_until_us", sa.BigInteger(), nullable=True))
    op.create_table(
        "optimizer_lease",
        sa.Column("experiment", _ID, autoincrement=False, nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("lease_until_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment"], ["experiment.id"], name="fk_optimizer_lease_experiment", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("experiment", name="pk_optimizer_lease"),
        **_EVERYWHERE,
    )


def _remake_experiment() -> None:
    """AUTOINCREMENT cannot be added to a table: a new one takes its place."""
    connection = op.get_bind()
    if connection.exec_driver_sql("PRAGMA foreign_keys").scalar():
        raise RuntimeError("foreign_keys is on: dropping the old table would delete all that refers to it")
    op.create_table(
        "experiment_new",
        sa.Column("id", _ID, nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("description", _TEXT, nullable=False),
        sa.Column("root_env_config", _TEXT, nullable=False),
        sa.Column("objectives", _TEXT, nullable=False),
        sa.Column("tunables", _TEXT, nullable=False),
        sa.Column("next_trial_id", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("windtunnel", sa.String(length=32), nullable=False),
        sa.Column("document", _TEXT, nullable=True),
        sa.Column("suggested", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_experiment"),
        sa.UniqueConstraint("name", name="uq_experiment_name"),
        sqlite_autoincrement=True,
    )
    op.execute(f"INSERT INTO experiment_new ({_EXPERIMENT}) SELECT {_EXPERIMENT} FROM experiment")  # noqa: S608 - names
    op.drop_table("experiment")
    op.rename_table("experiment_new", "experiment")
    for table in ("trial", "experiment_merge", "session"):
        if connection.exec_driver_sql(f"PRAGMA foreign_key_check({table})").first():
            raise RuntimeError(f"rows of {table} lost what they refer to")
