"""Expressions are worked out exactly, and only those of the given numbers count."""

from __future__ import annotations

from fractions import Fraction

import pytest

from coterie.tasks.countdown import Countdown, value_of
from coterie.tasks.problem import TaskProblem


@pytest.mark.parametrize(
    ("expression", "numbers", "value"),
    [
        ("(28 + 16) * 6", [6, 16, 28], Fraction(264)),
        ("7 / 2", [2, 7], Fraction(7, 2)),
        ("6 * 6", [6], None),
        ("6", [6, 6], None),
        ("9 ** 9 ** 9", [9, 9, 9], None),
        ("7 // 2", [7, 2], None),
        ("5 / 0", [5, 0], None),
        ("-5 + 6", [5, 6], None),
        ("__import__('os')", [1], None),
        ("(" * 100, [1], None),
        ("5.0", [5], None),
    ],
)
def test_value_of(expression: str, numbers: list[int], value: Fraction | None) -> None:
    assert value_of(expression, numbers) == value


def test_any_expression_with_the_value_is_right() -> None:
    family = Countdown()
    problem = TaskProblem("countdown", 1, "", "(2 + 3) * 4", facts={"numbers": [2, 3, 4], "target": 20})
    for reply in ("4 * (3 + 2)", "(2+3)*4 = 20"):
        assert family.judge(problem, f"Answer: {reply}").right
    for reply in ("20", "4 * 5", "(2 + 3) * 4 = 21", "2 + 3 + 4", "= 20"):
        assert not family.judge(problem, f"Answer: {reply}").right
