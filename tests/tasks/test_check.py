"""The check of tasks: the built-in ones pass, and each kind of fault is found."""

from __future__ import annotations

import itertools
import sys
import time

import pytest

from coterie.primer.base import Rng
from coterie.tasks import TASKS, load_task
from coterie.tasks.battery import ATTACKS
from coterie.tasks.check import check_task, require_passed
from coterie.tasks.parity import Parity
from coterie.tasks.problem import TaskError, TaskProblem, TaskVerdict
from coterie.tasks.tool_chains import ToolChains


@pytest.mark.parametrize("name", [name for name in TASKS if name != "programs"])
def test_built_in_tasks_pass(name: str) -> None:
    report = check_task(load_task(name), 60)
    assert report.passed, report.faults
    assert len(report.findings) >= len(ATTACKS) + 5


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the sandbox needs Linux")
def test_programs_pass() -> None:
    report = check_task(load_task("programs"), 60)
    assert report.passed, report.faults


class Lenient(Parity):
    """Pays for any reply that holds the answer somewhere."""

    def judge(self, problem: TaskProblem, reply: str) -> TaskVerdict:
        return TaskVerdict.of(problem.answer in reply, None)


class Truthy(Parity):
    """Pays for any text, as a published scorer does."""

    def judge(self, problem: TaskProblem, reply: str) -> TaskVerdict:
        return TaskVerdict.of(bool(reply) == bool(problem.answer), None)


class Raising(Parity):
    def equal(self, problem: TaskProblem, found: str) -> bool:
        return int(found) == int(problem.answer)


class Harsh(Parity):
    def equal(self, problem: TaskProblem, found: str) -> bool:
        return found == problem.answer == "1"


class Restless(Parity):
    def draw(self, rng: Rng, level: int) -> TaskProblem:
        Restless.drawn += 1
        return TaskProblem(self.name, level, f"Parity of {Restless.drawn}?", str(Restless.drawn % 2))

    drawn = 0


class Failing(Parity):
    def judge(self, problem: TaskProblem, reply: str) -> TaskVerdict:
        return TaskVerdict({}, None, "the disk is full", failed=True)


class Lying(ToolChains):
    def turns(self, problem: TaskProblem) -> list[dict[str, object]]:
        said = super().turns(problem)
        return [{**turn, "content": "1"} if turn.get("name") == "lookup" else turn for turn in said]


@pytest.mark.parametrize(
    ("family", "fault"),
    [
        (Lenient, "every candidate, a line each: earns 1"),
        (Truthy, "spaces: earns 1"),
        (Raising, "the checker raised ValueError"),
        (Harsh, "a right reply: earns 0."),
        (Restless, "the same problems come again"),
        (Failing, "a right reply: the checker failed on 60: the disk is full"),
        (Lying, "the calls of a right way: lookup gave"),
    ],
)
def test_each_fault_is_found(family: type[Parity], fault: str) -> None:
    report = check_task(family(), 60)
    assert not report.passed
    assert any(fault in line for line in report.faults), report.faults
    with pytest.raises(TaskError, match=r"its check fails: .*see: coterie task check"):
        require_passed(family(), 60)


def test_a_slow_checker_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Parity):
        def judge(self, problem: TaskProblem, reply: str) -> TaskVerdict:
            time.sleep(0.006)
            return super().judge(problem, reply)

    assert any("verdicts are fast" in fault for fault in check_task(Slow(), 5).faults)
    # A machine that does other work holds up some verdicts, which is no fault of the checker.
    clock, held = time.perf_counter, itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + 0.1 * (next(held) // 7))
    assert check_task(Parity(), 60).passed
