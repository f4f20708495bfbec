"""kill -9 at every await of storage, scheduling and telemetry; and that these are really all."""

from __future__ import annotations

import ast
from importlib.resources import files
from pathlib import Path

import pytest

from tests.acceptance.sweep import swept
from tests.acceptance.verdict import check
from windtunnel.testing.faults import instrumented

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


@pytest.mark.timeout(900)
def test_killed_at_any_await_it_is_resumed_exactly() -> None:
    check(swept("kill"))
