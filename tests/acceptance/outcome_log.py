"""Counts what a database accepts, in the transactions that accept it: no crash comes between."""

from __future__ import annotations

from windtunnel.model import Status

__all__ = ["ACCEPTED"]

ACCEPTED = f"""
CREATE TRIGGER IF NOT EXISTS accept AFTER UPDATE OF status ON trial
WHEN NEW.status >= {Status.SUCCEEDED.value} AND NEW.status <> OLD.status
BEGIN INSERT INTO accepted VALUES (NEW.trial_id, NEW.token, NEW.status); END;
CREATE TABLE IF NOT EXISTS accepted (trial_id INTEGER, token INTEGER, status INTEGER);
"""
"""For SQLite: a table of the outcomes that were accepted, and what fills it. Again is no error.

The trigger is first: there is none before there are tables, and with tables of others only, nobody begins.
"""
