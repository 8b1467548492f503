"""Arithmetic from text: a small part of Python's expressions, with bounds on time and size.

The syntax tree is walked node by node and nothing is passed to `eval`.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any

from coterie.config.errors import CoterieError

LONGEST, LARGEST = 500, 10_000  # characters of an expression; bits of a whole number on the way

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY: dict[type, Callable[[Any], Any]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}
_NAMES = {"pi": math.pi, "e": math.e, "tau": math.tau}
_OF_MATH = (
    "sqrt exp log log2 log10 sin cos tan asin acos atan atan2 sinh cosh tanh floor ceil gcd hypot "
    "degrees radians"
)
_FUNCTIONS: dict[str, Callable[..., Any]] = {name: getattr(math, name) for name in _OF_MATH.split()}
_FUNCTIONS |= {"abs": abs, "min": min, "max": max}
_MOST_DIGITS = 400  # of rounding: Python computes a power of ten with as many digits


class ArithmeticRefused(CoterieError):
    """The text is not arithmetic, or exceeds a bound."""


def _round(value: int | float, digits: int | float = 0) -> int | float:
    if abs(digits) > _MOST_DIGITS:
        raise ArithmeticRefused(f"expression: round to at most {_MOST_DIGITS} digits")
    return round(value, int(digits)) if digits else round(value)


_FUNCTIONS["round"] = _round


def evaluate(text: str) -> str:
    """The value of an expression, as text. Errors: `ArithmeticRefused`, one line.

    Numbers, + - * / // % **, brackets, pi, e, tau, and the functions of `_FUNCTIONS`. Whole numbers stay
    whole.
    """
    if len(text) > LONGEST:
        raise ArithmeticRefused(f"expression: longer than {LONGEST} characters")
    try:
        value = _value(ast.parse(text.strip(), mode="eval").body)
        return str(value)
    except ArithmeticRefused:
        raise
    except SyntaxError:
        raise ArithmeticRefused(f"expression: not arithmetic: {text[:80]!r}") from None
    except (ArithmeticError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ArithmeticRefused(
            f"expression: {' '.join(str(error).split()) or type(error).__name__}"
        ) from None


def _value(node: ast.expr) -> int | float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _bounded(node.value)
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _bounded(_UNARY[type(node.op)](_value(node.operand)))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return _bounded(_power(_value(node.left), _value(node.right)))
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _bounded(_BINARY[type(node.op)](_value(node.left), _value(node.right)))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
        if node.keywords:
            raise ArithmeticRefused(f"expression: {node.func.id} takes no named arguments")
        return _bounded(_FUNCTIONS[node.func.id](*map(_value, node.args)))
    raise ArithmeticRefused(f"expression: '{ast.unparse(node)[:80]}' is not arithmetic that is known here")


def _power(base: int | float, exponent: int | float) -> int | float:
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * max(exponent, 0) > LARGEST:
        raise ArithmeticRefused(f"expression: a power longer than {LARGEST} bits")
    return base**exponent


def _bounded(value: Any) -> int | float:
    if isinstance(value, complex):
        raise ArithmeticRefused("expression: the result is a complex number")
    if isinstance(value, int) and value.bit_length() > LARGEST:
        raise ArithmeticRefused(f"expression: a number longer than {LARGEST} bits")
    return value  # type: ignore[no-any-return]
