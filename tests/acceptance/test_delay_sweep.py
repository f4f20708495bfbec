"""Held up for two leases at any await, while another worker takes over."""

from __future__ import annotations

import pytest

from tests.acceptance.sweep import swept
from tests.acceptance.verdict import check


@pytest.mark.timeout(900)
def test_held_up_at_any_await_for_two_leases_it_doubles_nothing() -> None:
    check(swept("delay"))
