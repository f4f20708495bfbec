"""Merges of experiments, sessions of workers, receipts of writers."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGTEXT

revision = "0002"
down_revision = "0001"

_TEXT = sa.Text().with_variant(LONGTEXT, "mysql")
_EVERYWHERE: Any = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin", "mysql_engine": "InnoDB"}
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "experiment_merge",
        sa.Column("experiment", _ID, autoincrement=False, nullable=False),
        sa.Column("merged", _ID, autoincrement=False, nullable=False),
        sa.Column("merged_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment"], ["experiment.id"], name="fk_experiment_merge_experiment", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["merged"], ["experiment.id"], name="fk_experiment_merge_merged", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("experiment", "merged", name="pk_experiment_merge"),
        **_EVERYWHERE,
    )
    op.create_table(
        "session",
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("experiment", _ID, autoincrement=False, nullable=False),
        sa.Column("started_us", sa.BigInteger(), nullable=False),
        sa.Column("facts", _TEXT, nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment"], ["experiment.id"], name="fk_session_experiment", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("owner", "experiment", name="pk_session"),
        **_EVERYWHERE,
    )
    op.create_table(
        "receipt",
        sa.Column("writer", sa.String(length=32), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("writer", name="pk_receipt"),
        **_EVERYWHERE,
    )
