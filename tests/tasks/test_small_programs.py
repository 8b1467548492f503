"""Programs are judged by hidden calls: right ones, wrong ones, and those that only know the example."""

from __future__ import annotations

import sys

import pytest

from coterie.primer.functions import FUNCTIONS
from coterie.tasks import small_programs
from coterie.tasks.small_programs import EXPRESSIONS, SmallPrograms

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the sandbox needs Linux")


def test_every_function_of_the_primer_has_its_expression() -> None:
    values = {"list": [[4, 7, 2, 9, 4, 6], [5, 5]], "str": ["Garden", "ox"]}
    assert EXPRESSIONS.keys() == {function.name for function in FUNCTIONS}
    for function in FUNCTIONS:
        for value in values[function.kind]:
            assert eval(EXPRESSIONS[function.name], {"v": value}) == function.apply(value), function.name


def test_right_wrong_and_memorised() -> None:
    family = SmallPrograms()
    problems = [family.problem(level, level) for level in (0, 4, 8)]
    right = family.judge_all(problems, [family.oracle(one) for one in problems])
    if right[0].failed:
        pytest.skip(right[0].why)
    assert all(verdict.right for verdict in right)
    shown = [one.prompt.rpartition(" == ")[2] for one in problems]
    memorised = [f"```python\ndef f(v):\n    return {value}\n```" for value in shown]
    wrong = family.judge_all([*problems, problems[0]], [*memorised, "no code"])
    assert not any(verdict.right or verdict.failed for verdict in wrong)
    assert " gave " in wrong[0].why and wrong[-1].why.startswith("the reply does not hold exactly one block")


def test_true_is_not_one() -> None:
    assert small_programs._same([1, 2], [1, 2]) and not small_programs._same([True], [1])
    assert not small_programs._same(1.0, 1) and not small_programs._same([1], [1, 2])
