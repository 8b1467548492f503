"""A reply as a process: the steps of its reasoning and its words, its calls, and what a program can check.

A step is a numbered point where a text has several, else a paragraph where it has several, else a line.
Fenced code stays whole. Each step has the tokens that were written for it, their mean log-probability, and
checks of the arithmetic that it claims (`reasoning.sums`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from coterie.reasoning.sums import SumCheck, check_sums
from coterie.text.replies import Delta

StepPart = Literal["reasoning", "content", "call"]
Written = tuple[StepPart, str, bool]  # where new words belong, they, and whether they begin a further call
_NUMBERED = re.compile(r"\s*(?:#+\s*|\*\*)?(?:step\s+)?\d{1,3}\s*[.):]\s", re.IGNORECASE)


@dataclass(frozen=True)
class ReplyStep:
    """One step: where it belongs, its words, its tokens and their mean log-probability, its checks."""

    part: StepPart
    text: str
    tokens: int
    mean_logprob: float
    checks: tuple[SumCheck, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        facts = {"part": self.part, "text": self.text, "tokens": self.tokens}
        facts["mean_logprob"] = max(self.mean_logprob, -9999.0)
        return facts | {"checks": [check.to_dict() for check in self.checks]}


@dataclass(frozen=True)
class ReplyProcess:
    """A whole reply, in the order in which it was written."""

    steps: tuple[ReplyStep, ...]

    def count(self, right: bool) -> int:
        """How many checks are right, or wrong."""
        return sum(check.right is right for step in self.steps for check in step.checks)

    def to_dict(self) -> dict[str, Any]:
        """As JSON: the steps, and how many checks are right and wrong."""
        counts = {"right": self.count(True), "wrong": self.count(False)}
        return {"steps": [step.to_dict() for step in self.steps], "checks": counts}


@dataclass
class _PartText:
    """Text of one part in one piece, and its tokens: (place in the text, log-probability)."""

    part: StepPart
    text: str = ""
    tokens: list[tuple[int, float]] = field(default_factory=list)


class ProcessReader:
    """Puts the process together from the tokens of one reply, as they come.

    Tokens without words (the marks around reasoning) belong to what is written next.
    """

    def __init__(self) -> None:
        self._runs: list[_PartText] = []
        self._waiting: list[float] = []

    def add(self, logprob: float, written: Sequence[Written]) -> None:
        """One token, and the words that it made certain, in order."""
        self._waiting.append(logprob)
        for part, text, begins in written:
            if not self._runs or begins or self._runs[-1].part != part:
                self._runs.append(_PartText(part))
            run = self._runs[-1]
            run.tokens += [(len(run.text), one) for one in self._waiting]
            run.text += text
            self._waiting = []

    def process(self) -> ReplyProcess:
        """What has come so far."""
        steps: list[ReplyStep] = []
        for at, run in enumerate(self._runs):
            tokens = list(run.tokens)
            if at + 1 == len(self._runs):
                tokens += [(len(run.text), one) for one in self._waiting]
            steps += _steps(run.part, run.text, tokens)
        return ReplyProcess(tuple(steps))


def step_parts(delta: Delta, inside: bool) -> list[Written]:
    """The words of a delta for `ProcessReader`, calls with their names. `inside`: as `Delta.in_order`."""
    words: list[Written] = []
    for kind, given in delta.in_order(inside):
        if kind == "call":
            part = given[0]
            if part is not None:
                named = "" if part.name is None else f"{part.name} "
                words.append(("call", named + part.arguments, part.name is not None))
        else:
            words.append(("reasoning" if kind == "reasoning" else "content", given, False))
    return words


def _steps(part: StepPart, text: str, tokens: Sequence[tuple[int, float]]) -> Iterator[ReplyStep]:
    """The steps of a run; each token belongs to the step in which its text begins."""
    starts = [0] if part == "call" else [*step_starts(text)]
    for start, end in zip(starts, [*starts[1:], len(text) + 1], strict=True):
        own = [value for place, value in tokens if start <= place < end]
        words = text[start:end].strip()
        if words or own:
            mean = math.fsum(own) / len(own) if own else 0.0
            yield ReplyStep(part, words, len(own), mean, tuple(check_sums(words)))


def step_starts(text: str) -> Iterator[int]:
    """Where the steps of a text begin; the first one at 0."""
    lines = [*_lines(text)]
    numbered = [start for start, line, _ in lines if _NUMBERED.match(line)]
    paragraphs = [start for start, line, after_gap in lines if after_gap and line.strip()]
    if len(numbered) > 1:
        starts = numbered
    elif paragraphs:
        starts = paragraphs
    else:
        starts = [start for start, line, _ in lines if line.strip()]
    yield 0
    yield from (start for start in starts if text[:start].strip())


def _lines(text: str) -> Iterator[tuple[int, str, bool]]:
    """The lines outside of fenced code: (place, words, whether an empty line is before it)."""
    start, fenced, gap = 0, False, False
    for line in text.splitlines(keepends=True):
        fence = line.lstrip().startswith("```")
        if not fenced:
            yield start, line, gap
        fenced = fenced != fence
        gap = not fenced and not line.strip()
        start += len(line)
