"""Small Python functions to write, checked by hidden tests in the sandbox."""

from __future__ import annotations

import atexit
import functools
from collections.abc import Sequence
from typing import Any

from coterie.primer.base import Rng
from coterie.primer.functions import FUNCTIONS, NEEDS_ITEMS, Function
from coterie.primer.words import WORDS
from coterie.sandbox.caller import Caller, Returned, Submission
from coterie.sandbox.outside import SandboxError
from coterie.tasks.answers import code_block
from coterie.tasks.problem import TaskFamily, TaskProblem, TaskVerdict

# Each function of the primer as an expression of `v`.
EXPRESSIONS = {
    "reverse": "v[::-1]", "sort": "sorted(v)", "sort_down": "sorted(v, reverse=True)",
    "double_all": "[2 * x for x in v]", "add_one": "[x + 1 for x in v]",
    "evens": "[x for x in v if x % 2 == 0]", "odds": "[x for x in v if x % 2]", "drop_first": "v[1:]",
    "drop_last": "v[:-1]", "unique": "list(dict.fromkeys(v))", "rotate": "v[1:] + v[:1]", "twice": "v + v",
    "small": "[x for x in v if x < 5]", "first": "v[0]", "last": "v[-1]", "length": "len(v)",
    "total": "sum(v)", "largest": "max(v)", "smallest": "min(v)", "upper": "v.upper()",
    "lower": "v.lower()", "capital": "v.capitalize()", "backwards": "v[::-1]", "repeat": "v + v",
    "no_first": "v[1:]", "no_last": "v[:-1]", "sort_letters": '"".join(sorted(v))',
    "no_vowels": '"".join(c for c in v if c not in "aeiouAEIOU")', "swap_ends": "v[-1] + v[1:-1] + v[0]",
    "first_letter": "v[0]", "last_letter": "v[-1]", "count_letters": "len(v)",
    "count_vowels": 'sum(c in "aeiouAEIOU" for c in v)',
}  # fmt: skip
_DEPTHS = (1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5)
_HIDDEN, _LONG = 6, 30
_TAKES = {"list": "a list of whole numbers", "str": "a string"}


@functools.cache
def _caller() -> Caller:
    caller = Caller()
    atexit.register(caller.close)  # the folders of its interpreters go with it
    return caller


def run_programs(submissions: Sequence[Submission | None]) -> list[Returned | None]:
    """What the programs returned, in order, run in the sandbox as many at a time as there are processors.

    None stays None. Where nothing can be confined, every one of them `failed`.
    """
    given = [one for one in submissions if one is not None]
    try:
        returned = iter(_caller().run_all(given) if given else [])
    except SandboxError as error:
        returned = iter([Returned(why=str(error), failed=True)] * len(given))
    return [None if one is None else next(returned) for one in submissions]


def _value(rng: Rng, kind: str, items: int) -> Any:
    if kind == "str":
        return "".join(rng.pick(WORDS) for _ in range(1 + items // 6))
    return [rng.between(-9, 20) for _ in range(items)]


def _result(chain: Sequence[Function], value: Any) -> tuple[Any] | None:
    """The value of the composition; None where a function gets less than it needs."""
    for function in chain:
        if function.name in NEEDS_ITEMS and len(value) < 2:
            return None
        value = function.apply(value)
    return (value,)


class SmallPrograms(TaskFamily):
    """A function `f(v)` of one to five steps. One example is shown; six other calls decide.

    The hidden arguments are random, so they differ from the shown one, and one of them is long. The program
    runs in the sandbox and never sees what is expected (`sandbox.caller`).
    """

    name = "programs"
    says = "Python functions of 1 to 5 steps, checked by hidden tests in the sandbox"

    def draw(self, rng: Rng, level: int) -> TaskProblem:
        """A composition in words, and its tests."""
        kind = rng.pick(("list", "list", "str"))
        same = [f for f in FUNCTIONS if f.kind == f.returns == kind]
        chain = [rng.pick(same) for _ in range(_DEPTHS[level] - 1)]
        chain.append(rng.pick([f for f in FUNCTIONS if f.kind == kind]))
        tests: list[tuple[Any, Any]] = []
        for place in range(200):
            value = _value(rng, kind, _LONG if place == 0 else rng.between(2, 8))
            result = _result(chain, value)
            if result is not None and all(value != seen for seen, _ in tests):
                tests.append((value, result[0]))
            if len(tests) == _HIDDEN + 1:
                break
        else:
            return self.draw(rng, level)
        shown, *hidden = tests[::-1]
        says = ", then ".join(rng.pick(function.says) for function in chain)
        prompt = f"Write f(v) in Python. v is {_TAKES[kind]}; f {says}. f({shown[0]!r}) == {shown[1]!r}"
        lines = [f"    v = {EXPRESSIONS[function.name]}" for function in chain[:-1]]
        code = "\n".join(["def f(v):", *lines, f"    return {EXPRESSIONS[chain[-1].name]}", ""])
        steps = "\n".join(f"{function.name}: {EXPRESSIONS[function.name]}" for function in chain)
        facts = {"tests": hidden}
        key = " ".join(function.name for function in chain) + f" {shown[0]!r}"
        return TaskProblem(self.name, level, prompt, code, steps, facts, key)

    def oracle(self, problem: TaskProblem) -> str:
        """The program in a fence."""
        return f"```python\n{problem.answer}```"

    def judge(self, problem: TaskProblem, reply: str) -> TaskVerdict:
        """Whether every hidden call gives the right value."""
        return self.judge_all([problem], [reply])[0]

    def judge_all(self, problems: Sequence[TaskProblem], replies: Sequence[str]) -> list[TaskVerdict]:
        """The same for many replies; programs run at the same time, as many as there are processors."""
        codes = [code_block(reply) for reply in replies]
        submissions = [
            None if code is None else Submission(code, "f", [[value] for value, _ in problem.facts["tests"]])
            for problem, code in zip(problems, codes, strict=True)
        ]
        tried = zip(problems, codes, run_programs(submissions), strict=True)
        return [_verdict(problem, code, returned) for problem, code, returned in tried]

    def candidates(self, problem: TaskProblem) -> list[str]:
        """No list of answers makes a program."""
        return []


def _verdict(problem: TaskProblem, code: str | None, returned: Returned | None) -> TaskVerdict:
    if returned is None:
        return TaskVerdict.of(False, None, "the reply does not hold exactly one block of Python")
    if returned.failed:
        return TaskVerdict({}, code, returned.why, failed=True)
    if not returned.values:
        return TaskVerdict.of(False, code, returned.why)
    for (value, wanted), (kind, got) in zip(problem.facts["tests"], returned.values, strict=True):
        if kind != "value" or not _same(got, wanted):
            return TaskVerdict.of(False, code, f"f({value!r}) gave {got!r:.80}, not {wanted!r}")
    return TaskVerdict.of(True, code)


def _same(got: Any, wanted: Any) -> bool:
    """Equal and of the same types throughout (`True == 1` in Python)."""
    if type(got) is not type(wanted):
        return False
    if isinstance(wanted, list):
        return len(got) == len(wanted) and all(map(_same, got, wanted))
    return bool(got == wanted)
