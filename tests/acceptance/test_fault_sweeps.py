"""Killed, frozen, cancelled or refused by the database at awaits of storage, scheduling and telemetry.

A day's sample shares the awaits out among the four faults; see ``sweep.planned``. All in one file, so that
one process runs the sweeps one after the other: each keeps both cores busy.
"""

from __future__ import annotations

import ast
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from tests.acceptance.sweep import planned
from tests.acceptance.sweep_report import FAULTS, check, swept
from windtunnel.testing.faults import Moment, instrumented

PACKAGES = ("storage", "scheduling", "telemetry")
SNIPPET = """
class A:
    async def f(self):
        async with a() as b, c(await d()):
            async for e in f():
                await g(await h())
        return [i async for i in j() if await k(i)]
"""


def awaits(tree: ast.AST) -> int:
    """Places where a task can be suspended: an ``async with`` has two."""
    steps = {ast.Await: 1, ast.AsyncFor: 1, ast.withitem: 0}
    number = sum(steps.get(type(node), 0) for node in ast.walk(tree))
    number += sum(2 * len(node.items) for node in ast.walk(tree) if isinstance(node, ast.AsyncWith))
    return number + sum(node.is_async for node in ast.walk(tree) if isinstance(node, ast.comprehension))


def test_every_await_is_a_point_with_a_name_of_its_own() -> None:
    root, names = Path(str(files("windtunnel"))), []
    for file in sorted(one for package in PACKAGES for one in (root / package).rglob("*.py")):
        module = ".".join(file.relative_to(root.parent).with_suffix("").parts)
        source = file.read_text(encoding="utf-8")
        _, points = instrumented(source, module)
        assert len(points) == awaits(ast.parse(source)), module
        names += points
    assert len(set(names)) == len(names) > 200


def test_points_are_named_in_the_order_of_the_source() -> None:
    tree, points = instrumented(SNIPPET, "windtunnel.storage.x")
    ends = ["#1.enter", "#1.exit", "#2.enter", "#2.exit", "#3", "#4", "#5", "#6", "#7", "#8"]
    assert sorted(points) == [f"storage.x:A.f{end}" for end in ends]
    asked = [node.args[0] for node in ast.walk(tree) if isinstance(node, ast.Call) and len(node.args) == 2]
    named = {one.value for one in asked if isinstance(one, ast.Constant)}
    assert named == {point.removesuffix(".enter").removesuffix(".exit") for point in points}


def test_a_sample_strikes_each_point_once_and_four_in_a_row_with_each_fault() -> None:
    seen: Counter[tuple[str, Moment]] = Counter()
    for i in range(40):
        seen[f"p{i}", "before"] = 5
        seen[f"p{i}", "after"] = 5 * (i % 3)  # some are never left
    samples = [[case for fault in FAULTS for case in planned(seen, fault, str(n))] for n in range(100, 108)]
    for sample in samples:
        assert sorted(case.point for case in sample) == sorted({point for point, _ in seen})
    by_fault = {(case.point, case.fault) for sample in samples[:4] for case in sample}
    assert len(by_fault) == 40 * 4
    everything = [case for fault in FAULTS for case in planned(seen, fault, "all")]
    assert {case for sample in samples for case in sample} == set(everything)


@pytest.mark.timeout(900)
def test_killed_at_any_await_it_is_resumed_exactly() -> None:
    check(swept("kill"))


@pytest.mark.timeout(900)
def test_cancelled_at_any_await_it_is_resumed_exactly() -> None:
    check(swept("cancel"))


@pytest.mark.timeout(900)
def test_refused_by_the_database_at_any_await_it_is_resumed_exactly() -> None:
    check(swept("error"))


@pytest.mark.timeout(900)
def test_frozen_at_any_await_for_two_leases_it_doubles_nothing() -> None:
    report = check(swept("freeze"))
    # Or nobody took over, and the fence stood idle.
    assert report.lost + report.refused >= report.struck / 2
    assert report.refused > 0
