"""Tiny Python functions with assertions and a trace of one run, all of it made by running the program.

A document is the source of one function, two or three `assert` lines, and the trace of a call: one line per
executed assignment (`total = 5`) and the value returned. Programs are drawn from a small grammar of whole
numbers and lists.
"""

import ast
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from coterie.primer.base import PrimerDocument, Rng

_NAMES = "solve work run step change count make compute check answer score value".split()
_VARS = "x y z n total best left result size".split()


@dataclass(frozen=True)
class Assign:
    """`target = expression` or `target += expression`."""

    target: str
    operator: str
    expression: str

    def lines(self, indent: str) -> Iterator[str]:
        """Source lines."""
        yield f"{indent}{self.target} {self.operator} {self.expression}"


@dataclass(frozen=True)
class If:
    """`if test:` with an optional `else:`."""

    test: str
    then: tuple[Assign, ...]
    other: tuple[Assign, ...] = ()

    def lines(self, indent: str) -> Iterator[str]:
        """Source lines."""
        yield f"{indent}if {self.test}:"
        for statement in self.then:
            yield from statement.lines(indent + "    ")
        if self.other:
            yield f"{indent}else:"
            for statement in self.other:
                yield from statement.lines(indent + "    ")


@dataclass(frozen=True)
class For:
    """`for target in iterable:`."""

    target: str
    iterable: str
    body: tuple["Assign | If", ...]

    def lines(self, indent: str) -> Iterator[str]:
        """Source lines."""
        yield f"{indent}for {self.target} in {self.iterable}:"
        for statement in self.body:
            yield from statement.lines(indent + "    ")


Statement = Assign | If | For


@dataclass
class Program:
    """One function; `parameter` is a whole number or, if `takes_list`, a list of them."""

    name: str
    parameter: str
    takes_list: bool
    returns: str
    body: list[Statement] = field(default_factory=list)

    def source(self) -> str:
        """The function as Python."""
        lines = [f"def {self.name}({self.parameter}):"]
        for statement in self.body:
            lines += statement.lines("    ")
        return "\n".join([*lines, f"    return {self.returns}"])

    def trace(self, argument: Any) -> tuple[list[tuple[str, Any]], Any]:
        """Every assignment in order as `(name, value)`, including loop variables, and the result."""
        scope: dict[str, Any] = {self.parameter: argument}
        seen = list(_run(self.body, scope))
        return seen, _value(self.returns, scope)


_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Gt: operator.gt,
    ast.Lt: operator.lt,
    ast.Eq: operator.eq,
}
_BUILTINS: dict[str, Callable[[Any], Any]] = {"len": len, "sum": sum, "range": range}


@lru_cache(maxsize=4096)
def _parsed(expression: str) -> ast.expr:
    return ast.parse(expression, mode="eval").body


def _value(expression: str, scope: dict[str, Any]) -> Any:
    """The value of an expression of this module's grammar."""
    return _evaluate(_parsed(expression), scope)


def _evaluate(node: ast.expr, scope: dict[str, Any]) -> Any:
    match node:
        case ast.Name(name):
            return scope[name]
        case ast.Constant(value):
            return value
        case ast.BinOp(left, sign, right) | ast.Compare(left, [sign], [right]):
            return _OPERATORS[type(sign)](_evaluate(left, scope), _evaluate(right, scope))
        case ast.List(items):
            return [_evaluate(item, scope) for item in items]
        case ast.Call(ast.Name(name), [argument]):
            return _BUILTINS[name](_evaluate(argument, scope))
        case ast.Subscript(value, ast.Slice()):  # the grammar's only slice is [::-1]
            return _evaluate(value, scope)[::-1]
    raise AssertionError(f"not in the grammar: {ast.unparse(node)}")


