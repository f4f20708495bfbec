"""What must be true of a configuration, as text: ``shared_buffers + work_mem * max_connections <= 16384``.

The text is Python's, but only this of it means anything:

* numbers, texts, names of tunables, and ``value('random-page-cost')`` for a name that Python could not read;
* ``+ - * / // % **``, ``min``, ``max``, ``abs`` and ``round``, between numbers;
* ``< <= > >=`` between numbers, ``== !=`` between two of a kind, ``in`` and ``not in`` before a list;
* ``and``, ``or``, ``not`` between truths, of which the whole must be one.

Everything else is refused when it is parsed, and so are kinds that do not go together. The text itself is
never run: a constraint is made of the operations above alone. A tunable that is not active counts with its
default.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from windtunnel.errors import TunableError
from windtunnel.options import nearest, shown
from windtunnel.tunables.coerce import to_text
from windtunnel.tunables.tunable import Tunable, TunableValue

__all__ = ["Constraint"]

_LONGEST = 1000
_DEEPEST = 100
_KINDS = {"number": "a number", "text": "a text", "truth": "a comparison"}

Values = Mapping[str, TunableValue]
Kind = Literal["number", "text", "truth"]

_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    # As floats: the power of two whole numbers could have more digits than there is memory.
    ast.Pow: lambda base, exponent: float(base) ** float(exponent),
}
_ORDER: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_EQUALITY: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_MEMBERSHIP: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.In: lambda one, some: one in some,
    ast.NotIn: lambda one, some: one not in some,
}
_FUNCTIONS: Mapping[str, tuple[Callable[..., Any], range]] = {
    "min": (min, range(2, _LONGEST)),
    "max": (max, range(2, _LONGEST)),
    "abs": (abs, range(1, 2)),
    "round": (round, range(1, 2)),
}


class _Meaningless(ValueError):
    """Python would know what it means, a constraint does not."""

    def __init__(self, node: ast.expr, hint: str = "") -> None:
        super().__init__(f"{_source(node)} has no meaning in a constraint{hint}")


class _Part(NamedTuple):
    """A compiled part. ``tunable`` is set if it is nothing but one, ``constant`` if it is a literal."""

    kind: Kind
    value: Callable[[Values], Any]
    tunable: Tunable | None = None
    constant: TunableValue | None = None


@dataclass(frozen=True, slots=True)
class Constraint:
    """What must be true of a configuration. Two of the same text are equal.

    :ivar text: as it was written.
    :ivar names: the tunables it speaks of.
    """

    text: str
    names: frozenset[str] = field(compare=False)
    _truth: Callable[[Values], bool] = field(compare=False, repr=False)

    @classmethod
    def parse(cls, text: object, tunables: Mapping[str, Tunable]) -> Constraint:
        """The constraint that ``text`` states about ``tunables``.

        :raises TunableError: if it states none.
        """
        if not isinstance(text, str):
            raise TunableError(f"expected a constraint such as 'a + b <= 10', found {shown(text)}")
        compiler = _Compiler(tunables)
        try:
            truth = compiler.truth(_parsed(text), 0)
        except ValueError as exc:
            raise TunableError(f"constraint {shown(text)}: {exc}") from None
        except (RecursionError, MemoryError):
            raise TunableError(f"constraint {shown(text)} is nested too deeply") from None
        if not compiler.names:
            raise TunableError(f"constraint {shown(text)} names no tunable{nearest('', tunables)}")
        return cls(text, frozenset(compiler.names), truth)

    def holds(self, values: Values) -> bool:
        """Whether it is true of ``values``; not if it cannot be computed, as when it divides by zero."""
        try:
            return self._truth(values)
        except (ArithmeticError, ValueError):
            return False


def _parsed(text: str) -> ast.expr:
    if len(text) > _LONGEST:
        raise ValueError(f"expected at most {_LONGEST} characters, found {len(text)}")
    if "\\" in text:
        raise ValueError("expected no backslashes")  # Python would warn of some of them
    try:
        return ast.parse(text.strip(), mode="eval").body
    except SyntaxError as exc:
        where = f"at character {exc.offset}" if exc.offset else "at its end"
        raise ValueError(f"{exc.msg} {where}") from None


class _Compiler:
    """Turns a syntax tree into functions of the values; remembers the names it meets."""

    def __init__(self, tunables: Mapping[str, Tunable]) -> None:
        self._tunables = tunables
        self.names: set[str] = set()

    def truth(self, node: ast.expr, depth: int) -> Callable[[Values], bool]:
        return self._of_kind("truth", node, depth)

    def _of_kind(self, kind: Kind, node: ast.expr, depth: int) -> Callable[[Values], Any]:
        part = self._part(node, depth)
        if part.kind != kind:
            raise ValueError(f"expected {_KINDS[kind]}, found {_KINDS[part.kind]}: {_source(node)}")
        return part.value

    def _part(self, node: ast.expr, depth: int) -> _Part:
        if depth > _DEEPEST:
            raise ValueError("nested too deeply")
        match node:
            case ast.Constant():
                return _literal(node)
            case ast.Name() | ast.Attribute():
                return self._name(_dotted(node))
            case ast.Call():
                return self._call(node, depth + 1)
            case ast.UnaryOp():
                return self._unary(node, depth + 1)
            case ast.BinOp():
                return self._binary(node, depth + 1)
            case ast.BoolOp():
                return self._boolean(node, depth + 1)
            case ast.Compare():
                return self._comparison(node, depth + 1)
        raise _Meaningless(node)

    def _name(self, name: str) -> _Part:
        tunable = self._tunables.get(name)
        if tunable is None:
            dashed = next((one for one in self._tunables if one.partition("-")[0] == name), None)
            hint = nearest(name, self._tunables) if dashed is None else f"; write value({dashed!r})"
            raise ValueError(f"no tunable {name!r}{hint}")
        self.names.add(name)
        return _Part("text" if tunable.is_categorical else "number", operator.itemgetter(name), tunable)

    def _call(self, node: ast.Call, depth: int) -> _Part:
        match node:
            case ast.Call(func=ast.Name("value"), args=[ast.Constant(value=str() as name)], keywords=[]):
                return self._name(name)
            case ast.Call(func=ast.Name(name), args=args, keywords=[]) if name in _FUNCTIONS:
                function, counts = _FUNCTIONS[name]
                if len(args) not in counts:
                    wanted = "one number" if counts == range(1, 2) else "at least two numbers"
                    raise ValueError(f"{name} takes {wanted}, found {len(args)}: {_source(node)}")
                parts = [self._of_kind("number", one, depth) for one in args]
                return _Part("number", lambda values: function(*(part(values) for part in parts)))
        known = ", ".join((*_FUNCTIONS, "value"))
        raise _Meaningless(node, f"; it may call {known}")

    def _unary(self, node: ast.UnaryOp, depth: int) -> _Part:
        if isinstance(node.op, ast.Not):
            truth = self.truth(node.operand, depth)
            return _Part("truth", lambda values: not truth(values))
        if isinstance(node.op, ast.Invert):
            raise _Meaningless(node, "; write 'not'")
        number = self._of_kind("number", node.operand, depth)
        negative = isinstance(node.op, ast.USub)
        return _Part("number", (lambda values: -number(values)) if negative else number)

    def _binary(self, node: ast.BinOp, depth: int) -> _Part:
        operation = _ARITHMETIC.get(type(node.op))
        if operation is None:
            raise _Meaningless(node, "; write 'and' and 'or' in words")
        left, right = (self._of_kind("number", one, depth) for one in (node.left, node.right))
        return _Part("number", lambda values: _finite(operation(left(values), right(values))))

    def _boolean(self, node: ast.BoolOp, depth: int) -> _Part:
        truths = [self.truth(one, depth) for one in node.values]
        together = all if isinstance(node.op, ast.And) else any
        return _Part("truth", lambda values: together(truth(values) for truth in truths))

    def _comparison(self, node: ast.Compare, depth: int) -> _Part:
        sides = [node.left, *node.comparators]
        pairs = [
            self._pair(left, how, right, depth)
            for left, how, right in zip(sides, node.ops, sides[1:], strict=False)
        ]
        return _Part("truth", lambda values: all(pair(values) for pair in pairs))

    def _pair(self, left: ast.expr, how: ast.cmpop, right: ast.expr, depth: int) -> Callable[[Values], bool]:
        if type(how) in _MEMBERSHIP:
            return self._member(left, _MEMBERSHIP[type(how)], right, depth)
        one, two = self._part(left, depth), self._part(right, depth)
        if type(how) in _ORDER:
            for part, node in ((one, left), (two, right)):
                if part.kind != "number":
                    raise ValueError(
                        f"only numbers have an order, found {_KINDS[part.kind]}: {_source(node)}"
                    )
            return _compared(_ORDER[type(how)], one, two)
        if type(how) not in _EQUALITY:
            raise ValueError("expected '==' or '!=', found 'is'")
        _check_alike(one, two)
        return _compared(_EQUALITY[type(how)], one, two)

    def _member(
        self, left: ast.expr, test: Callable[[Any, Any], bool], right: ast.expr, depth: int
    ) -> Callable[[Values], bool]:
        if not isinstance(right, ast.Tuple | ast.List | ast.Set) or not right.elts:
            raise ValueError(f"expected a list such as ('a', 'b') after 'in', found {_source(right)}")
        one = self._part(left, depth)
        some = [self._part(member, depth) for member in right.elts]
        for member in some:
            _check_alike(one, member)
        return lambda values: test(one.value(values), [member.value(values) for member in some])


def _compared(test: Callable[[Any, Any], bool], one: _Part, two: _Part) -> Callable[[Values], bool]:
    left, right = one.value, two.value
    return lambda values: test(left(values), right(values))


def _check_alike(one: _Part, two: _Part) -> None:
    """:raises ValueError: if the two can never be equal because of what they are."""
    for tunable, other in ((one.tunable, two), (two.tunable, one)):
        if tunable is None or not tunable.is_categorical or other.constant is None:
            continue
        if other.constant not in tunable.values:
            wanted = f"{tunable.name!r} is a categorical, its values are texts"
            hint = nearest(other.constant, tunable.values)
            raise ValueError(f"{wanted}: none is {shown(other.constant)}{hint}")
    if "truth" in (one.kind, two.kind) or one.kind != two.kind:
        raise ValueError(f"{_KINDS[one.kind]} cannot be compared with {_KINDS[two.kind]}")


def _literal(node: ast.Constant) -> _Part:
    value = node.value
    if isinstance(value, str):
        return _Part("text", lambda _: value, constant=value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        told = f"; a categorical's value is the text {to_text(value)!r}" if isinstance(value, bool) else ""
        raise _Meaningless(node, told)
    return _Part("number", lambda _: value, constant=_finite(value))


def _finite(number: Any) -> Any:
    """``number`` itself, but for what is beyond the doubles, or complex."""
    try:
        finite = math.isfinite(number)
    except (TypeError, OverflowError):  # the root of a negative number, or a whole one of many digits
        finite = False
    if not finite:
        raise ValueError("expected a finite number, not one beyond 1e308 or the root of a negative one")
    return number


def _dotted(node: ast.expr) -> str:
    """A name with dots, which is written as Python writes attributes."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise _Meaningless(node)
    return ".".join((node.id, *reversed(parts)))


def _source(node: ast.AST) -> str:
    return shown(ast.unparse(node))
