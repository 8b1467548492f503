"""A problem whose answer a program can check, the verdict on a reply, and the base of all tasks."""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

from coterie.config.errors import ConfigError, CoterieError
from coterie.primer.base import Rng
from coterie.sandbox.tools import Tool
from coterie.tasks.answers import final_answer

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
LEVELS = range(10)
EXTRA = 10  # one level above those that are trained on
_SIXTEENTHS = {0: "val", 1: "test"}  # of the first hash byte, modulo 16; the rest is trained on
_REPEATED = 20  # problems drawn again in a row, for each that there is, until there are no others
_DRAWS = 10_000  # tries before a level counts as having too few problems of a split


class TaskError(CoterieError):
    """A task that cannot give problems, or whose checker does not give a reward."""


@dataclass(frozen=True)
class TaskProblem:
    """One problem. The model sees `prompt` (and `tools`) alone.

    `answer`: what a right reply ends with, as the checker wants it. `steps`: worked steps to it, or nothing.
    `facts`: what else the checker knows, such as hidden tests. `key`: the problem in its canonical form,
    which decides its split; by default the prompt.
    """

    family: str
    level: int
    prompt: str
    answer: str
    steps: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""

    @cached_property
    def id(self) -> str:
        """A name that is the same in every run: family, level and the hash of the problem."""
        return f"{self.family}/{self.level}/{self._digest().hex()[:12]}"

    @cached_property
    def split(self) -> Split:
        """Which split it belongs to, for ever: one problem in 16 is for `val`, one for `test`.

        The problem alone decides and no seed, so no choice of seeds can bring a test problem into training.
        """
        return _SIXTEENTHS.get(self._digest()[0] % 16, "train")  # type: ignore[return-value]

    def _digest(self) -> bytes:
        return hashlib.sha256(f"task {self.family}\0{self.key or self.prompt}".encode()).digest()


@dataclass(frozen=True)
class TaskVerdict:
    """What a reply earns: named parts, each from 0 to 1; the reward is their weighted sum.

    `extracted`: the answer found in the reply. `why`: one line. `failed`: the checker itself did not work (a
    sandbox that did not start, a reward function that raised). Such a verdict is no reward of 0: its sample
    does not count.
    """

    parts: Mapping[str, float]
    extracted: str | None = None
    why: str = ""
    failed: bool = False

    @property
    def right(self) -> bool:
        """Whether the reply is right: its part `right`, or the whole reward where there is none, is 1."""
        return not self.failed and self.parts.get("right", self.reward()) >= 1.0

    def reward(self, weights: Mapping[str, float] | None = None) -> float:
        """The sum of the parts, each times its weight (default: 1)."""
        weights = weights or {}
        return math.fsum(value * weights.get(name, 1.0) for name, value in self.parts.items())

    @classmethod
    def of(cls, right: bool, extracted: str | None, why: str = "") -> TaskVerdict:
        """The verdict of an exact check."""
        return cls({"right": float(right)}, extracted, why)


class TaskFamily(ABC):
    """Problems of one kind at levels 0 to 9, one level above, and their checker.

    `version` changes with any change of a problem or of a verdict, and belongs to every record of a score.
    `worked_share`: how many rows of `tasks.rows` show the steps, unless told otherwise.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    says: ClassVar[str]
    worked_share: ClassVar[float] = 1.0
    levels: Sequence[int] = (*LEVELS, EXTRA)

    @abstractmethod
    def draw(self, rng: Rng, level: int) -> TaskProblem:
        """A random problem of a level."""

    def judge(self, problem: TaskProblem, reply: str) -> TaskVerdict:
        """The verdict on the text of a reply, without its reasoning. Never raises."""
        found = final_answer(reply)
        if found is None:
            return TaskVerdict.of(False, None, "the reply does not end in one line 'Answer: ...'")
        return TaskVerdict.of(self.equal(problem, found), found)

    def judge_all(self, problems: Sequence[TaskProblem], replies: Sequence[str]) -> list[TaskVerdict]:
        """Verdicts on many replies; for checkers that work on several at once."""
        return [self.judge(problem, reply) for problem, reply in zip(problems, replies, strict=True)]

    def equal(self, problem: TaskProblem, found: str) -> bool:
        """Whether a found answer is right. Never raises."""
        return found == problem.answer

    def tools(self, problem: TaskProblem) -> list[Tool]:
        """The tools that the model may call, made anew for each reply; none by default."""
        return []

    def turns(self, problem: TaskProblem) -> list[dict[str, Any]]:
        """The messages of a right way from the prompt to the last reply: calls and results of tools."""
        return []

    def candidates(self, problem: TaskProblem) -> list[str]:
        """Answers that a guesser would list, for the check of the task (`tasks.check`)."""
        return [str(number) for number in range(10)]

    def oracle(self, problem: TaskProblem) -> str:
        """A right reply without steps."""
        return f"Answer: {problem.answer}"

    def worked(self, problem: TaskProblem) -> str:
        """A right reply with its steps."""
        return f"{problem.steps}\n{self.oracle(problem)}" if problem.steps else self.oracle(problem)

    def problem(self, level: int, index: int, split: Split = "train", seed: int = 0) -> TaskProblem:
        """Problem `index` of a level and split, the same for ever.

        Errors: `ConfigError` for a level that is not there; `TaskError` for one with too few problems.
        """
        if level not in self.levels:
            known = f"{self.levels[0]} to {self.levels[-1]}"
            raise ConfigError(f"task {self.name}: there is no level {level}; choose one of {known}")
        rng = Rng("task", self.name, self.version, level, split, seed, index)
        for _ in range(_DRAWS):
            drawn = self.draw(rng, level)
            if level == EXTRA or drawn.split == split:
                return drawn
        raise TaskError(f"task {self.name}: level {level} has no problem for the split {split}")

    def problems(
        self, levels: Sequence[int], count: int, split: Split = "train", seed: int = 0, fewer: bool = False
    ) -> Iterator[TaskProblem]:
        """`count` different problems, the levels in turn; with `fewer` those that there are.

        Errors: as `problem`; `TaskError` for too few.
        """
        return (drawn for _, drawn in self.numbered(levels, count, split, seed, fewer))

    def numbered(
        self, levels: Sequence[int], count: int, split: Split = "train", seed: int = 0, fewer: bool = False
    ) -> Iterator[tuple[int, TaskProblem]]:
        """What `problems` gives, each with the index that `problem` takes. Errors: as `problems`."""
        seen: set[str] = set()
        index = repeated = 0
        while len(seen) < count:
            drawn = self.problem(levels[index % len(levels)], index, split, seed)
            index += 1
            repeated = repeated + 1 if drawn.id in seen else 0
            if not repeated:
                seen.add(drawn.id)
                yield index - 1, drawn
            elif repeated > _REPEATED * len(seen) + 1000 and fewer:
                return
            elif repeated > _REPEATED * len(seen) + 1000:
                named = ", ".join(map(str, levels))
                raise TaskError(
                    f"task {self.name}: levels {named} have only {len(seen)} problems in the split {split}, "
                    f"not {count}; ask for fewer or for more levels"
                )
