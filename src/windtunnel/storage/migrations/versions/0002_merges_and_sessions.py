"""Which experiments are merged into which, and where and with what trials were run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

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
    )
    op.create_table(
        "session",
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("experiment", _ID, autoincrement=False, nullable=False),
        sa.Column("started_us", sa.BigInteger(), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment"], ["experiment.id"], name="fk_session_experiment", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("owner", "experiment", name="pk_session"),
    )
