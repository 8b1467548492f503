"""The tasks of `coterie task` as benchmarks: problems of the split `test`, which nothing is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar

from coterie.benchmarks.answers import anywhere, asked, reworded
from coterie.benchmarks.generated import GeneratedSettings
from coterie.benchmarks.item import Benchmark, BenchmarkItem, ItemReply, ItemVerdict
from coterie.config import ConfigError
from coterie.primer.base import Rng
from coterie.sandbox.tools import Tool
from coterie.tasks import TASKS
from coterie.tasks.levels import read_levels
from coterie.tasks.problem import Split, TaskFamily, TaskProblem, TaskVerdict
from coterie.tasks.rows import INSTRUCTION
from coterie.tasks.small_programs import SmallPrograms

_CODE = "Reply with one block of Python code between lines of three backticks."


class TaskItemSettings(GeneratedSettings):
    """`levels`: such as 0-4 (default: all that are trained on). `split`: `train` shows what was learnt.

    `instruction`: the message says how to answer. Turn it off for a model that was trained on bare problems.
    """

    levels: str | int | None = None
    split: Split = "test"
    instruction: bool = True


class TaskBenchmark(Benchmark):
    """Problems of one task. Its levels are the clusters, and the groups with a score to themselves."""

    settings_type: ClassVar[type[TaskItemSettings]] = TaskItemSettings
    cluster_key = "level"

    def __init__(self, family: TaskFamily, settings: TaskItemSettings | None = None) -> None:
        self.settings = settings or TaskItemSettings()
        self.family = family
        self.name, self.says, self.version = family.name, family.says, str(family.version)
        self.executes = isinstance(family, SmallPrograms)
        self._form = _CODE if self.executes else INSTRUCTION
        self._exact = type(family).judge is TaskFamily.judge  # by the line `Answer: ...`

    def items(self) -> Sequence[BenchmarkItem]:
        """`n` different problems, the levels in turn. Errors: `ConfigError` where there are fewer."""
        return self._items

    @cached_property
    def _items(self) -> tuple[BenchmarkItem, ...]:
        text = self.settings.levels
        levels = read_levels(None if text is None else str(text), self.family.levels)
        n, split = self.settings.n, self.settings.split
        found: dict[str, BenchmarkItem] = {}  # by prompt: two levels may draw the same
        for problem in self.family.problems(levels, 2 * n + 100, split, self.settings.seed, fewer=True):
            found.setdefault(problem.prompt, self._item(problem))
            if len(found) == n:
                return tuple(found.values())
        raise ConfigError(
            f"benchmark {self.name}: the split {split} has only {len(found)} items at these levels, "
            f"not {n}; ask for n={len(found)}"
        )

    def _item(self, problem: TaskProblem) -> BenchmarkItem:
        said = asked(problem.prompt, self._form) if self.settings.instruction else problem.prompt
        level = f"level {problem.level}"
        return BenchmarkItem(
            id=problem.id,
            turns=({"role": "user", "content": said},),
            answer=problem.answer,
            cluster=level,
            group=level,
            tools=tuple(tool.spec() for tool in self.family.tools(problem)),
            facts={"level": problem.level, "prompt": problem.prompt, "known": dict(problem.facts)},
            source={"license": "Apache-2.0", "source": f"coterie task {self.name} {self.version}"},
        )

    def _problem(self, item: BenchmarkItem) -> TaskProblem:
        facts = item.facts
        return TaskProblem(self.name, facts["level"], facts["prompt"], item.answer, facts=facts["known"])

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """What the task's checker says."""
        return self.judge_all([item], [reply])[0]

    def judge_all(self, items: Sequence[BenchmarkItem], replies: Sequence[ItemReply]) -> list[ItemVerdict]:
        """The same for many replies; programs run at the same time."""
        problems = [self._problem(item) for item in items]
        verdicts = self.family.judge_all(problems, [reply.text for reply in replies])
        return [
            self._verdict(problem, reply.text, verdict)
            for problem, reply, verdict in zip(problems, replies, verdicts, strict=True)
        ]

    def _verdict(self, problem: TaskProblem, text: str, verdict: TaskVerdict) -> ItemVerdict:
        lenient = None
        if self._exact:
            found = verdict.right or any(self.family.equal(problem, one) for one in anywhere(text))
            lenient = float(found)
        return ItemVerdict(
            score=float(verdict.right),
            extracted=verdict.extracted,
            lenient=lenient,
            unparsed=verdict.extracted is None and not verdict.failed,
            failed=verdict.failed,
            why=verdict.why,
        )

    def environment(self, item: BenchmarkItem) -> Sequence[Tool]:
        """The task's tools."""
        return self.family.tools(self._problem(item))

    def rewordings(self, item: BenchmarkItem) -> Sequence[str]:
        """Other frames, and other words for the form of the answer."""
        return reworded(item.question, self._form)

    def twins(self, item: BenchmarkItem, count: int) -> Sequence[BenchmarkItem]:
        """Other problems of the level and the split."""
        level, seed = item.facts["level"], Rng("twins", item.digest).between(1, 2**31)
        drawn = self.family.problems((level,), count + 1, self.settings.split, seed, fewer=True)
        return list(islice((self._item(one) for one in drawn if one.prompt != item.facts["prompt"]), count))

    def oracle(self, item: BenchmarkItem) -> ItemReply | None:
        """The task's right reply."""
        return ItemReply(text=self.family.oracle(self._problem(item)))

    def candidates(self, item: BenchmarkItem) -> Sequence[str]:
        """Those of the task."""
        return self.family.candidates(self._problem(item))

    def recipe(self) -> dict[str, Any]:
        """Name and settings."""
        return {"name": self.name, "settings": self.settings.to_dict()}


def task_benchmark(name: str, settings: TaskItemSettings | None = None) -> TaskBenchmark:
    """The benchmark of a built-in task."""
    return TaskBenchmark(TASKS[name](), settings)
