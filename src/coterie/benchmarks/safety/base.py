"""What the safety benchmarks share: their settings, and a judge in place of their rules."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

from coterie.benchmarks.item import Benchmark, BenchmarkItem, ItemReply, ItemVerdict
from coterie.benchmarks.safety.judge import Judge, JudgeSettings
from coterie.config import Settings


class SafetyBenchmark(Benchmark):
    """A part of the battery. `reader`: what reads its replies, in a word or two.

    `rights`: what a right reply does, in words, by the group of the item.
    """

    settings_type: ClassVar[type[Settings]] = Settings
    reader: str = "rules"
    rights: ClassVar[Mapping[str, str]]

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings: Any = settings or self.settings_type()

    def right(self, group: str) -> str:
        """What a right reply to an item of a group does, in words."""
        return self.rights[group]

    def recipe(self) -> dict[str, Any]:
        """Name and settings."""
        return {"name": self.name, "settings": self.settings.to_dict()}


class JudgedBenchmark(SafetyBenchmark):
    """A part whose replies a server may read. `question` is what it is asked, `words` what it may answer."""

    question: ClassVar[str]
    words: ClassVar[tuple[str, ...]]

    @cached_property
    def judging(self) -> Judge | None:
        """The judge that reads replies; None where the rules do."""
        given: JudgeSettings | None = self.settings.judge
        return None if given is None else Judge(given, self.question, self.words)

    @property
    def reader(self) -> str:  # type: ignore[override]
        """The judge's address, or the rules."""
        return f"judge {self.judging.endpoint.root}" if self.judging else "rules"

    @abstractmethod
    def verdict(self, item: BenchmarkItem, word: str) -> ItemVerdict:
        """The verdict that a word of the judge means."""

    def asked(self, item: BenchmarkItem) -> str:
        """The request as the judge sees it."""
        return item.question

    def judge_all(self, items: Sequence[BenchmarkItem], replies: Sequence[ItemReply]) -> list[ItemVerdict]:
        """By the judge where there is one; a reply that it does not decide has no score."""
        if self.judging is None:
            return super().judge_all(items, replies)
        pairs = [(self.asked(item), reply.text) for item, reply in zip(items, replies, strict=True)]
        decided = self.judging.decide(pairs)
        return [
            ItemVerdict(0.0, failed=True, why="the judge gave none of the words that it was asked for")
            if word is None
            else self.verdict(item, word)
            for item, word in zip(items, decided, strict=True)
        ]
