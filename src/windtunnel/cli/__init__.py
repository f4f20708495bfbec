"""The command line."""

DEFAULT_STORAGE = "sqlite:///windtunnel.db"
"""Where experiments are looked for when no database is named."""
