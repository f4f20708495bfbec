"""Alembic wants this file; ``windtunnel.storage.migrate`` sets up the environment itself."""
