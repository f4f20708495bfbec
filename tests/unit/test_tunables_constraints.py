"""Constraints: a small language whose texts come from people and files."""

from __future__ import annotations

import json
import math
import pickle
import random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from windtunnel.errors import OptimizerError, TunableError
from windtunnel.tunables import TunableGroups
from windtunnel.tunables.constraint import Constraint
from windtunnel.tunables.convert import sample
from windtunnel.tunables.feasible import feasible

DEFINITION: dict[str, Any] = {
    "g": {
        "params": {
            "a": {"type": "int", "range": [-5, 20], "default": 0},
            "b": {"type": "int", "range": [-5, 20], "default": 0},
            "x": {"type": "float", "range": [-1e9, 1e9], "default": 0},
            "mode": {"type": "categorical", "values": ["delete", "wal"], "default": "wal"},
            "size": {"type": "categorical", "values": [1024, 4096], "default": 4096},
            "vm.swappiness": {"type": "int", "range": [0, 100], "default": 60},
            "page-cost": {"type": "int", "range": [0, 9], "default": 4},
            "max": {"type": "int", "range": [0, 9], "default": 9},
        }
    }
}
SPACE = TunableGroups(DEFINITION)


def holds(text: str, **values: object) -> bool:
    return Constraint.parse(text, SPACE.tunables).holds(SPACE.assign(values))


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("a + b <= 10", {"a": 5, "b": 5}, True),
        ("a + b <= 10", {"a": 5, "b": 6}, False),
        ("0 <= a < b <= 10", {"a": 1, "b": 2}, True),
        ("0 <= a < b <= 10", {"a": 2, "b": 2}, False),
        ("mode == 'wal' or a == 0", {"mode": "delete", "a": 1}, False),
        ("mode == 'wal' or a == 0", {"mode": "delete", "a": 0}, True),
        ("mode != 'wal' and not (a > 3)", {"mode": "delete", "a": 3}, True),
        ('mode in ("wal", "delete")', {}, True),
        ("mode not in ['wal']", {}, False),
        ("a in {1, 2, b}", {"a": 7, "b": 7}, True),
        ("size == '1024'", {"size": 1024}, True),
        ("max(a, b, 3) == 7", {"a": 7}, True),
        ("min(a, b) < 0", {"b": -1}, True),
        ("abs(a) == 5", {"a": -5}, True),
        ("round(x) == 3", {"x": 2.7}, True),
        ("a // 2 == 3 and a % 2 == 1", {"a": 7}, True),
        ("-a + +b == 2 ** 3", {"a": -3, "b": 5}, True),
        ("vm.swappiness <= 60", {"vm.swappiness": 61}, False),
        ("value('page-cost') <= a", {"page-cost": 3, "a": 3}, True),
        ("max >= 9", {"max": 8}, False),  # where nothing is called it is the tunable
        ("b == 0 or a / b <= 2", {"a": 1, "b": 0}, True),
        ("  (a\n <= 3)  ", {"a": 3}, True),
    ],
)
def test_what_it_means(text: str, values: dict[str, object], expected: bool) -> None:
    assert holds(text, **values) is expected


@pytest.mark.parametrize(
    "text",
    [
        "a / b >= 0",
        "not (a / b >= 0)",
        "a % b == 0",
        "(a - 1) ** 0.5 != 3",
        "a ** -1 <= 5",
        "x ** 9 ** 9 == 1",
        "not (x * 1e300 * 1e300 > 5)",
    ],
)
def test_what_cannot_be_computed_does_not_hold(text: str) -> None:
    assert not holds(text, a=0, b=0, x=9e8)


