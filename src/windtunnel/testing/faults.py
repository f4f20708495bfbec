"""Named fault points at every await of our own modules, put there when they are imported.

``install`` must come before the modules are imported, so it is used in a process made for it. The source is
rewritten: ``await x`` becomes ``await around(point, x)``, and ``async with`` and ``async for`` likewise. What
was not installed costs nothing.

A point is named ``module:function#n``, counted within its function in the order of the source; entering and
leaving an ``async with`` are two of them, ``…#n.enter`` and ``…#n.exit``.
"""

from __future__ import annotations

import ast
import importlib.machinery
import inspect
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import decode_source
from types import CodeType, ModuleType, TracebackType
from typing import Generic, Literal, Protocol, TypeVar

__all__ = ["Hook", "Moment", "install", "installed", "instrumented", "listening"]

T = TypeVar("T")
Moment = Literal["before", "after"]
_OURS = "__windtunnel_fault_points__"
_ROOT = "windtunnel."


class Hook(Protocol):
    """Is told of each moment at each point; it may raise, wait, freeze the process or end it."""

    async def __call__(self, point: str, moment: Moment) -> None: ...


class _Listener:
    """Who is told: one for the process, as there is one import system."""

    hook: Hook | None = None


_listener = _Listener()


@contextmanager
def listening(hook: Hook) -> Iterator[None]:
    """Tell ``hook`` of every moment while the block runs."""
    before, _listener.hook = _listener.hook, hook
    try:
        yield
    finally:
        _listener.hook = before


# What the rewritten modules call


async def _tell(point: str, moment: Moment) -> None:
    if _listener.hook is not None:
        await _listener.hook(point, moment)


async def around(point: str, awaitable: Awaitable[T]) -> T:
    """``await awaitable``; if the hook raises before, it is never begun."""
    try:
        await _tell(point, "before")
    except BaseException:
        if inspect.iscoroutine(awaitable):
            awaitable.close()
        raise
    result = await awaitable
    await _tell(point, "after")
    return result


class around_with(Generic[T]):  # noqa: N801 - stands where a function would
    """A context manager whose fault points behave like statements of the block.

    What is raised once it was entered goes through its own exit, or it would be left open by the test.
    """

    def __init__(self, point: str, manager: AbstractAsyncContextManager[T]) -> None:
        self._point = point
        self._manager = manager

    async def __aenter__(self) -> T:
        await _tell(f"{self._point}.enter", "before")
        value = await self._manager.__aenter__()
        try:
            await _tell(f"{self._point}.enter", "after")
        except BaseException as exc:
            if await self._manager.__aexit__(type(exc), exc, exc.__traceback__):
                raise RuntimeError(
                    f"{self._point} swallows what its block raises; it cannot be struck"
                ) from exc
            raise
        return value

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            await _tell(f"{self._point}.exit", "before")
        except BaseException as exc:
            kind, error, trace = type(exc), exc, exc.__traceback__
            if not await self._manager.__aexit__(kind, error, trace):
                raise
            return True
        swallowed = await self._manager.__aexit__(kind, error, trace)
        await _tell(f"{self._point}.exit", "after")
        return swallowed


class around_each(Generic[T]):  # noqa: N801 - stands where a function would
    """An asynchronous iterable with a fault point at each step."""

    def __init__(self, point: str, iterable: AsyncIterator[T]) -> None:
        self._point = point
        self._iterator = aiter(iterable)

    def __aiter__(self) -> around_each[T]:
        return self

    async def __anext__(self) -> T:
        await _tell(self._point, "before")
        item = await anext(self._iterator)
        await _tell(self._point, "after")
        return item


# Rewriting


class _Rewriter(ast.NodeTransformer):
    """Puts the points in and lists their names."""

    def __init__(self, module: str) -> None:
        self.points: list[str] = []
        self._module = module.removeprefix(_ROOT)
        self._scopes: list[str] = []
        self._counts: dict[str, int] = {}

    def _inside(self, node: ast.AST, name: str) -> ast.AST:
        self._scopes.append(name)
        try:
            return self.generic_visit(node)
        finally:
            self._scopes.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._inside(node, node.name)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._inside(node, node.name)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._inside(node, node.name)

    def visit_Await(self, node: ast.Await) -> ast.AST:
        point = self._named()
        self.points.append(point)
        self.generic_visit(node)
        node.value = _call("around", point, node.value)
        return node

    def visit_AsyncWith(self, node: ast.AsyncWith) -> ast.AST:
        for item in node.items:
            point = self._named()
            self.points += [f"{point}.enter", f"{point}.exit"]
            item.context_expr = _call("around_with", point, self.visit(item.context_expr))
        node.body = [self.visit(statement) for statement in node.body]
        return node

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.AST:
        self._each(node)
        return self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        if node.is_async:
            self._each(node)
        return self.generic_visit(node)

    def _each(self, node: ast.AsyncFor | ast.comprehension) -> None:
        point = self._named()
        self.points.append(point)
        node.iter = _call("around_each", point, node.iter)

    def _named(self) -> str:
        scope = f"{self._module}:{'.'.join(self._scopes)}"
        self._counts[scope] = self._counts.get(scope, 0) + 1
        return f"{scope}#{self._counts[scope]}"


def _call(function: str, point: str, argument: ast.expr) -> ast.expr:
    """``<this module>.function(point, argument)``, where ``argument`` stood."""
    ours = ast.Attribute(ast.Name(_OURS, ast.Load()), function, ast.Load())
    call = ast.Call(ours, [ast.Constant(point), argument], [])
    return ast.fix_missing_locations(ast.copy_location(call, argument))


def instrumented(source: str, module: str) -> tuple[ast.Module, list[str]]:
    """``source`` with a point at each await, and the points' names."""
    rewriter = _Rewriter(module)
    tree = rewriter.visit(ast.parse(source))
    assert isinstance(tree, ast.Module)
    return tree, rewriter.points


# Importing

_points: list[str] = []


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:  # not from the cache, nor into it
        tree, points = instrumented(decode_source(self.get_data(self.path)), fullname)
        _points.extend(points)
        return compile(tree, self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        setattr(module, _OURS, sys.modules[__name__])
        super().exec_module(module)


class _Finder(MetaPathFinder):
    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = packages

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not any(fullname == one or fullname.startswith(f"{one}.") for one in self._packages):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


def install(*packages: str) -> None:
    """Rewrite the modules of ``packages`` when they are imported from now on."""
    early = [name for name in sys.modules for one in packages if name == one or name.startswith(f"{one}.")]
    assert not early, f"imported before they could be rewritten: {sorted(early)}"
    sys.meta_path.insert(0, _Finder(packages))


def installed() -> list[str]:
    """The points of all modules rewritten so far."""
    return list(_points)
