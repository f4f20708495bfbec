"""What the hosts of trials were."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGTEXT

revision = "0004"
down_revision = "0003"

_TEXT = sa.Text().with_variant(LONGTEXT, "mysql")
_EVERYWHERE: Any = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin", "mysql_engine": "InnoDB"}
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "host_facts",
        sa.Column("experiment", _ID, autoincrement=False, nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("since_us", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("facts", _TEXT, nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment"], ["experiment.id"], name="fk_host_facts_experiment", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("experiment", "owner", "host", "since_us", name="pk_host_facts"),
        **_EVERYWHERE,
    )