def _run(statements: Any, scope: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for statement in statements:
        if isinstance(statement, For):
            for item in _value(statement.iterable, scope):
                scope[statement.target] = item
                yield statement.target, item
                yield from _run(statement.body, scope)
        elif isinstance(statement, If):
            yield from _run(statement.then if _value(statement.test, scope) else statement.other, scope)
        else:
            expression = statement.expression
            if statement.operator != "=":
                expression = f"{statement.target} {statement.operator[0]} ({expression})"
            scope[statement.target] = _value(expression, scope)
            yield statement.target, scope[statement.target]


def _term(rng: Rng, names: list[str]) -> str:
    return rng.pick(names) if rng.chance(0.6) else str(rng.between(1, 9))


def _expression(rng: Rng, names: list[str]) -> str:
    """A sum, product, difference, quotient or remainder. Divisors are literals, so no division is by zero."""
    first = rng.pick(names)
    sign = rng.pick(("+", "+", "-", "*", "//", "%"))
    second = str(rng.between(2, 9)) if sign in ("//", "%") else _term(rng, names)
    return f"{first} {sign} {second}"


def _test(rng: Rng, names: list[str]) -> str:
    name = rng.pick(names)
    return rng.pick(
        (
            f"{name} > {rng.between(1, 9)}",
            f"{name} < {rng.between(2, 9)}",
            f"{name} % 2 == 0",
            f"{name} % 3 == 0",
        )
    )


def _straight(rng: Rng) -> Program:
    """Assignments one after the other, sometimes with a choice."""
    parameter, *others = rng.sample(_VARS, 4)
    program = Program(rng.pick(_NAMES), parameter, False, "")
    names = [parameter]
    for target in others[: rng.between(2, 3)]:
        program.body.append(Assign(target, "=", _expression(rng, names)))
        names.append(target)
    if rng.chance(0.6):
        target = rng.pick(names[1:])
        other = (Assign(target, "=", _expression(rng, names)),) if rng.chance(0.5) else ()
        program.body.append(
            If(_test(rng, names), (Assign(target, rng.pick(("+=", "-=")), _term(rng, names)),), other)
        )
    program.returns = _expression(rng, names) if rng.chance(0.4) else names[-1]
    return program


def _loop(rng: Rng) -> Program:
    """A number gathered over a range or a list, every item or only some."""
    total, item, parameter = rng.sample(["total", "best", "result", "count", "n", "x", "i", "k"], 3)
    takes_list = rng.chance(0.6)
    gathered = Assign(
        total, rng.pick(("+=", "+=", "-=")), rng.pick((item, item, "1", f"{item} * {item}", f"2 * {item}"))
    )
    body: Assign | If = gathered
    shape = rng.between(0, 3)
    if shape == 1:
        body = If(_test(rng, [item]), (gathered,))
    elif shape == 2:
        body = If(_test(rng, [item]), (gathered,), (Assign(total, "+=", str(rng.between(1, 5))),))
    elif shape == 3:
        body = If(f"{item} > {total}", (Assign(total, "=", item),))
    iterable = parameter if takes_list else f"range({parameter})"
    start = Assign(total, "=", str(rng.between(0, 9)))
    return Program(rng.pick(_NAMES), parameter, takes_list, total, [start, For(item, iterable, (body,))])


def _builder(rng: Rng) -> Program:
    """A new list made item by item."""
    made, item, parameter = rng.sample(["out", "found", "items", "x", "v", "n", "kept", "values"], 3)
    append = Assign(made, "=", f"{made} + [{rng.pick((item, _expression(rng, [item])))}]")
    body: Assign | If = If(_test(rng, [item]), (append,)) if rng.chance(0.6) else append
    returns = rng.pick((made, made, f"{made}[::-1]", f"len({made})", f"sum({made})"))
    return Program(
        rng.pick(_NAMES), parameter, True, returns, [Assign(made, "=", "[]"), For(item, parameter, (body,))]
    )


def draw(rng: Rng) -> tuple[Program, list[Any]]:
    """A program and four different arguments."""
    program = rng.pick((_straight, _loop, _loop, _builder))(rng)
    arguments: list[Any] = []
    while len(arguments) < 4:
        if program.takes_list:
            argument: Any = [rng.between(0, 9) for _ in range(rng.between(2, 5))]
        else:
            argument = rng.between(1, 6)
        if argument not in arguments:
            arguments.append(argument)
    return program, arguments


def _render(rng: Rng, program: Program, arguments: list[Any]) -> str:
    traced, *checked = arguments
    lines = [program.source(), ""]
    lines += [
        f"assert {program.name}({value}) == {program.trace(value)[1]}"
        for value in checked[: rng.between(2, 3)]
    ]
    seen, result = program.trace(traced)
    lines += ["", f"# {program.name}({traced})", f"# {program.parameter} = {traced}"]
    lines += [f"# {name} = {value}" for name, value in seen]
    return "\n".join([*lines, f"# return {result}", f"assert {program.name}({traced}) == {result}"])


def generate(seed: int, index: int) -> PrimerDocument:
    """Document `index`: a program with assertions and a trace. The text is a Python file that runs."""
    rng = Rng("programs", seed, index)
    return PrimerDocument(_render(rng, *draw(rng)) + "\n", "programs", f"programs/{index}")
