"""Frozen for two leases at an await, heartbeats and all, while another worker takes over.

Which awaits it is today: see ``sweep.planned``.
"""

from __future__ import annotations

import pytest

from tests.acceptance.sweep_report import check, swept


@pytest.mark.timeout(900)
def test_frozen_at_any_await_for_two_leases_it_doubles_nothing() -> None:
    report = check(swept("freeze"))
    # Or nobody took over, and the fence stood idle.
    assert report.lost + report.refused >= report.struck / 2
    assert report.refused > 0
