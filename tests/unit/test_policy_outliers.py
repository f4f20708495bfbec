"""Hosts that give other results than the rest."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.scheduling.policy import Run, outlier_hosts

HOSTS = [f"host{i}" for i in range(10)]


def _runs(
    seed: int, *, slow: Mapping[str, float], configs: int = 20, on: int = 4, noise: float = 0.03
) -> list[Run]:
    """Configurations of very different speed, each on a few hosts, with normal noise."""
    draw = random.Random(seed)
    return [
        Run(0, config_id, host, true * slow.get(host, 1) * draw.gauss(1, noise))
        for config_id in range(1, configs + 1)
        for true in [draw.uniform(1, 1000)]
        for host in draw.sample(HOSTS, on)
    ]


@pytest.mark.parametrize(("on", "configs"), [(2, 60), (4, 20), (10, 20)])
def test_one_slow_host_in_ten_is_found_and_nothing_else(on: int, configs: int) -> None:
    found = [outlier_hosts(_runs(seed, slow={"host3": 1.3}, on=on, configs=configs)) for seed in range(100)]
    assert sum([one.host for one in hosts] == ["host3"] for hosts in found) >= 95


@pytest.mark.parametrize("on", [2, 4, 10])
@pytest.mark.parametrize("configs", [8, 40])
def test_equal_hosts_are_not_accused(on: int, configs: int) -> None:
    found = [outlier_hosts(_runs(seed, slow={}, on=on, configs=configs)) for seed in range(100)]
    assert sum(hosts == () for hosts in found) >= 95


def test_it_is_told_how_far_off_which_way_and_on_how_many_runs() -> None:
    runs = _runs(7, slow={"host1": 1.4, "host8": 0.4}, on=10)
    fast, slow = outlier_hosts(runs)
    assert (fast.host, slow.host) == ("host8", "host1"), "the furthest off first"
    assert fast.deviation < -3.5 < 3.5 < slow.deviation
    assert fast.runs == slow.runs == 20


def test_a_host_that_differs_where_others_are_exactly_equal_is_found() -> None:
    runs = [Run(0, c, host, 13.0 if host == "host5" else 10.0) for c in range(5) for host in HOSTS]
    assert [one.host for one in outlier_hosts(runs)] == ["host5"]


def test_two_comparisons_are_not_enough() -> None:
    runs = _runs(1, slow={}, on=10)
    twice = [Run(0, c, "new", 5000.0) for c in (1, 2)]
    assert outlier_hosts([*runs, *twice]) == ()
    thrice = [*twice, Run(0, 3, "new", 5000.0)]
    assert [one.host for one in outlier_hosts([*runs, *thrice])] == ["new"]


def test_of_two_hosts_nobody_knows_which_is_wrong() -> None:
    runs = [Run(0, c, host, score) for c in range(50) for host, score in (("a", 1.0), ("b", 2.0))]
    assert outlier_hosts(runs) == ()


def test_runs_that_cannot_be_compared_say_nothing() -> None:
    runs = [Run(1, 1, "a", 1.0), Run(2, 1, None, 9.0), Run(3, 1, "b", None), Run(4, 2, "b", 7.0)]
    assert outlier_hosts(runs) == ()
    zeros = [Run(0, c, host, 0.0) for c in range(5) for host in HOSTS]
    assert outlier_hosts(zeros) == ()


scores = st.floats(allow_nan=False, allow_infinity=False)
run_lists = st.lists(
    st.builds(Run, st.just(0), st.integers(1, 4), st.none() | st.sampled_from("abcde"), st.none() | scores),
    max_size=60,
)


@given(runs=run_lists)
def test_whatever_the_scores_each_host_is_named_once_with_what_it_ran(runs: list[Run]) -> None:
    found = outlier_hosts(runs)
    assert len({one.host for one in found}) == len(found)
    for one in found:
        assert abs(one.deviation) > 3.5
        assert 3 <= one.runs <= sum(run.host == one.host for run in runs)
