"""Names with ranges."""

from __future__ import annotations

import pytest

from windtunnel.config.ranges import chosen_names, expand_ranges
from windtunnel.errors import ConfigError


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("node", ["node"]),
        ("node[8-11]", ["node8", "node9", "node10", "node11"]),
        ("node[08-10].lab", ["node08.lab", "node09.lab", "node10.lab"]),
        ("r[1-2]n[01-02]", ["r1n01", "r1n02", "r2n01", "r2n02"]),
        ("n[0-2]", ["n0", "n1", "n2"]),
        ("fd00::[9-10]", ["fd00::9", "fd00::10"]),
        ("x[3-3]", ["x3"]),
    ],
)
def test_a_pattern_is_all_its_names(pattern: str, names: list[str]) -> None:
    assert expand_ranges(pattern) == names


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("n[01:03]", ["n01", "n02", "n03"]),
        ("n[1:9:4]", ["n1", "n5", "n9"]),
        ("db-[a:c]", ["db-a", "db-b", "db-c"]),
    ],
)
def test_so_it_is_as_ansible_writes_it(pattern: str, names: list[str]) -> None:
    assert expand_ranges(pattern, separator=":") == names


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("n[1-", "expected ranges such as [1-9], found 'n[1-'"),
        ("n1]", "expected ranges such as [1-9], found 'n1]'"),
        ("n[[1-2]]", "expected ranges such as [1-9], found 'n[[1-2]]'"),
        ("n[]", "expected a range such as [01-64], found '[]'"),
        ("n[1:5]", "expected a range such as [01-64], found '[1:5]'"),
        ("n[-1-5]", "expected a range such as [01-64], found '[-1-5]'"),
        ("n[a-c]", "expected a range such as [01-64], found '[a-c]'"),
        ("n[5-1]", "the range [5-1] is empty; its first end must not be above the last"),
        ("n[01-100]", "the ends of [01-100] must have as many digits, as one has zeros"),
        ("n[1-999999999]", "expected at most 10000 names, found 999999999 in 'n[1-999999999]'"),
        ("n[1-101][1-100]", "expected at most 10000 names, found 10100 in 'n[1-101][1-100]'"),
    ],
)
def test_what_is_no_range_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expand_ranges(pattern)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        ("db1", {"db1"}),
        ("db[1-2], web*", {"db1", "db2", "web"}),
        ("*", {"db1", "db2", "db10", "web"}),
        ("db?", {"db1", "db2"}),
        ("db1,", {"db1"}),
    ],
)
def test_patterns_choose_among_names(patterns: str, chosen: set[str]) -> None:
    assert chosen_names(patterns, ["db1", "db2", "db10", "web"]) == chosen


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ("db[1-3]", "there is no host 'db3'; did you mean 'db2'"),
        ("mail*", "there is no host 'mail[*]'"),
        (" , ", "expected names of hosts, found ' , '"),
        ("db[1", "expected ranges such as"),
    ],
)
def test_a_pattern_that_means_nothing_is_refused(patterns: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        chosen_names(patterns, ["db1", "db2", "web"])
