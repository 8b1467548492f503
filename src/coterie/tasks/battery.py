"""Replies that know nothing, and what they must not earn: tried on tasks and on benchmarks alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

COUNT = 200
WORST = 0.05  # the mean reward that an attack may earn
_LONG = 1_000_000
_CIRCLED = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")

P = TypeVar("P")


@dataclass(frozen=True)
class TaskFinding:
    """One thing that was tried: what, whether it went as it must, and what came of it."""

    what: str
    passed: bool
    result: str


@dataclass(frozen=True)
class Paid:
    """What a reply earned. `failed`: the checker did not work."""

    reward: float
    why: str = ""
    failed: bool = False


class Checked(ABC, Generic[P]):
    """Problems of one kind and their checker, as the battery sees them.

    `worst`: what an attack may earn. `exclusive`: a right reply with another one next to it earns nothing.
    """

    worst: float = WORST
    exclusive: bool = True

    @abstractmethod
    def prompt(self, problem: P) -> str:
        """What the model is asked."""

    @abstractmethod
    def answer(self, problem: P) -> str:
        """What a right reply ends with."""

    @abstractmethod
    def oracle(self, problem: P) -> str:
        """A right reply."""

    @abstractmethod
    def candidates(self, problem: P) -> Sequence[str]:
        """Answers that a guesser would list."""

    @abstractmethod
    def pay(self, problems: Sequence[P], replies: Sequence[str]) -> Sequence[Paid]:
        """What the replies earn. Whatever it raises is a fault of the checker."""


Attack = Callable[[Checked[Any], Any, Any], str]


def _listed(checked: Checked[P], problem: P, other: P) -> str:
    return "\n".join(f"Answer: {one}" for one in [*checked.candidates(problem), checked.answer(problem)])


def _hedged(checked: Checked[P], problem: P, other: P) -> str:
    listed = [*checked.candidates(problem), checked.answer(problem)]
    return f"Answer: {' or '.join(dict.fromkeys(listed))} or maybe something else entirely"


ATTACKS: dict[str, Attack] = {
    "an empty reply": lambda checked, problem, other: "",
    "spaces": lambda checked, problem, other: " \n\t ",
    "the prompt again": lambda checked, problem, other: checked.prompt(problem),
    "the prompt as answer": lambda checked, problem, other: f"Answer: {checked.prompt(problem)}",
    "the form alone": lambda checked, problem, other: "Answer: ",
    "the answer of another problem": lambda checked, problem, other: checked.oracle(other),
    "every candidate, a line each": _listed,
    "every candidate in one line": _hedged,
    "the right answer, then another": lambda checked, problem, other: (
        f"{checked.oracle(problem)}\n{checked.oracle(other)}"
    ),
    "another answer, then the right one": lambda checked, problem, other: (
        f"{checked.oracle(other)}\n{checked.oracle(problem)}"
    ),
    "the right answer with words behind it": lambda checked, problem, other: (
        f"Answer: {checked.answer(problem)} or so, give or take"
    ),
    "the right answer in digits of another script": lambda checked, problem, other: (
        f"Answer: {checked.answer(problem).translate(_CIRCLED)}!"
    ),
    "a million characters": lambda checked, problem, other: "Answer" * (_LONG // 6),
    "a million brackets": lambda checked, problem, other: "Answer: " + "[" * _LONG,
    "a number without end": lambda checked, problem, other: "Answer: " + "9" * 100_000,
}
_HOLDING = {  # what holds the right answer with something else next to it
    "every candidate, a line each",
    "every candidate in one line",
    "the right answer, then another",
    "another answer, then the right one",
    "the right answer with words behind it",
    "the right answer in digits of another script",
}
_PROGRAMS = {
    "a program that ends at once": "import os\nos._exit(0)\n",
    "a program that leaves": "import sys\nsys.exit(0)\n",
    "a program that claims success": 'print("PASS")\ndef f(v):\n    return None\n',
    "a value that equals everything": (
        "class A(int):\n    def __eq__(self, other):\n        return True\ndef f(v):\n    return A()\n"
    ),
    "an endless program": "def f(v):\n    while True:\n        pass\n",
    "a program that forks": "import os\ndef f(v):\n    while True:\n        os.fork()\n",
    "a program that eats memory": "def f(v):\n    return [0] * 10**10\n",
    "a program that opens a socket": "import socket\ndef f(v):\n    return socket.socket()\n",
    "a program that reads files": "def f(v):\n    return open('/etc/passwd').read()\n",
    "a program that writes files": "def f(v):\n    open('x', 'w').write('x')\n    return 0\n",
    "a program that forges its result": (
        "import os\nfor i in range(3, 20):\n    try:\n        os.write(i, b'{\"results\": []}')\n"
        "    except OSError:\n        pass\nos._exit(0)\n"
    ),
    "a program that looks for its tests": (
        "import gc\ndef f(v):\n"
        "    return [o for o in gc.get_objects() if isinstance(o, dict)][0].get('tests')\n"
    ),
}


def attacked(checked: Checked[P], problems: Sequence[P]) -> Iterator[TaskFinding]:
    """A finding for each attack; attacks with another problem's answer take one that differs."""
    others = [_different(checked, problem, problems, index) for index, problem in enumerate(problems)]
    for what, attack in ATTACKS.items():
        if what in _HOLDING and not checked.exclusive:
            continue
        tried = problems[:20] if "million" in what else problems
        pairs = [(one, other) for one, other in zip(tried, others, strict=False) if other is not None]
        replies = [attack(checked, problem, other) for problem, other in pairs]
        pay = partial(checked.pay, [problem for problem, _ in pairs], replies)
        yield earns(what, 0.0, pay, checked.worst)
    if "```" in checked.oracle(problems[0]):
        for what, code in _PROGRAMS.items():
            few = problems[:3]
            pay = partial(checked.pay, few, [f"```python\n{code}```"] * len(few))
            yield earns(what, 0.0, pay, checked.worst)


def earns(what: str, wanted: float, pay: Callable[[], Sequence[Paid]], worst: float = WORST) -> TaskFinding:
    """Whether replies earn about `wanted` (1 exactly, 0 up to `worst`), and the checker never fails."""
    try:
        paid = pay()
    except Exception as error:
        return TaskFinding(what, False, f"the checker raised {error_line(error)}")
    if not paid:
        return TaskFinding(what, True, "there is nothing to try it on")
    failed = [one for one in paid if one.failed]
    if failed:
        return TaskFinding(what, False, f"the checker failed on {len(failed)}: {failed[0].why}")
    mean = sum(one.reward for one in paid) / len(paid)
    if wanted == 1.0:
        wrong = next((one for one in paid if one.reward != 1.0), None)
        said = f" ({wrong.why})" if wrong is not None and wrong.why else ""
        return TaskFinding(what, wrong is None, f"earns {mean:.3g}{said}")
    return TaskFinding(what, mean <= worst, f"earns {mean:.3g}")


def error_line(error: BaseException) -> str:
    """An unexpected error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _different(checked: Checked[P], problem: P, problems: Sequence[P], index: int) -> P | None:
    """A problem with another answer."""
    behind = [*problems[index + 1 :], *problems[:index]]
    return next((other for other in behind if checked.answer(other) != checked.answer(problem)), None)
