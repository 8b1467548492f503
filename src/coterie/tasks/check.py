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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from coterie.config.errors import CoterieError
from coterie.sandbox.tools import call_tool
from coterie.tasks.battery import COUNT, Checked, Paid, TaskFinding, attacked, earns, error_line
from coterie.tasks.problem import SPLITS, TaskError, TaskFamily, TaskProblem

SLOW_SECONDS = 0.005  # of one verdict, the median, by checkers that run in this process


@dataclass(frozen=True)
class TaskReport:
    """What the check of a task found. A task may be trained on if it `passed`."""

    task: str
    version: int | str
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
        finding = TaskFinding("problems", False, error_line(error))
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
    checked = _Family(family)
    for what, right in (("a right reply", family.oracle), ("worked steps", family.worked)):
        yield earns(what, 1.0, partial(checked.pay, problems, [right(problem) for problem in problems]))
    if type(family).judge_all is TaskFamily.judge_all:
        seconds = _seconds(family, problems)
        yield TaskFinding("verdicts are fast", seconds < SLOW_SECONDS, f"{1000 * seconds:.2g} ms each")
    if family.turns(problems[0]):
        yield _replayed(family, problems)
    yield from attacked(checked, problems)


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


class _Family(Checked[TaskProblem]):
    """A task as the battery sees it."""

    def __init__(self, family: TaskFamily) -> None:
        self._family = family

    def prompt(self, problem: TaskProblem) -> str:
        return problem.prompt

    def answer(self, problem: TaskProblem) -> str:
        return problem.answer

    def oracle(self, problem: TaskProblem) -> str:
        return self._family.oracle(problem)

    def candidates(self, problem: TaskProblem) -> list[str]:
        return self._family.candidates(problem)

    def pay(self, problems: Sequence[TaskProblem], replies: Sequence[str]) -> list[Paid]:
        verdicts = self._family.judge_all(problems, replies)
        return [Paid(verdict.reward(), verdict.why, verdict.failed) for verdict in verdicts]
