"""Status: how it is read, what it says of itself, what may follow on it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.model import Status, utc_now

STATUSES = st.sampled_from(Status)
FINAL = {Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT}


@given(STATUSES, st.sampled_from([str.lower, str.upper, str.title, lambda name: f"  {name}\n"]))
def test_a_status_is_read_from_its_name_in_any_case(status: Status, spell: object) -> None:
    assert callable(spell)
    assert Status.parse(spell(status.name)) is status


@given(STATUSES)
def test_a_status_is_read_from_its_number_or_itself(status: Status) -> None:
    assert Status.parse(status.value) is status
    assert Status.parse(str(status.value)) is status
    assert Status.parse(status) is status


@given(st.none() | st.text() | st.integers() | st.floats() | st.booleans() | st.lists(st.integers()))
def test_anything_is_read_as_some_status(value: object) -> None:
    status = Status.parse(value)
    if isinstance(value, bool | float | list) or value is None:
        assert status is Status.UNKNOWN


@pytest.mark.parametrize("value", ["", "DONE", "SUCCESS", "-1", "8", "4.0", "²", 8, -1, 4.0, True, None])
def test_what_is_no_status_is_unknown(value: object) -> None:
    assert Status.parse(value) is Status.UNKNOWN


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (Status.UNKNOWN, set()),
        (Status.PENDING, {"good", "pending"}),
        (Status.READY, {"good", "ready"}),
        (Status.RUNNING, {"good"}),
        (Status.SUCCEEDED, {"good", "completed", "succeeded"}),
        (Status.CANCELED, {"completed", "canceled"}),
        (Status.FAILED, {"completed", "failed"}),
        (Status.TIMED_OUT, {"completed", "timed_out"}),
    ],
)
def test_what_a_status_says_of_itself(status: Status, said: set[str]) -> None:
    names = ("good", "pending", "ready", "completed", "succeeded", "canceled", "failed", "timed_out")
    assert {name for name in names if getattr(status, f"is_{name}")} == said


@given(STATUSES, STATUSES)
def test_outcomes_are_final(status: Status, new: Status) -> None:
    if status in FINAL:
        assert not status.can_become(new)


@given(STATUSES)
def test_a_canceled_trial_can_only_wait_again(new: Status) -> None:
    assert Status.CANCELED.can_become(new) == (new is Status.PENDING)


@given(STATUSES)
def test_only_what_runs_gets_an_outcome(status: Status) -> None:
    for outcome in FINAL:
        assert status.can_become(outcome) == (status is Status.RUNNING)


@given(STATUSES, STATUSES)
def test_a_status_is_left_for_another_one(status: Status, new: Status) -> None:
    assert not (status is new and status.can_become(new))
    assert not (new is Status.UNKNOWN and status.can_become(new))


@given(STATUSES.filter(lambda status: status not in FINAL))
def test_every_trial_can_still_come_to_an_end(status: Status) -> None:
    reached = {status}
    for _ in Status:
        reached |= {new for one in reached for new in Status if one.can_become(new)}
    assert reached >= FINAL


def test_now_is_aware() -> None:
    offset = utc_now().utcoffset()
    assert offset is not None
    assert not offset
