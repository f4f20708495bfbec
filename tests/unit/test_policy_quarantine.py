"""When a host that fails is left alone, how long, and what makes up for it."""

from __future__ import annotations

from datetime import timedelta

from windtunnel.scheduling.policy.quarantine import HEALTHY, Health, Quarantine, judge_host

RULE = Quarantine(after=3, pause=timedelta(seconds=10), factor=3, longest=timedelta(seconds=60))


def _pauses(outcomes: str, *, rule: Quarantine = RULE, lost: bool = False) -> list[float | None]:
    """The pause in seconds after each of ``+`` and ``-``."""
    health, pauses = HEALTHY, []
    for outcome in outcomes:
        health, pause = judge_host(rule, health, ok=outcome == "+", lost=lost)
        pauses.append(None if pause is None else pause.total_seconds())
    return pauses


def test_it_takes_several_failures_in_a_row() -> None:
    assert _pauses("--+--") == [None] * 5
    assert _pauses("---") == [None, None, 10]


def test_a_lost_host_need_not_fail_again() -> None:
    assert _pauses("-", lost=True) == [10]


def test_a_host_that_fails_after_its_pause_gets_a_longer_one_at_once_up_to_the_longest() -> None:
    assert _pauses("------") == [None, None, 10, 30, 60, 60]


def test_one_success_makes_up_for_everything() -> None:
    assert _pauses("----+---") == [None, None, 10, 30, None, None, None, 10]
    assert judge_host(RULE, Health(failures=2, pauses=5), ok=True) == (HEALTHY, None)


def test_a_host_that_fails_for_years_has_the_longest_pause() -> None:
    _, pause = judge_host(RULE, Health(pauses=1_000_000), ok=False)
    assert pause == RULE.longest
