"""Cancelled, or refused by its database, at awaits of storage, scheduling and telemetry.

Which of them it is today: see ``sweep.planned``.
"""

from __future__ import annotations

import pytest

from tests.acceptance.sweep_report import check, swept


@pytest.mark.timeout(900)
def test_cancelled_at_any_await_it_is_resumed_exactly() -> None:
    check(swept("cancel"))


@pytest.mark.timeout(900)
def test_refused_by_the_database_at_any_await_it_is_resumed_exactly() -> None:
    check(swept("error"))