def test_numbers_never_grow_without_bound() -> None:
    text = " * ".join(["x"] * 90) + " >= 0"
    assert not holds(text, x=1e9)
    powers = "(" * 40 + "a" + " ** 9)" * 40 + " >= 0"
    assert not holds(powers, a=20)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a + c <= 10", ("'a + c <= 10'", "no tunable 'c'", "known: a, b")),
        ("moda == 'wal'", ("did you mean 'mode'?",)),
        ("page - cost < 3", ("no tunable 'page'", "value('page-cost')")),
        ("vm.swapiness < 3", ("did you mean 'vm.swappiness'?",)),
        ("a + b", ("expected a comparison, found a number",)),
        ("mode", ("expected a comparison, found a text",)),
        ("a and b", ("expected a comparison, found a number: 'a'",)),
        ("a < 'x'", ("only numbers have an order, found a text",)),
        ("mode < 'wal'", ("only numbers have an order, found a text: 'mode'",)),
        ("mode == 3", ("'mode' is a categorical, its values are texts", "none is 3")),
        ("mode == 'wall'", ("none is 'wall'", "did you mean 'wal'?")),
        ("'wall' != mode", ("none is 'wall'",)),
        ("mode in ('wal', 'dele')", ("none is 'dele'", "did you mean 'delete'?")),
        ("size == 4096", ("its values are texts", "did you mean '4096'?")),
        ("a == 'wal'", ("a number cannot be compared with a text",)),
        ("(a < b) == (b < a)", ("a comparison cannot be compared",)),
        ("a < b < mode", ("only numbers have an order",)),
        ("mode + 'x' == 'walx'", ("expected a number, found a text: 'mode'",)),
        ("a in 3", ("expected a list such as ('a', 'b') after 'in'",)),
        ("a in ()", ("expected a list",)),
        ("mode == True", ("True", "the text 'true'")),
        ("a == None", ("has no meaning in a constraint",)),
        ("a == 1j", ("has no meaning",)),
        ("a <= 1e999", ("expected a finite number",)),
        (f"a <= 1{'0' * 400}", ("expected a finite number",)),
        ("a is b", ("'==' or '!=', found 'is'",)),
        ("a & b == 1", ("write 'and' and 'or' in words",)),
        ("~a == 1", ("write 'not'",)),
        ("1 < 2", ("names no tunable",)),
        ("abs() < a", ("abs takes one number, found 0",)),
        ("abs(a, b) < 1", ("abs takes one number, found 2",)),
        ("max(a) < 1", ("max takes at least two numbers, found 1",)),
        ("max(a, b, key=abs) < 1", ("has no meaning", "it may call min, max, abs, round, value")),
        ("max(*a, b) < 1", ("has no meaning",)),
        ("eval('1') == a", ("has no meaning", "it may call")),
        ("value(a) == 1", ("has no meaning",)),
        ("value('nothing') == 1", ("no tunable 'nothing'",)),
        ("__import__('os').system('true') == a", ("has no meaning",)),
        ("a.__class__ == 1", ("no tunable 'a.__class__'",)),
        ("().__class__ == a", ("has no meaning",)),
        ("'wal'.upper() == mode", ("has no meaning",)),
        ("(lambda: a)() < 3", ("has no meaning",)),
        ("[i for i in (1, 2)] == a", ("has no meaning",)),
        ("(a := 3) < 4", ("has no meaning",)),
        ("a if b < 1 else 2", ("has no meaning",)),
        ("f'{a}' == mode", ("has no meaning",)),
        ("a[0] < 1", ("has no meaning",)),
        ("a <", ("invalid syntax at its end",)),
        ("a < < 3", ("invalid syntax at character 5",)),
        ("a < 1; b < 1", ("invalid syntax",)),
        ("import os", ("invalid syntax",)),
        ("", ("invalid syntax",)),
        ("mode == 'w\\x41l'", ("expected no backslashes",)),
        ("a <= 1\0", ("null",)),
        ("a < " + "1" * 1000, ("expected at most 1000 characters, found 1004",)),
        ("-" * 900 + "a < 1", ("nested too deeply",)),
        ("(" * 180 + "a" + ")" * 180 + " < " + "+".join(["1"] * 200), ("nested too deeply",)),
        ("not " * 110 + "a < 1", ("nested too deeply",)),
    ],
)
def test_everything_else_is_refused(text: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(TunableError) as caught:
        Constraint.parse(text, SPACE.tunables)
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert len(str(caught.value)) < 500


numbers = st.recursive(
    st.sampled_from(["a", "b", "x", "0", "1", "2.5"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner).map(
            lambda parts: f"({' '.join(parts)})"
        ),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map(lambda p: f"{p[0]}({p[1]}, {p[2]})"),
        inner.map(lambda one: f"abs({one})"),
        inner.map(lambda one: f"(-{one})"),
    ),
    max_leaves=6,
)
comparisons = st.one_of(
    st.tuples(numbers, st.sampled_from(["<", "<=", "==", "!=", ">", ">="]), numbers).map(" ".join),
    st.tuples(numbers, numbers, numbers).map(lambda parts: f"{parts[0]} in ({parts[1]}, {parts[2]})"),
    st.sampled_from(["mode == 'wal'", "'delete' != mode", "size in ('1024', '4096')"]),
)
truths = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda parts: f"({' '.join(parts)})"),
        inner.map(lambda one: f"(not {one})"),
    ),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(truths, st.integers(-5, 20), st.integers(-5, 20), st.floats(-4, 4))
def test_it_means_what_python_means(text: str, a: int, b: int, x: float) -> None:
    values: dict[str, Any] = {"a": a, "b": b, "x": x, "mode": "wal", "size": "4096"}
    text = f"{text} and a == a"  # names a tunable at least
    try:
        expected = eval(text, {"min": min, "max": max, "abs": abs}, values)
    except ZeroDivisionError:
        expected = False
    assert holds(text, a=a, b=b, x=x) is expected


TOKENS = """
a b x mode max min abs round value ( ) [ ] { } , . : ; = == != < <= > >= + - * / // % ** & | ^ ~ @ and or not
in is if else for lambda await yield async import None True ... := -> 'wal' 'delete' "a" 0 1 2.5 1e400 1j b'x'
f'{a}' # __class__ __import__
"""
tokens = st.lists(
    st.sampled_from([*TOKENS.split(), "\n", "\t"]),
    max_size=25,
).map(" ".join)


