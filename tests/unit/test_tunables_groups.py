"""Groups of tunables: an immutable mapping with values, costs, differences and a digest."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.errors import TunableError
from windtunnel.tunables import CovariantGroup, TunableGroups

SPACE: dict[str, Any] = {
    "pragmas": {
        "cost": 1,
        "params": {
            "cache_kib": {"type": "int", "range": [64, 65536], "log": True, "default": 2048},
            "journal_mode": {"type": "categorical", "values": ["delete", "wal"], "default": "delete"},
        },
    },
    "kernel": {"cost": 10, "params": {"ratio": {"type": "float", "range": [0, 1], "default": 0.5}}},
    "empty": {},
}
GROUPS = TunableGroups(SPACE)
DEFAULTS = {"cache_kib": 2048, "journal_mode": "delete", "ratio": 0.5}

values = st.fixed_dictionaries(
    {},
    optional={
        "cache_kib": st.integers(64, 65536),
        "journal_mode": st.sampled_from(["delete", "wal"]),
        "ratio": st.floats(0, 1),
    },
)


def test_it_is_a_mapping_of_names_to_values() -> None:
    assert isinstance(GROUPS, Mapping)
    assert dict(GROUPS) == {**GROUPS} == DEFAULTS
    assert list(GROUPS) == ["cache_kib", "journal_mode", "ratio"]
    assert len(GROUPS) == 3
    assert "ratio" in GROUPS
    assert GROUPS.get("nothing") is None
    with pytest.raises(KeyError):
        GROUPS["nothing"]


@given(values)
def test_what_is_assigned_is_read_back_and_the_original_stays(new: dict[str, Any]) -> None:
    assigned = GROUPS.assign(new)
    assert dict(assigned) == {**DEFAULTS, **new}
    assert dict(GROUPS) == DEFAULTS
    assert GROUPS.assign(dict(assigned)) == assigned
    assert assigned.is_defaults() == (dict(assigned) == DEFAULTS)
    assert assigned.defaults() == GROUPS


def test_assigning_nothing_gives_the_same_object() -> None:
    changed = GROUPS.assign({"ratio": 1})
    assert changed.assign({}) is changed


@pytest.mark.parametrize(
    ("bad", "parts"),
    [
        ({"cache_kb": 1}, ("'cache_kb'", "did you mean 'cache_kib'?")),
        ({"ratio": 0.1, "cache_kib": 1}, ("'cache_kib'", "1 is out of range", "int in [64, 65536], log")),
    ],
)
def test_a_bad_assignment_is_refused(bad: dict[str, Any], parts: tuple[str, ...]) -> None:
    with pytest.raises(TunableError) as caught:
        GROUPS.assign(bad)
    assert all(part in str(caught.value) for part in parts)


@pytest.mark.parametrize("attribute", ["digest", "groups", "other"])
def test_it_cannot_be_changed(attribute: str) -> None:
    with pytest.raises(AttributeError):
        setattr(GROUPS, attribute, 1)
    with pytest.raises(TypeError):
        GROUPS["ratio"] = 1  # type: ignore[index] # that it is refused is what is tested
    with pytest.raises(TypeError):
        GROUPS.tunables["ratio"] = GROUPS.tunable("ratio")  # type: ignore[index] # the same


@given(values, values)
def test_changed_names_the_same_groups_both_ways_and_is_what_costs(
    a: dict[str, Any], b: dict[str, Any]
) -> None:
    one, two = GROUPS.assign(a), GROUPS.assign(b)
    changed = one.changed(since=two)
    assert changed == two.changed(since=one)
    assert bool(changed) == (one != two)
    assert one.cost(since=two) == sum(GROUPS.groups[name].cost for name in changed)


def test_changed_groups_come_the_most_expensive_first() -> None:
    other = GROUPS.assign({"ratio": 1, "journal_mode": "wal"})
    assert other.changed(since=GROUPS) == ("kernel", "pragmas")
    assert other.cost(since=GROUPS) == 11


def test_a_group_that_one_side_lacks_has_changed() -> None:
    part = GROUPS.subgroup(["pragmas"])
    assert GROUPS.changed(since=part) == part.changed(since=GROUPS) == ("kernel", "empty")
    assert TunableGroups({}).cost(since=GROUPS) == 11


def test_a_subgroup_holds_its_groups_with_their_values() -> None:
    part = GROUPS.assign({"ratio": 1, "cache_kib": 64}).subgroup(["kernel", "kernel"])
    assert dict(part) == {"ratio": 1.0}
    assert list(part.groups) == ["kernel"]
    assert GROUPS.subgroup(GROUPS.groups) is GROUPS
    assert dict(GROUPS.subgroup([])) == {}


def test_an_unknown_subgroup_is_refused_with_the_known_ones() -> None:
    with pytest.raises(TunableError, match=r"'pragma'.*did you mean 'pragmas'\?.*pragmas, kernel, empty"):
        GROUPS.subgroup(["pragma"])


def test_the_definition_of_a_tunable_is_found_by_name() -> None:
    assert GROUPS.tunable("ratio").default == 0.5
    assert GROUPS.groups["kernel"] == CovariantGroup("kernel", 10, (GROUPS.tunable("ratio"),))
    with pytest.raises(TunableError, match="did you mean 'ratio'"):
        GROUPS.tunable("ration")


def test_merge_joins_groups_and_keeps_values() -> None:
    one = GROUPS.subgroup(["pragmas", "empty"]).assign({"cache_kib": 64})
    two = GROUPS.subgroup(["kernel", "empty"]).assign({"ratio": 1})
    merged = one.merge(two)
    assert list(merged.groups) == ["pragmas", "empty", "kernel"]
    assert dict(merged) == {"cache_kib": 64, "journal_mode": "delete", "ratio": 1.0}
    assert merged.merge(merged) == merged


def test_merge_refuses_groups_that_differ() -> None:
    with pytest.raises(TunableError, match=r"'kernel'.*ratio=0\.5.*ratio=1\.0"):
        GROUPS.merge(GROUPS.assign({"ratio": 1}))
    other = TunableGroups({"kernel": {"cost": 2, "params": SPACE["kernel"]["params"]}})
    with pytest.raises(TunableError, match="'kernel'"):
        GROUPS.merge(other)


def test_a_tunable_may_not_be_in_two_groups() -> None:
    other = {"more": SPACE["kernel"]}
    with pytest.raises(TunableError, match=r"'ratio'.*'kernel'.*'more'"):
        GROUPS.merge(TunableGroups(other))
    with pytest.raises(TunableError) as caught:
        TunableGroups({**SPACE, **other})
    assert caught.value.path == ("more", "params", "ratio")


@given(values, st.permutations(list(SPACE)))
def test_equality_and_digest_do_not_depend_on_the_order_of_declaration(
    new: dict[str, Any], order: list[str]
) -> None:
    other = TunableGroups({name: SPACE[name] for name in order}).assign(new)
    one = GROUPS.assign(new)
    assert other == one
    assert hash(other) == hash(one)
    assert other.digest == one.digest


@given(values, values)
def test_digests_are_equal_exactly_when_values_are(a: dict[str, Any], b: dict[str, Any]) -> None:
    one, two = GROUPS.assign(a), GROUPS.assign(b)
    assert (one.digest == two.digest) == (dict(one) == dict(two)) == (one == two)


def test_the_digest_depends_on_names_and_typed_values_only() -> None:
    def digest(group: str = "g", name: str = "x", cost: int = 0, **parts: Any) -> str:
        config = {"type": "int", "range": [0, 9], "default": 1, **parts}
        return TunableGroups({group: {"cost": cost, "params": {name: config}}}).digest

    assert digest() == digest(cost=5) == digest(range=[1, 100], log=True) == digest(description="text")
    kinds: dict[str, Any] = {"type": "categorical", "range": None, "values": ["1"]}
    different = [
        digest(),
        digest("h"),
        digest(name="y"),
        digest(default=2),
        digest(type="float"),
        digest(**kinds),
    ]
    assert len(set(different)) == len(different)


def test_the_digest_is_the_same_in_every_process() -> None:
    code = (
        "import json, sys; from windtunnel.tunables import TunableGroups;"
        "print(TunableGroups(json.loads(sys.argv[1])).digest)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(SPACE)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == GROUPS.digest


def test_other_definitions_are_not_equal() -> None:
    assert TunableGroups({**SPACE, "kernel": {**SPACE["kernel"], "cost": 2}}) != GROUPS
    assert GROUPS != DEFAULTS


def test_it_survives_pickling_and_its_own_definition() -> None:
    assigned = GROUPS.assign({"ratio": 1})
    copies = pickle.loads(pickle.dumps([assigned, GROUPS]))
    assert copies == [assigned, GROUPS]
    assert TunableGroups(json.loads(json.dumps(assigned.definition()))) == assigned.defaults()
    assert TunableGroups(assigned) == assigned


def test_the_representation_shows_groups_and_values() -> None:
    assert (
        repr(GROUPS)
        == "TunableGroups(pragmas: cache_kib=2048, journal_mode='delete'; kernel: ratio=0.5; empty: )"
    )


@pytest.mark.parametrize(
    ("config", "path", "parts"),
    [
        ([1], (), ("expected a mapping", "[1]")),
        ({"g": 3}, ("g",), ("'g'", "expected a mapping", "3")),
        ({"g": {"parms": {}}}, ("g", "parms"), ("'g'", "unknown key 'parms'", "did you mean 'params'?")),
        ({"g": {"cost": -1}}, ("g", "cost"), ("'g'", "-1", "0 or more")),
        ({"g": {"cost": True}}, ("g", "cost"), ("'g'", "True")),
        ({"g": {"cost": 1.5}}, ("g", "cost"), ("1.5",)),
        ({"g": {"params": [1]}}, ("g", "params"), ("params of tunable group 'g'", "[1]")),
        ({"g": {"params": {"x": 3}}}, ("g", "params", "x"), ("tunable 'x'", "expected a mapping", "3")),
        ({"g": {"params": {True: {}}}}, ("g", "params", True), ("True cannot name a tunable",)),
        ({"a b": {}}, ("a b",), ("'a b' cannot name a tunable group",)),
        (
            {"g": {"params": {"x": {"type": "int", "range": [2, 1], "default": 1}}}},
            ("g", "params", "x", "range"),
            ("tunable 'x'", "[2, 1]"),
        ),
    ],
)
def test_a_bad_section_is_refused_with_its_place(
    config: Any, path: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    with pytest.raises(TunableError) as caught:
        TunableGroups(config)
    assert caught.value.path == path
    assert all(part in caught.value.message for part in parts)
