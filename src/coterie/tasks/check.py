"""The check that a task must pass before anything is trained on it.

A reward that pays for anything but the right answer will be found by the model that is trained on it. So the
checker is tried first: right replies earn 1, the same problem comes again, and replies that know nothing earn
next to nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from coterie.config.errors import CoterieError
from coterie.sandbox.tools import call_tool
from coterie.tasks.problem import SPLITS, TaskError, TaskFamily, TaskProblem, TaskVerdict

COUNT = 200
WORST = 0.05  # the mean reward that an attack may earn
SLOW_SECONDS = 0.005  # of one verdict, the median, by checkers that run in this process
_LONG = 1_000_000

Attack = Callable[[TaskFamily, TaskProblem, TaskProblem], str]
_CIRCLED = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")


def _listed(family: TaskFamily, problem: TaskProblem, other: TaskProblem) -> str:
    return "\n".join(f"Answer: {one}" for one in [*family.candidates(problem), problem.answer])


def _hedged(family: TaskFamily, problem: TaskProblem, other: TaskProblem) -> str:
    listed = [*family.candidates(problem), problem.answer]
    return f"Answer: {' or '.join(dict.fromkeys(listed))} or maybe something else entirely"


ATTACKS: dict[str, Attack] = {
    "an empty reply": lambda family, problem, other: "",
    "spaces": lambda family, problem, other: " \n\t ",
    "the prompt again": lambda family, problem, other: problem.prompt,
    "the prompt as answer": lambda family, problem, other: f"Answer: {problem.prompt}",
    "the form alone": lambda family, problem, other: "Answer: ",
    "the answer of another problem": lambda family, problem, other: family.oracle(other),
    "every candidate, a line each": _listed,
    "every candidate in one line": _hedged,
    "the right answer, then another": lambda family, problem, other: (
        f"{family.oracle(problem)}\n{family.oracle(other)}"
    ),
    "another answer, then the right one": lambda family, problem, other: (
        f"{family.oracle(other)}\n{family.oracle(problem)}"
    ),
    "the right answer with words behind it": lambda family, problem, other: (
        f"Answer: {problem.answer} or so, give or take"
    ),
    "the right answer in digits of another script": lambda family, problem, other: (
        f"Answer: {problem.answer.translate(_CIRCLED)}!"
    ),
    "a million characters": lambda family, problem, other: "Answer" * (_LONG // 6),
    "a million brackets": lambda family, problem, other: "Answer: " + "[" * _LONG,
    "a number without end": lambda family, problem, other: "Answer: " + "9" * 100_000,
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


@dataclass(frozen=True)
class TaskFinding:
    """One thing that was tried: what, whether it went as it must, and what came of it."""

    what: str
    passed: bool
    result: str


@dataclass(frozen=True)
class TaskReport:
    """What the check of a task found. A task may be trained on if it `passed`."""

    task: str
    version: int
    problems: int
    findings: tuple[TaskFinding, ...]

    @property
    def passed(self) -> bool:
        """Whether everything went as it must."""
        return all(finding.passed for finding in self.findings)

    @property
    def faults(self) -> list[str]:
        """A line for each thing that did not."""
        return [f"{finding.what}: {finding.result}" for finding in self.findings if not finding.passed]

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {**asdict(self), "passed": self.passed}


def check_task(family: TaskFamily, count: int = COUNT, seed: int = 0) -> TaskReport:
    """Try a task with `count` problems of all its levels. Nothing that it does is raised."""
    try:
        problems = [
            family.problem(family.levels[index % len(family.levels)], index, "train", seed)
            for index in range(count)
        ]
    except Exception as error:
        finding = TaskFinding("problems", False, _line(error))
        return TaskReport(family.name, family.version, 0, (finding,))
    return TaskReport(family.name, family.version, count, tuple(_findings(family, problems, seed)))


def require_passed(family: TaskFamily, count: int = COUNT) -> TaskReport:
    """The report of a task that passes. Errors: `TaskError` with the first fault."""
    report = check_task(family, count)
    if not report.passed:
        more = f" (and {len(report.faults) - 1} more)" if len(report.faults) > 1 else ""
        raise TaskError(
            f"task {family.name}: its check fails: {report.faults[0]}{more}; "
            f"see: coterie task check {family.name}"
        )
    return report


def _findings(family: TaskFamily, problems: list[TaskProblem], seed: int) -> Iterator[TaskFinding]:
    again = [
        family.problem(family.levels[index % len(family.levels)], index, "train", seed)
        for index in range(len(problems))
    ]
    yield TaskFinding("the same problems come again", again == problems, f"{len(problems)} problems")
    yield _splits(family, problems)
    yield _earns(family, problems, [family.oracle(problem) for problem in problems], "a right reply", 1.0)
    yield _earns(family, problems, [family.worked(problem) for problem in problems], "worked steps", 1.0)
    if type(family).judge_all is TaskFamily.judge_all:
        seconds = _seconds(family, problems)
        yield TaskFinding("verdicts are fast", seconds < SLOW_SECONDS, f"{1000 * seconds:.2g} ms each")
    if family.turns(problems[0]):
        yield _replayed(family, problems)
    others = [_different(problem, problems, index) for index, problem in enumerate(problems)]
    for what, attack in ATTACKS.items():
        tried = problems[:20] if "million" in what else problems
        pairs = [(one, other) for one, other in zip(tried, others, strict=False) if other is not None]
        replies = [attack(family, problem, other) for problem, other in pairs]
        yield _earns(family, [problem for problem, _ in pairs], replies, what, 0.0)
    if "```" in family.oracle(problems[0]):
        for what, code in _PROGRAMS.items():
            few = problems[:3]
            yield _earns(family, few, [f"```python\n{code}```"] * len(few), what, 0.0)


def _seconds(family: TaskFamily, problems: Sequence[TaskProblem]) -> float:
    """Of one verdict: the median, which a machine that does other work too hardly changes."""
    taken = []
    for problem in problems:
        reply = family.oracle(problem)
        started = time.perf_counter()
        with contextlib.suppress(Exception):  # it is reported elsewhere
            family.judge(problem, reply)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def _splits(family: TaskFamily, problems: Sequence[TaskProblem]) -> TaskFinding:
    """No problem of one split is drawn for another."""
    wrong = 0
    for split in SPLITS:
        for index in range(20):
            try:
                wrong += family.problem(family.levels[len(family.levels) // 2], index, split).split != split
            except CoterieError:
                break
    wrong += sum(problem.split != "train" and problem.level < 10 for problem in problems)
    return TaskFinding("splits are apart", wrong == 0, f"{wrong} problems in the wrong split")


def _replayed(family: TaskFamily, problems: Sequence[TaskProblem]) -> TaskFinding:
    """The calls of the right way give the results that it shows."""
    wrong = []
    for problem in problems:
        tools = {tool.name: tool for tool in family.tools(problem)}
        turns = family.turns(problem)
        for turn, result in itertools.pairwise(turns):
            for call in turn.get("tool_calls", ()):
                named = call["function"]
                said = call_tool(tools[named["name"]], named["arguments"])
                if said != result["content"]:
                    wrong.append(f"{named['name']} gave {said!r:.60}, not {result['content']!r:.60}")
    return TaskFinding("the calls of a right way", not wrong, wrong[0] if wrong else "as shown")


def _different(problem: TaskProblem, problems: list[TaskProblem], index: int) -> TaskProblem | None:
    """A problem with another answer."""
    behind = [*problems[index + 1 :], *problems[:index]]
    return next((other for other in behind if other.answer != problem.answer), None)


def _earns(
    family: TaskFamily, problems: Sequence[TaskProblem], replies: Sequence[str], what: str, wanted: float
) -> TaskFinding:
    """Whether replies earn about `wanted` (1 exactly, 0 up to `WORST`), and the checker never fails."""
    if not problems:
        return TaskFinding(what, True, "there is nothing to try it on")
    try:
        verdicts: list[TaskVerdict] = family.judge_all(problems, replies)
    except Exception as error:
        return TaskFinding(what, False, f"the checker raised {_line(error)}")
    failed = [verdict for verdict in verdicts if verdict.failed]
    if failed:
        return TaskFinding(what, False, f"the checker failed on {len(failed)}: {failed[0].why}")
    rewards = [verdict.reward() for verdict in verdicts]
    mean = sum(rewards) / len(rewards)
    if wanted == 1.0:
        wrong = next((v for v, reward in zip(verdicts, rewards, strict=True) if reward != 1.0), None)
        said = f" ({wrong.why})" if wrong is not None and wrong.why else ""
        return TaskFinding(what, wrong is None, f"earns {mean:.3g}{said}")
    return TaskFinding(what, mean <= WORST, f"earns {mean:.3g}")


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
