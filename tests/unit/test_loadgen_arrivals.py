from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.loadgen.arrivals import Piece, due_times, share_of

rates = st.floats(0, 500)
pieces = st.lists(st.builds(Piece, rates, rates, st.floats(0.1, 3)), min_size=1, max_size=4)
S = 1_000_000_000


@settings(max_examples=60)
@given(pieces, st.none() | st.integers(0, 9))
def test_times_rise_and_stay_in_the_profile(profile: list[Piece], seed: int | None) -> None:
    times = list(due_times(profile, seed=seed))
    assert times == sorted(times)
    assert all(0 <= time <= sum(piece.seconds for piece in profile) * S + 1 for time in times)


@settings(max_examples=60)
@given(pieces)
def test_evenly_spaced_there_are_as_many_as_the_rate_says(profile: list[Piece]) -> None:
    expected = sum(piece.size for piece in profile)
    assert abs(len(list(due_times(profile))) - expected) <= 1.001


@settings(max_examples=30)
@given(pieces, st.integers(0, 9))
def test_same_seed_same_times(profile: list[Piece], seed: int) -> None:
    assert list(due_times(profile, seed=seed)) == list(due_times(profile, seed=seed))


@settings(max_examples=40)
@given(pieces, st.none() | st.integers(0, 9), st.integers(1, 5))
def test_shares_are_the_whole_and_do_not_overlap(profile: list[Piece], seed: int | None, parts: int) -> None:
    whole = list(due_times(profile, seed=seed))
    shares = [list(share_of(due_times(profile, seed=seed), part, parts)) for part in range(parts)]
    assert sorted(itertools.chain(*shares)) == whole
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_constant_rate_is_exact_for_hours() -> None:
    times = due_times([Piece(3000, 3000, 7200)])
    assert next(itertools.islice(times, 3000 * 3600, None)) == 3600 * S


def test_ramp_has_the_rate_of_each_moment() -> None:
    times = list(due_times([Piece(0, 1000, 10)]))
    counts = [sum(1 for time in times if begin * S <= time < (begin + 1) * S) for begin in (0, 9)]
    assert len(times) == 5000
    assert counts == pytest.approx([50, 950], abs=1)


def test_steps_and_a_spike() -> None:
    times = list(due_times([Piece(100, 100, 2), Piece(2000, 2000, 0.5), Piece(0, 0, 1), Piece(100, 100, 1)]))
    counts = [
        sum(1 for time in times if low * S <= time < high * S)
        for low, high in ((0, 2), (2, 2.5), (2.5, 3.5), (3.5, 5))
    ]
    assert counts == [200, 1000, 0, 100]


def test_poisson_has_the_variance_of_one() -> None:
    times = list(due_times([Piece(200, 200, 200)], seed=7))
    counts = [0] * 200
    for time in times:
        counts[time // S] += 1
    mean = sum(counts) / 200
    variance = sum((one - mean) ** 2 for one in counts) / 199
    assert mean == pytest.approx(200, rel=0.03)
    assert variance == pytest.approx(200, rel=0.35)
