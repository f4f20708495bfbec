"""Alembic, from revision 1. Loaded only when a database has to be upgraded."""

from __future__ import annotations

from pathlib import Path

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from windtunnel.storage.dialects import unchecked_references
from windtunnel.storage.schema import VERSION_TABLE, metadata

__all__ = ["FOLDER", "load", "revisions", "upgrade"]

FOLDER = Path(__file__).parent / "migrations"


def load() -> ScriptDirectory:
    """The migrations, read from their files: do it in a thread."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    revisions(scripts)
    return scripts


def revisions(scripts: ScriptDirectory) -> set[str]:
    """Every revision that can be upgraded from."""
    return {script.revision for script in scripts.walk_revisions()}


def upgrade(connection: Connection, scripts: ScriptDirectory, target: str = "head") -> None:
    """Run the migrations up to ``target`` on ``connection``, in one transaction where the database can."""
    context = EnvironmentContext(
        Config(),
        scripts,
        fn=lambda revision, _context: scripts._upgrade_revs(target, revision),  # noqa: SLF001
    )
    with context, unchecked_references(connection):
        context.configure(
            connection=connection,
            target_metadata=metadata,
            version_table=VERSION_TABLE,
            render_as_batch=True,
            transactional_ddl=True,
        )
        context.run_migrations()
