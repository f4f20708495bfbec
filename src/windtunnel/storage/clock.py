"""The time leases are counted in."""

from __future__ import annotations

import time

from sqlalchemy import Connection

__all__ = ["now_us"]

_CLOCKS = {
    "postgresql": "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)",
    "mysql": "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)",
}


def now_us(connection: Connection) -> int:
    """Microseconds of the epoch by the server's clock, so that all workers share one clock.

    An SQLite file is only shared on one machine, whose clock serves.
    """
    ask = _CLOCKS.get(connection.dialect.name)
    if ask is None:
        return time.time_ns() // 1000
    now: int = connection.exec_driver_sql(ask).scalar_one()
    return int(now)
