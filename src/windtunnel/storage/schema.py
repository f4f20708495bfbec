"""The tables. Times are UTC integer microseconds, free-form values are JSON text (see ``values.py``).

What grows: ``trial`` by one row a trial, ``telemetry`` by one row a point, ``config`` and ``metric`` by
distinct content. A trial's row holds its current attempt; an attempt that ended without ending its trial
(lease expired, released, interrupted, failed and tried again) moves to ``trial_attempt``.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    event,
    literal_column,
    text,
)
from sqlalchemy.sql import ColumnElement

from windtunnel.model import Status
from windtunnel.texts import METRIC_NAME

__all__ = [
    "HAS_HOST",
    "IS_COMPLETED",
    "IS_PENDING",
    "IS_RUNNING",
    "REVISION",
    "VERSION_TABLE",
    "config",
    "experiment",
    "experiment_merge",
    "host_facts",
    "metadata",
    "metric",
    "optimizer_lease",
    "receipt",
    "session",
    "status_is",
    "telemetry",
    "trial",
    "trial_attempt",
]

REVISION = "0004"
"""The newest migration; a database that says something unknown here is not ours to touch."""
VERSION_TABLE = "windtunnel_schema"
FAILURE_KIND = 16

# MySQL's TEXT ends at 64 KiB; for one of so many characters it takes LONGTEXT.
_TEXT = Text().with_variant(Text(2**24), "mysql")
_WHERE = "where"
_HAVE_PARTIAL_INDEXES = ("sqlite", "postgresql")
_OPTIONS: Mapping[str, Mapping[str, str]] = {
    # Names that differ in case only are different names, as everywhere else.
    "mysql": {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin", "mysql_engine": "InnoDB"}
}
_ID = BigInteger().with_variant(Integer, "sqlite")  # only INTEGER PRIMARY KEY counts up by itself on SQLite

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

experiment = Table(
    "experiment",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("description", _TEXT, nullable=False),
    Column("root_env_config", _TEXT, nullable=False),
    Column("objectives", _TEXT, nullable=False),
    Column("tunables", _TEXT, nullable=False),
    Column("next_trial_id", BigInteger, nullable=False, server_default=text("1")),
    Column("created_us", BigInteger, nullable=False),
    Column("windtunnel", String(32), nullable=False),
    Column("document", _TEXT),  # how to run it, for other machines' workers
    Column("suggested", BigInteger),  # configurations taken from the optimizer; null: nobody counted
    sqlite_autoincrement=True,  # as on servers, the id of one that was deleted is never given to another
)

# Whose turn it is to ask the optimizer. No row: nobody's.
optimizer_lease = Table(
    "optimizer_lease",
    metadata,
    Column(
        "experiment",
        _ID,
        ForeignKey("experiment.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("owner", String(255), nullable=False),
    Column("lease_until_us", BigInteger, nullable=False),
)

# The trials of ``merged`` belong to what ``experiment`` learns from.
experiment_merge = Table(
    "experiment_merge",
    metadata,
    Column(
        "experiment",
        _ID,
        ForeignKey("experiment.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column(
        "merged", _ID, ForeignKey("experiment.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    ),
    Column("merged_us", BigInteger, nullable=False),
)

# One row for each time a worker took part: ``trial.owner`` leads to where and with what a trial was run.
session = Table(
    "session",
    metadata,
    Column("owner", String(255), primary_key=True),
    Column(
        "experiment",
        _ID,
        ForeignKey("experiment.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("started_us", BigInteger, nullable=False),
    Column("facts", _TEXT, nullable=False),
    Column("wanting", Integer),  # how many more trials it could run, as long as that is believed
    Column("wanting_until_us", BigInteger),
)

# What the hosts of a worker's trials were: one row for each time it connected to one.
host_facts = Table(
    "host_facts",
    metadata,
    Column(
        "experiment",
        _ID,
        ForeignKey("experiment.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("owner", String(255), primary_key=True),
    Column("host", String(255), primary_key=True),
    Column("since_us", BigInteger, primary_key=True, autoincrement=False),  # by the worker's clock
    Column("facts", _TEXT, nullable=False),
)

# The newest transaction of each writer of a server: tells what became of a commit that was cut off.
receipt = Table(
    "receipt",
    metadata,
    Column("writer", String(32), primary_key=True),
    Column("number", BigInteger, nullable=False),
)

config = Table(
    "config",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("params", _TEXT, nullable=False),
)

trial = Table(
    "trial",
    metadata,
    Column(
        "experiment",
        _ID,
        ForeignKey("experiment.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    ),
    Column("trial_id", BigInteger, primary_key=True, autoincrement=False),
    Column("config_id", _ID, ForeignKey("config.id"), nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("not_before_us", BigInteger, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("started_us", BigInteger),
    Column("ended_us", BigInteger),
    Column("lease_until_us", BigInteger),
    Column("owner", String(255)),
    Column("host", String(255)),
    Column("parameters", _TEXT),
    Column("metrics", _TEXT),
    Column("score", Double),
    Column("failure", _TEXT),
    Column("failure_kind", String(FAILURE_KIND)),
    CheckConstraint("status BETWEEN 0 AND 7", name="status"),
    sqlite_with_rowid=False,
)

trial_attempt = Table(
    "trial_attempt",
    metadata,
    Column("experiment", _ID, primary_key=True, autoincrement=False),
    Column("trial_id", BigInteger, primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("owner", String(255)),
    Column("host", String(255)),
    Column("started_us", BigInteger),
    Column("ended_us", BigInteger, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("reason", _TEXT, nullable=False),
    Column("failure_kind", String(FAILURE_KIND)),
    ForeignKeyConstraint(
        ["experiment", "trial_id"], ["trial.experiment", "trial.trial_id"], ondelete="CASCADE"
    ),
    sqlite_with_rowid=False,
)

metric = Table(
    "metric",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", String(METRIC_NAME), nullable=False, unique=True),
)

# Clustered by its key, so that the points of an attempt lie together: 29 bytes a point on SQLite. Servers
# check no foreign keys here: that takes them longer than the insert, and only held trials get any points.
telemetry = Table(
    "telemetry",
    metadata,
    Column("experiment", _ID, primary_key=True, autoincrement=False),
    Column("trial_id", BigInteger, primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("ts_us", BigInteger, primary_key=True, autoincrement=False),
    Column("metric_id", _ID, primary_key=True, autoincrement=False),
    Column("number", Double),
    Column("text", _TEXT),
    ForeignKeyConstraint(
        ["experiment", "trial_id"], ["trial.experiment", "trial.trial_id"], ondelete="CASCADE"
    ).ddl_if(dialect="sqlite"),
    ForeignKeyConstraint(["metric_id"], ["metric.id"]).ddl_if(dialect="sqlite"),
    sqlite_with_rowid=False,
)


def status_is(status: Status) -> ColumnElement[bool]:
    """``status = n`` with the number written out: a partial index is not used for a bound parameter."""
    return trial.c.status == literal_column(str(status.value))


# The second condition always holds. It names the next column of the partial index: without it SQLite would
# rather read every trial of the experiment.
IS_PENDING: ColumnElement[bool] = status_is(Status.PENDING) & (trial.c.priority > literal_column("-9e18"))
IS_RUNNING: ColumnElement[bool] = status_is(Status.RUNNING) & (trial.c.lease_until_us > literal_column("0"))
IS_COMPLETED: ColumnElement[bool] = trial.c.status >= literal_column(str(Status.SUCCEEDED.value))
HAS_HOST: ColumnElement[bool] = trial.c.host.is_not(None)


def _partial_index(name: str, where: ColumnElement[bool], *columns: object) -> Index:
    """An index on the rows for which ``where`` holds; on every row where the database cannot do that."""
    return Index(name, *columns, info={_WHERE: where})  # type: ignore[arg-type]  # mixed columns


_partial_index(
    "ix_trial_queue",
    status_is(Status.PENDING),
    trial.c.experiment,
    trial.c.priority.desc(),
    trial.c.trial_id,
    trial.c.status,  # always the same; with it, counting needs nothing but the index
)
_partial_index("ix_trial_lease", status_is(Status.RUNNING), trial.c.experiment, trial.c.lease_until_us)
_partial_index(
    "ix_trial_outcome",
    IS_COMPLETED,
    trial.c.experiment,
    trial.c.status,
    trial.c.config_id,
    trial.c.score,
)
_partial_index("ix_trial_host", HAS_HOST, trial.c.experiment, trial.c.config_id, trial.c.host)


@event.listens_for(metadata, "before_create")
def _in_its_own_words(_: MetaData, connection: Connection, **__: object) -> None:
    """Tell a database what others do not understand. Said above, it would load the dialects of all."""
    name = connection.dialect.name
    for table in metadata.tables.values():
        table.dialect_kwargs.update(_OPTIONS.get(name, {}))
        for index in table.indexes:
            if _WHERE in index.info and name in _HAVE_PARTIAL_INDEXES:
                index.dialect_kwargs[f"{name}_where"] = index.info[_WHERE]
