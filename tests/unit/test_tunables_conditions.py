"""Tunables that are active only when others have given values."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.errors import TunableError
from windtunnel.tunables import TunableGroups
from windtunnel.tunables.convert import from_unit, sample, to_unit

SPACE = TunableGroups(
    {
        "journal": {
            "cost": 5,
            "params": {
                "mode": {"type": "categorical", "values": ["delete", "wal", "off"], "default": "delete"},
                "checkpoint": {
                    "type": "int",
                    "range": [0, 9],
                    "default": 1,
                    "when": {"mode": ["wal"], "sync": True},
                },
                "sync": {"type": "categorical", "values": [True, False], "default": True},
            },
        },
        "wal": {
            "cost": 1,
            "params": {
                "limit": {"type": "float", "range": [0, 1], "default": 0.5, "when": {"checkpoint": [2, "3"]}}
            },
        },
    }
)


KINDS: list[dict[str, Any]] = [
    {"type": "categorical", "values": ["a", "b", "c"], "default": "b"},
    {"type": "int", "range": [1, 3], "default": 2},
    {"type": "int", "range": [1, 3], "special": [0], "default": 0},
]


@st.composite
def conditional_spaces(draw: st.DrawFn) -> TunableGroups:
    """Spaces of up to five tunables, each with conditions on some that are declared before or after it."""
    names = [f"t{i}" for i in range(draw(st.integers(1, 5)))]
    params: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(names):
        params[name] = dict(draw(st.sampled_from(KINDS)))
        when: dict[str, Any] = {}
        for parent in draw(st.lists(st.sampled_from(names[:i]), max_size=2, unique=True)) if i else ():
            of = params[parent].get("values") or [1, 2, 3]
            when[parent] = draw(st.lists(st.sampled_from(of), min_size=1, max_size=2, unique=True))
        if when:
            params[name]["when"] = when
    order = draw(st.permutations(names))
    cut = draw(st.integers(0, len(order)))
    return TunableGroups(
        {
            "one": {"cost": 1, "params": {name: params[name] for name in order[:cut]}},
            "two": {"cost": draw(st.integers(0, 2)), "params": {name: params[name] for name in order[cut:]}},
        }
    )


def is_active(groups: TunableGroups, name: str) -> bool:
    """The meaning of conditions, as naively as it can be said."""
    when = groups.tunable(name).when
    return all(is_active(groups, one) and groups[one] in allowed for one, allowed in when.items())


def drawn(groups: TunableGroups, data: st.DataObject) -> dict[str, Any]:
    values = {}
    for name, tunable in groups.tunables.items():
        values[name] = data.draw(st.sampled_from([*(tunable.quantized_values or ()), *tunable.special]))
    return values


def test_a_condition_is_met_by_one_of_its_values_as_they_are_held() -> None:
    assert SPACE.tunable("checkpoint").when == {"mode": ("wal",), "sync": ("true",)}
    assert SPACE.tunable("limit").when == {"checkpoint": (2, 3)}
    assert SPACE.tunable("mode").when == {}
    assert SPACE.active == {"mode", "sync"}
    assert SPACE.assign({"mode": "wal"}).active == {"mode", "sync", "checkpoint"}
    assert SPACE.assign({"mode": "wal", "checkpoint": 3}).active == set(SPACE)
    assert SPACE.assign({"mode": "wal", "sync": "false"}).active == {"mode", "sync"}


def test_what_is_not_active_has_its_default_and_comes_back_to_it() -> None:
    whole = SPACE.assign({"mode": "wal", "checkpoint": 3, "limit": 1})
    off = whole.assign({"mode": "off"})
    assert dict(off) == {"mode": "off", "checkpoint": 1, "sync": "true", "limit": 0.5}
    assert off == SPACE.assign({"mode": "off", "checkpoint": 7})
    assert off.assign({"mode": "wal"})["checkpoint"] == 1


def test_groups_that_differ_in_inactive_values_only_have_not_changed() -> None:
    one, two = SPACE.assign({"checkpoint": 7}), SPACE.assign({"limit": 1})
    assert one == two == SPACE
    assert one.digest == SPACE.digest
    assert one.changed(since=SPACE) == ()
    assert SPACE.assign({"mode": "wal", "checkpoint": 2, "limit": 1}).changed(since=SPACE) == (
        "journal",
        "wal",
    )


@settings(max_examples=60, deadline=None)
@given(conditional_spaces(), st.data())
def test_assigning_settles_what_is_active(groups: TunableGroups, data: st.DataObject) -> None:
    given, others = drawn(groups, data), drawn(groups, data)
    found = groups.assign(given)
    assert found.active == {name for name in groups if is_active(found, name)}
    for name, value in found.items():
        assert value == (given[name] if name in found.active else groups.tunable(name).default)
    assert found.assign(dict(found)) == found
    assert groups.assign(others).assign(given) == found
    # Whatever is said of tunables that are not active makes no difference.
    same = groups.assign({name: given[name] if name in found.active else others[name] for name in given})
    assert (same, same.digest) == (found, found.digest)
    assert from_unit(groups, to_unit(found)) == found


@settings(max_examples=30, deadline=None)
@given(conditional_spaces(), st.data())
def test_a_space_with_conditions_comes_back_from_json_and_from_another_process(
    groups: TunableGroups, data: st.DataObject
) -> None:
    assert TunableGroups(json.loads(json.dumps(groups.definition()))) == groups
    found = groups.assign(drawn(groups, data))
    back = pickle.loads(pickle.dumps(found))
    assert back == found
    assert back.active == found.active
    assert back.assign({}) is back


@settings(max_examples=30, deadline=None)
@given(conditional_spaces(), st.data())
def test_a_part_keeps_its_values_and_becomes_whole_again(groups: TunableGroups, data: st.DataObject) -> None:
    found = groups.assign(drawn(groups, data))
    one, two = found.subgroup(["one"]), found.subgroup(["two"])
    assert {**one, **two} == dict(found)
    assert one.assign(dict(one)) == one
    assert found.active & one.keys() <= one.active
    assert one.merge(two) == found


def test_draws_keep_to_conditions() -> None:
    import random

    rng = random.Random(1)
    found = [sample(SPACE, rng) for _ in range(300)]
    assert {frozenset(one.active) for one in found} == {
        frozenset({"mode", "sync"}),
        frozenset({"mode", "sync", "checkpoint"}),
        frozenset(SPACE),
    }
    assert all(one["limit"] == 0.5 for one in found if "limit" not in one.active)


def test_somebody_who_chooses_a_value_without_effect_is_told() -> None:
    assert SPACE.choose({"mode": "wal", "checkpoint": 4})["checkpoint"] == 4
    assert SPACE.choose({"checkpoint": 1}) == SPACE  # it is the default anyway
    with pytest.raises(TunableError, match=r"'checkpoint' cannot be 4: .* mode is 'wal' and sync is 'true'"):
        SPACE.choose({"checkpoint": 4})


@pytest.mark.parametrize(
    ("when", "path", "parts"),
    [
        ({"mod": "wal"}, ("mod",), ("'checkpoint'", "no tunable 'mod'", "did you mean 'mode'?")),
        ({"mode": "wall"}, ("mode",), ("'checkpoint'", "'wall' is not among its values", "'wal'")),
        ({"mode": []}, ("mode",), ("expected a value of 'mode', or a list of them", "[]")),
        ({"mode": [None]}, ("mode",), ("expected a value of 'mode', or a list of them", "[None]")),
        ({"sync": {"a": 1}}, ("sync",), ("expected a value of 'sync', or a list of them",)),
        ("wal", (), ("expected a mapping", "'wal'")),
        ({"checkpoint": 1}, (), ("circle", "'checkpoint' → 'checkpoint'")),
        ({"limit": 0.5}, (), ("circle", "'checkpoint'", "'limit'")),
    ],
)
def test_a_wrong_condition_is_refused_where_it_stands(
    when: object, path: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    definition = SPACE.definition()
    definition["journal"]["params"]["checkpoint"]["when"] = when
    with pytest.raises(TunableError) as caught:
        TunableGroups(definition)
    assert all(part in str(caught.value) for part in parts)
    assert caught.value.path[0] in SPACE.groups
    assert caught.value.path[-1 - len(path) :] == ("when", *path)