@settings(max_examples=300, deadline=None)
@given(st.one_of(tokens, st.text(max_size=40)))
@example("a.\U00010400 < 1")
@example("\ud800 < a")
@example("a <= 1and b")
def test_any_text_is_a_truth_or_refused(text: str) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            constraint = Constraint.parse(text, SPACE.tunables)
        except TunableError:
            return
    assert constraint.holds(SPACE) in (True, False)
    assert constraint.names <= SPACE.keys()


def test_a_space_knows_whether_its_values_are_feasible() -> None:
    space = TunableGroups(DEFINITION, constraints=["a + b <= 10", "a >= b or mode == 'wal'"])
    assert space.is_feasible
    assert space.violated == ()
    both = space.assign({"a": 5, "b": 8, "mode": "delete"})
    assert not both.is_feasible
    assert both.violated == ("a + b <= 10", "a >= b or mode == 'wal'")
    assert [sorted(one.names) for one in both.constraints] == [["a", "b"], ["a", "b", "mode"]]


def test_constraints_belong_to_the_definition() -> None:
    space = TunableGroups(DEFINITION, constraints=["a <= b"])
    assert space != SPACE
    assert space.digest == SPACE.digest
    assert TunableGroups(json.loads(json.dumps(space.definition()))) == space
    assert pickle.loads(pickle.dumps(space)) == space
    assert not pickle.loads(pickle.dumps(space.assign({"a": 3}))).is_feasible
    more = TunableGroups(space, constraints=["b <= 9", "a <= b"])
    assert [one.text for one in more.constraints] == ["a <= b", "b <= 9"]
    assert TunableGroups(DEFINITION, constraints=["b <= 9", "a <= b"]) == more
    assert SPACE.definition() == {"g": {"cost": 0, **SPACE.definition()["g"]}}


def test_a_part_keeps_the_constraints_that_speak_of_it_alone() -> None:
    groups = {"g": DEFINITION["g"], "h": {"params": {"y": {"type": "int", "range": [0, 9], "default": 0}}}}
    space = TunableGroups(groups, constraints=["a <= b", "y <= a", "y < 8"])
    assert [one.text for one in space.subgroup(["g"]).constraints] == ["a <= b"]
    assert [one.text for one in space.subgroup(["h"]).constraints] == ["y < 8"]
    assert space.subgroup(["g", "h"]).constraints == space.constraints


@pytest.mark.parametrize(
    ("constraints", "index", "parts"),
    [
        (["a <= b", "a > b"], 1, ("the defaults violate the constraint 'a > b': a=0, b=0",)),
        (["a <= b", "a <= c"], 1, ("no tunable 'c'",)),
        ([3], 0, ("expected a constraint such as", "3")),
        ("a <= b", None, ("expected a list of constraints", "'a <= b'")),
    ],
)
def test_a_wrong_constraint_is_refused_where_it_stands(
    constraints: Any, index: int | None, parts: tuple[str, ...]
) -> None:
    with pytest.raises(TunableError) as caught:
        TunableGroups(DEFINITION, constraints=constraints)
    assert caught.value.path == ("constraints", *(() if index is None else (index,)))
    assert all(part in str(caught.value) for part in parts)


def test_a_group_may_be_called_constraints_where_there_are_none() -> None:
    groups = {"constraints": DEFINITION["g"]}
    assert TunableGroups(groups).definition().keys() == {"constraints"}
    with pytest.raises(TunableError, match="no group can be named 'constraints'; rename it"):
        TunableGroups(groups, constraints=["a <= b"])


def test_somebody_who_chooses_what_violates_a_constraint_is_told_which() -> None:
    space = TunableGroups(DEFINITION, constraints=["a <= 9", "a <= b"])
    assert space.choose({"a": 3, "b": 3})["a"] == 3
    with pytest.raises(TunableError, match=r"the constraint 'a <= b' to hold, found a=4, b=3"):
        space.choose({"a": 4, "b": 3})


def test_draws_keep_the_constraints() -> None:
    space = TunableGroups(DEFINITION, constraints=["a + b <= 3", "mode == 'wal'"])
    rng = random.Random(1)
    assert all(sample(space, rng).is_feasible for _ in range(100))


def test_draws_that_never_keep_them_end_with_the_one_to_blame() -> None:
    space = TunableGroups(DEFINITION, constraints=["a <= 9", "x == 0"])
    rng = random.Random(1)
    calls = 0

    def draw() -> TunableGroups:
        nonlocal calls
        calls += 1
        return space.assign({"a": calls % 20, "x": rng.random() + math.pi})

    with pytest.raises(OptimizerError, match=r"none of 50 .*'x == 0' is violated most, 0 % keep it"):
        feasible(draw, attempts=50)
    assert calls == 50
