"""Compositions of list and string functions, evaluated from the inside out."""

from __future__ import annotations

import json
from typing import Any

from coterie.primer.base import Rng
from coterie.primer.functions import FUNCTIONS, NEEDS_ITEMS, Function, evaluate
from coterie.primer.words import WORDS
from coterie.tasks.answers import json_value
from coterie.tasks.problem import TaskFamily, TaskProblem

# Level -> (functions in a row, items of a list).
_SIZES = ((1, 3), (1, 5), (2, 3), (2, 4), (2, 6), (3, 4), (3, 6), (4, 4), (4, 6), (5, 5), (6, 6))
_SAME = {kind: [f for f in FUNCTIONS if f.kind == f.returns == kind] for kind in ("list", "str")}
_ANY = {kind: [f for f in FUNCTIONS if f.kind == kind] for kind in ("list", "str")}


def draw_chain(rng: Rng, kind: str, depth: int, value: Any) -> tuple[Function, ...]:
    """`depth` functions in the order in which they are applied, each of which accepts what it is given."""
    while True:
        chain = (*(rng.pick(_SAME[kind]) for _ in range(depth - 1)), rng.pick(_ANY[kind]))
        if _accepts(chain, value):
            return chain


def _accepts(chain: tuple[Function, ...], value: Any) -> bool:
    """Whether every function gets what it needs and no value grows long."""
    for function in chain:
        if not isinstance(value, int) and (
            (function.name in NEEDS_ITEMS and len(value) < 2) or len(value) > 24
        ):
            return False
        value = function.apply(value)
    return True


class Composition(TaskFamily):
    """The value of nested calls, as JSON."""

    name = "composition"
    says = "values of 1 to 6 nested list and string functions"

    def draw(self, rng: Rng, level: int) -> TaskProblem:
        """A chain and an argument."""
        depth, items = _SIZES[level]
        kind = rng.pick(("list", "list", "str"))
        value = rng.pick(WORDS) if kind == "str" else [rng.between(0, 9) for _ in range(items)]
        calls = evaluate(draw_chain(rng, kind, depth, value), value)
        call, answer = calls[-1]
        steps = "\n".join(f"{call} = {result}" for call, result in calls[: depth if depth > 1 else 1])
        return TaskProblem(self.name, level, f"What is {call}?", answer, steps)

    def equal(self, problem: TaskProblem, found: str) -> bool:
        """The same JSON value; spaces in lists do not count."""
        wanted, value = json.loads(problem.answer), json_value(found)
        return type(value) is type(wanted) and value == wanted and not _holds_others(value)

    def candidates(self, problem: TaskProblem) -> list[str]:
        """A few values of the same kind."""
        wanted = json.loads(problem.answer)
        if isinstance(wanted, int):
            return [str(number) for number in range(10)]
        return [json.dumps(wanted[::-1]), json.dumps(wanted), json.dumps(wanted[1:])]


def _holds_others(value: Any) -> bool:
    """Whether a list holds anything but whole numbers (`true` equals 1 in Python)."""
    return isinstance(value, list) and any(type(item) is not int for item in value)
