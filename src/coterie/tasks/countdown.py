"""Countdown: reach a number with all of the given ones. The search is shown, failures included."""

from __future__ import annotations

import ast
import re
import warnings
from collections import Counter
from fractions import Fraction

from coterie.primer.base import Rng
from coterie.tasks.problem import TaskFamily, TaskProblem

# Level -> (numbers, the largest of them).
_SIZES = ((2, 9), (3, 5), (3, 9), (3, 20), (3, 50), (4, 9), (4, 20), (4, 50), (5, 20), (5, 50), (6, 50))
_ALLOWED = re.compile(r"[0-9+\-*/() ]{1,120}")
_MOST_FAILURES = 3


def value_of(expression: str, numbers: list[int]) -> Fraction | None:
    """The exact value of an expression that uses each number once; None for any other text.

    Whole numbers, + - * / and brackets. The tree is walked; nothing is passed to `eval`.
    """
    if not _ALLOWED.fullmatch(expression) or "//" in expression or "**" in expression:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a model writes is no program of ours
            tree = ast.parse(expression.strip(), mode="eval").body
        used: list[int] = []
        value = _walk(tree, used)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None
    return value if Counter(used) == Counter(numbers) else None


def _walk(node: ast.expr, used: list[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.BinOp):
        left, right = _walk(node.left, used), _walk(node.right, used)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Div):
            return left / right
    raise ValueError("not arithmetic")


def _combine(rng: Rng, items: list[tuple[int, str]]) -> tuple[list[tuple[int, str]], str]:
    """One random step: two items become one, with the line that says so. Values stay positive and whole."""
    (a, first), (b, second), *rest = rng.shuffled(items)
    if a < b:
        a, first, b, second = b, second, a, first
    signs = ["+", "*"] + (["-"] if a > b else []) + (["/"] if b and a % b == 0 else [])
    sign = rng.pick(signs)
    value = {"+": a + b, "*": a * b, "-": a - b, "/": a // b if b else 0}[sign]
    return [(value, f"({first} {sign} {second})"), *rest], f"{a} {sign} {b} = {value}"


def _walkthrough(rng: Rng, numbers: list[int]) -> tuple[int, str, str]:
    """A random way to use all numbers: the value, the expression and its lines."""
    items = [(number, str(number)) for number in numbers]
    lines = []
    while len(items) > 1:
        items, line = _combine(rng, items)
        lines.append(line)
    value, expression = items[0]
    return value, expression.removeprefix("(").removesuffix(")"), ", ".join(lines)


class Countdown(TaskFamily):
    """An expression of the given numbers, each used once, with a given value."""

    name = "countdown"
    says = "an expression of 2 to 6 given numbers that has a given value"

    def draw(self, rng: Rng, level: int) -> TaskProblem:
        """Numbers, and a target that they can reach."""
        count, most = _SIZES[level]
        while True:
            numbers = [rng.between(1, most) for _ in range(count)]
            target, expression, lines = _walkthrough(rng, numbers)
            if 1 <= target <= 999:
                break
        failures = [_walkthrough(rng, numbers) for _ in range(rng.between(0, _MOST_FAILURES))]
        shown = [f"{tried}, not {target}" for value, _, tried in failures if value != target]
        steps = "\n".join([*shown, f"{lines}, yes"])
        listed = " ".join(map(str, numbers))
        prompt = f"Make {target} from {listed}, each used once."
        facts = {"numbers": numbers, "target": target}
        key = f"{target} {' '.join(map(str, sorted(numbers)))}"
        return TaskProblem(self.name, level, prompt, expression, steps, facts, key)

    def equal(self, problem: TaskProblem, found: str) -> bool:
        """Any expression with the value; `= target` may stand behind it."""
        target = problem.facts["target"]
        expression = re.sub(rf"\s*=\s*{target}$", "", found)
        return value_of(expression, problem.facts["numbers"]) == target

    def candidates(self, problem: TaskProblem) -> list[str]:
        """The target itself, the numbers in a row, and the same under every sign."""
        numbers = list(map(str, problem.facts["numbers"]))
        target = str(problem.facts["target"])
        return [target, f"{target} + 0", " ".join(numbers), *(f" {sign} ".join([target]) for sign in "+*")]
