"""Cancelled, or refused by its database, at any await of storage, scheduling and telemetry."""

from __future__ import annotations

import pytest

from tests.acceptance.sweep import swept
from tests.acceptance.verdict import check


@pytest.mark.timeout(900)
def test_cancelled_at_any_await_it_is_resumed_exactly() -> None:
    check(swept("cancel"))


@pytest.mark.timeout(900)
def test_refused_by_the_database_at_any_await_it_is_resumed_exactly() -> None:
    check(swept("error"))
