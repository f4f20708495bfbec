"""Which configurations are run again, and what stands for several runs."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.aggregates import Aggregate
from windtunnel.model import Direction
from windtunnel.quantiles import student_t
from windtunnel.scheduling.policy import (
    AdaptiveRepeats,
    Repeats,
    Run,
    aggregate,
    further_repeats,
    ranking,
)
from windtunnel.scheduling.policy.ranking import Ranking

Runs = Mapping[int, Sequence[Run]]


def _runs(scores: Mapping[int, Sequence[float | None]]) -> Runs:
    return {pk: [Run(0, pk, f"host{i}", one) for i, one in enumerate(found)] for pk, found in scores.items()}


def _due(
    scores: Mapping[int, Sequence[float | None]],
    *,
    under_way: Mapping[int, int] | None = None,
    least: int = 1,
    direction: Direction = "min",
    most: int = 10,
    confidence: float = 0.95,
    score: Aggregate = "mean",
) -> list[int]:
    return further_repeats(
        _runs(scores),
        under_way=under_way or {},
        least=least,
        options=AdaptiveRepeats(most=most, confidence=confidence, score=score),
        direction=direction,
    )


# What stands for several runs

FIVE = [Run(0, 1, host, score) for host, score in zip("aabbc", [1.0, 5.0, 2.0, 8.0, 4.0], strict=True)]


@pytest.mark.parametrize(
    ("how", "direction", "expected"),
    [
        ("mean", "min", 4.0),
        ("median", "max", 4.0),
        ("min", "max", 1.0),
        ("max", "min", 8.0),
        ("worst_host", "min", 5.0),
        ("worst_host", "max", 3.0),
    ],
)
def test_the_score_of_several_runs(how: Aggregate, direction: Direction, expected: float) -> None:
    assert aggregate([*FIVE, Run(0, 1, "d", None)], how, direction) == expected


def test_runs_without_a_score_have_no_aggregate() -> None:
    with pytest.raises(ValueError, match="at least one run with a score"):
        aggregate([Run(1, 1, "a", None)], "mean", "min")


values = st.floats(-1e150, 1e150)
kinds = st.sampled_from(("mean", "median", "min", "max", "worst_host"))
directions = st.sampled_from(("min", "max"))


@given(
    found=st.lists(st.tuples(st.sampled_from("abc"), values), min_size=1, max_size=12),
    how=kinds,
    direction=directions,
)
def test_a_score_lies_among_the_runs_and_does_not_depend_on_their_order(
    found: list[tuple[str, float]], how: Aggregate, direction: Direction
) -> None:
    runs = [Run(0, 1, host, score) for host, score in found]
    score = aggregate(runs, how, direction)
    scores = [score for _, score in found]
    assert min(scores) <= score <= max(scores)
    assert aggregate(runs[::-1], how, direction) == pytest.approx(score, rel=1e-9, abs=max(scores) * 1e-9)


# An order that changes


@given(
    changes=st.lists(st.tuples(st.integers(1, 20), st.none() | st.integers(-5, 5)), max_size=120),
    longest=st.integers(1, 6),
)
def test_a_ranking_is_always_in_order(changes: list[tuple[int, int | None]], longest: int) -> None:
    ranked, expected = Ranking(), dict[int, float]()
    with mock.patch.object(ranking, "_LONGEST", longest):
        for pk, key in changes:
            if key is None:
                ranked.drop(pk)
                expected.pop(pk, None)
            else:
                ranked.put(pk, key)
                expected[pk] = key
            assert list(ranked) == sorted((key, pk) for pk, key in expected.items())
            assert len(ranked) == len(expected)


# Examples


def test_nothing_is_repeated_without_anything_to_compare() -> None:
    assert _due({}) == []
    assert _due({1: [5.0]}) == []
    assert _due({1: [5.0], 2: [None]}) == []


@pytest.mark.parametrize("sign", [1, -1])
def test_while_no_spread_is_known_the_best_and_what_is_close_to_it_run_again(sign: int) -> None:
    scores = {1: [sign * 104.0], 2: [sign * 100.0], 3: [sign * 120.0], 4: [sign * 102.0]}
    assert _due(scores, direction="min" if sign == 1 else "max") == [2, 4, 1]


def test_the_best_alone_runs_again_to_learn_the_spread() -> None:
    assert _due({1: [100.0], 2: [1.0]}) == [2]


def test_what_is_clearly_worse_is_left_alone_and_what_may_be_as_good_is_not() -> None:
    scores = {1: [10.0, 10.2, 9.8, 10.1], 2: [10.1, 10.3, 10.0], 3: [20.0], 4: [10.4], 5: [20.1, 19.9, 20.0]}
    assert _due(scores) == [1, 2, 4], "the best, then by how good they may be"


def test_the_best_that_is_told_apart_from_all_runs_no_more() -> None:
    assert _due({1: [10.0, 10.1, 9.9], 2: [20.0, 20.1, 19.9], 3: [30.0]}) == []


def test_equal_scores_without_any_spread_are_not_repeated_for_ever() -> None:
    assert _due({1: [7.0, 7.0], 2: [7.0]}) == []


def test_the_best_goes_on_against_a_rival_that_may_not() -> None:
    scores = {1: [10.0, 11.0, 9.0], 2: [10.1, 11.2, 9.2, 10.0]}
    assert _due(scores, most=4) == [1]
    assert _due({pk: [*found, 10.05] for pk, found in scores.items()}, most=4) == []


def test_runs_that_failed_count_as_runs() -> None:
    scores: dict[int, list[float | None]] = {1: [100.0, None, None], 2: [101.0]}
    assert _due(scores, most=4) == [1, 2]
    assert _due(scores, most=3) == [2]


def test_no_more_run_at_once_than_have_given_results() -> None:
    scores = {1: [10.0, 11.0], 2: [10.5, 11.5]}
    assert _due(scores, under_way={1: 1, 2: 2}) == [1]
    assert _due(scores, under_way={1: 1, 2: 1}, most=3) == []


def test_a_configuration_is_judged_when_its_planned_runs_have_ended() -> None:
    assert _due({1: [1.0], 2: [10.0, 10.5], 3: [10.1, None]}, least=2) == [3, 2]


def test_the_spread_of_all_serves_where_there_are_few_runs() -> None:
    noisy = {pk: [100.0 + pk, 140.0 + pk] for pk in range(10, 20)}
    assert 1 in _due({**noisy, 1: [150.0]})
    calm = {pk: [120.0 + pk, 120.1 + pk] for pk in range(10, 20)}
    assert 1 not in _due({**calm, 1: [150.0]})


def test_a_limit_cuts_the_list_at_its_end() -> None:
    repeats = Repeats(AdaptiveRepeats(), "min")
    for pk in range(1, 50):
        repeats.add(Run(0, pk, "a", 100 + pk / 100))
    everything = repeats.due({})
    assert len(everything) == 49
    assert repeats.due({}, 3) == everything[:3] == [1, 2, 3]
    assert repeats.due({1: 1, 2: 1}, 3) == [3, 4, 5]


def test_the_score_so_far() -> None:
    repeats = Repeats(AdaptiveRepeats(score="worst_host"), "max")
    assert repeats.score(1) is None
    repeats.add(Run(1, 1, "a", None))
    assert repeats.score(1) is None
    repeats.add(Run(2, 1, "a", 5.0))
    repeats.add(Run(3, 1, "b", 4.0))
    assert repeats.score(1) == 4.0


# Rules

scores = st.dictionaries(
    st.integers(1, 8),
    st.lists(st.none() | st.integers(0, 12).map(float), min_size=1, max_size=6),
    max_size=8,
)


@given(
    scores=scores,
    under_way=st.dictionaries(st.integers(1, 8), st.integers(-1, 3)),
    least=st.integers(1, 3),
    most=st.integers(1, 8),
    score=kinds,
    direction=directions,
)
def test_caps_hold_and_each_is_named_once(
    scores: dict[int, list[float | None]],
    under_way: dict[int, int],
    least: int,
    most: int,
    score: Aggregate,
    direction: Direction,
) -> None:
    due = _due(scores, under_way=under_way, least=least, most=most, score=score, direction=direction)
    assert len(set(due)) == len(due)
    for pk in due:
        assert least <= len(scores[pk])
        assert len(scores[pk]) + under_way.get(pk, 0) < most
        assert any(one is not None for one in scores[pk])


def _intervals(
    scores: Mapping[int, Sequence[float | None]], confidence: float
) -> dict[int, tuple[float, float]]:
    """The same by the textbook: config_id → (score, margin)."""
    given_ = {pk: [one for one in found if one is not None] for pk, found in scores.items()}
    given_ = {pk: found for pk, found in given_.items() if found}
    freedom = sum(len(found) - 1 for found in given_.values())
    best = min((statistics.fmean(found) for found in given_.values()), default=0.0)

    def margin(found: Sequence[float]) -> float:
        if len(found) >= 3:
            return student_t(len(found) - 1, confidence) * statistics.stdev(found) / math.sqrt(len(found))
        if not freedom:
            return 0.025 * abs(best)
        pooled = sum(statistics.variance(one) * (len(one) - 1) for one in given_.values() if len(one) > 1)
        return student_t(freedom, confidence) * math.sqrt(pooled / freedom / len(found))

    return {pk: (statistics.fmean(found), margin(found)) for pk, found in given_.items()}


@given(scores=scores, confidence=st.sampled_from((0.5, 0.8, 0.95)))
def test_it_decides_as_the_textbook_does(scores: dict[int, list[float | None]], confidence: float) -> None:
    intervals = _intervals(scores, confidence)
    due = _due(scores, most=100, confidence=confidence)
    if len(intervals) < 2:
        assert due == []
        return
    best = min(intervals, key=lambda pk: (round(intervals[pk][0], 9), pk))
    bound = sum(intervals[best])
    surely = {pk for pk, (mean, margin) in intervals.items() if mean - margin < bound - 1e-9}
    perhaps = {pk for pk, (mean, margin) in intervals.items() if mean - margin < bound + 1e-9}
    assert surely - {best} <= set(due) <= perhaps | {best}
    if surely - {best}:
        assert best in due
    lower = [intervals[pk][0] - intervals[pk][1] for pk in due if pk != best]
    assert lower == pytest.approx(sorted(lower))


@given(scores=scores, factor=st.sampled_from((0.25, 4.0, 1024.0)))
def test_neither_unit_nor_direction_matters(scores: dict[int, list[float | None]], factor: float) -> None:
    scaled = {pk: [one and one * factor for one in found] for pk, found in scores.items()}
    turned = {pk: [one and -one for one in found] for pk, found in scores.items()}
    assert _due(scores) == _due(scaled) == _due(turned, direction="max")


@given(scores=st.dictionaries(st.integers(1, 4), st.lists(st.floats(), min_size=1, max_size=4)), how=kinds)
def test_no_score_is_too_odd(scores: dict[int, list[float]], how: Aggregate) -> None:
    assert set(_due(scores, score=how)) <= set(scores)


def test_it_finds_the_best_more_often_than_single_runs_do() -> None:
    def winner(draw: random.Random, runs: int, repeats: Repeats, ids: Sequence[int]) -> int:
        for pk in ids:
            repeats.add(Run(0, pk, "a", draw.gauss(100 + pk, 5)))
        for _ in range(runs):
            for pk in repeats.due({}, 1):
                repeats.add(Run(0, pk, "a", draw.gauss(100 + pk, 5)))
        return min(ids, key=lambda pk: repeats.score(pk) or math.inf)

    single, adaptive = Counter[int](), Counter[int]()
    for seed in range(40):
        ids = list(range(1, 31))
        single[winner(random.Random(seed), 0, Repeats(AdaptiveRepeats(), "min"), ids)] += 1
        adaptive[winner(random.Random(seed), 60, Repeats(AdaptiveRepeats(), "min"), ids)] += 1
    assert adaptive[1] >= 1.5 * single[1]


def test_a_decision_looks_at_few_of_many_configurations(monkeypatch: pytest.MonkeyPatch) -> None:
    draw, repeats = random.Random(1), Repeats(AdaptiveRepeats(), "min")
    for pk in range(4000):
        repeats.add(Run(0, pk, "a", draw.gauss(100, 10)))
    for _ in range(100):
        for pk in repeats.due({}, 8):
            repeats.add(Run(0, pk, "b", draw.gauss(100, 10)))
    looked_at = Counter[str]()
    ordered = Ranking.__iter__

    def counted(ranked: Ranking) -> Iterator[tuple[float, int]]:
        for entry in ordered(ranked):
            looked_at["entries"] += 1
            yield entry

    monkeypatch.setattr(Ranking, "__iter__", counted)
    assert len(repeats.due({}, 8)) == 8
    assert looked_at["entries"] < 40
