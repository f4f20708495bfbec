"""The first schema."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import LONGTEXT

revision = "0001"
down_revision = None

_TEXT = sa.Text().with_variant(LONGTEXT, "mysql")
_EVERYWHERE: Any = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin", "mysql_engine": "InnoDB"}
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:  # a frozen copy of the tables as they were: it never follows schema.py
    op.create_table(
        "config",
        sa.Column("id", _ID, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("params", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_config")),
        sa.UniqueConstraint("digest", name=op.f("uq_config_digest")),
        **_EVERYWHERE,
    )
    op.create_table(
        "experiment",
        sa.Column("id", _ID, nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("description", _TEXT, nullable=False),
        sa.Column("root_env_config", _TEXT, nullable=False),
        sa.Column("objectives", _TEXT, nullable=False),
        sa.Column("tunables", _TEXT, nullable=False),
        sa.Column("next_trial_id", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("windtunnel", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_experiment")),
        sa.UniqueConstraint("name", name=op.f("uq_experiment_name")),
        **_EVERYWHERE,
    )
    op.create_table(
        "metric",
        sa.Column("id", _ID, nullable=False),
        sa.Column("name", sa.String(length=512), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_metric")),
        sa.UniqueConstraint("name", name=op.f("uq_metric_name")),
        **_EVERYWHERE,
    )
    op.create_table(
        "trial",
        sa.Column("experiment", _ID, autoincrement=False, nullable=False),
        sa.Column("trial_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("config_id", _ID, nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("not_before_us", sa.BigInteger(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("started_us", sa.BigInteger(), nullable=True),
        sa.Column("ended_us", sa.BigInteger(), nullable=True),
        sa.Column("lease_until_us", sa.BigInteger(), nullable=True),
        sa.Column("owner", sa.String(length=255), nullable=True),
        sa.Column("host", sa.String(length=255), nullable=True),
        sa.Column("parameters", _TEXT, nullable=True),
        sa.Column("metrics", _TEXT, nullable=True),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("failure", _TEXT, nullable=True),
        sa.CheckConstraint("status BETWEEN 0 AND 7", name=op.f("ck_trial_status")),
        sa.ForeignKeyConstraint(["config_id"], ["config.id"], name=op.f("fk_trial_config_id")),
        sa.ForeignKeyConstraint(
            ["experiment"], ["experiment.id"], name=op.f("fk_trial_experiment"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("experiment", "trial_id", name=op.f("pk_trial")),
        sqlite_with_rowid=False,
        **_EVERYWHERE,
    )
    op.create_index(
        "ix_trial_lease",
        "trial",
        ["experiment", "lease_until_us"],
        unique=False,
        sqlite_where=sa.text("status = 3"),
        postgresql_where=sa.text("status = 3"),
    )
    op.create_index(
        "ix_trial_outcome",
        "trial",
        ["experiment", "status", "config_id", "score"],
        unique=False,
        sqlite_where=sa.text("status >= 4"),
        postgresql_where=sa.text("status >= 4"),
    )
    op.create_index(
        "ix_trial_queue",
        "trial",
        ["experiment", sa.literal_column("priority DESC"), "trial_id", "status"],
        unique=False,
        sqlite_where=sa.text("status = 1"),
        postgresql_where=sa.text("status = 1"),
    )
    op.create_table(
        "telemetry",
        sa.Column("experiment", _ID, autoincrement=False, nullable=False),
        sa.Column("trial_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("ts_us", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("metric_id", _ID, autoincrement=False, nullable=False),
        sa.Column("number", sa.Double(), nullable=True),
        sa.Column("text", _TEXT, nullable=True),
        sa.ForeignKeyConstraint(
            ["experiment", "trial_id"],
            ["trial.experiment", "trial.trial_id"],
            name=op.f("fk_telemetry_experiment"),
            ondelete="CASCADE",
        ).ddl_if(dialect="sqlite"),
        sa.ForeignKeyConstraint(["metric_id"], ["metric.id"], name=op.f("fk_telemetry_metric_id")).ddl_if(
            dialect="sqlite"
        ),
        sa.PrimaryKeyConstraint(
            "experiment", "trial_id", "attempt", "ts_us", "metric_id", name=op.f("pk_telemetry")
        ),
        sqlite_with_rowid=False,
        **_EVERYWHERE,
    )
    op.create_table(
        "trial_attempt",
        sa.Column("experiment", _ID, autoincrement=False, nullable=False),
        sa.Column("trial_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=True),
        sa.Column("host", sa.String(length=255), nullable=True),
        sa.Column("started_us", sa.BigInteger(), nullable=True),
        sa.Column("ended_us", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("reason", _TEXT, nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment", "trial_id"],
            ["trial.experiment", "trial.trial_id"],
            name=op.f("fk_trial_attempt_experiment"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("experiment", "trial_id", "attempt", name=op.f("pk_trial_attempt")),
        sqlite_with_rowid=False,
        **_EVERYWHERE,
    )
