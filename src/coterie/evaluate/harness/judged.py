"""Tasks of programs that ask the model and judge its replies: the verdict comes with the reply."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from coterie.benchmarks.item import Benchmark, BenchmarkItem, ItemReply, ItemVerdict
from coterie.evaluate.asking import Form, ReplyOptions
from coterie.evaluate.continuations import ContinuationScore
from coterie.evaluate.subject import Environment, Subject, no_tools
from coterie.results.evaluation import PromptFacts

_NONE = ItemVerdict(0.0, failed=True, why="has no verdict: another program asks the items and judges them")


@dataclass(frozen=True)
class JudgedReply(ItemReply):
    """A reply with the verdict of the program that asked for it."""

    verdict: ItemVerdict = _NONE


class AskedElsewhere:
    """Part of a benchmark whose items another program asks and judges."""

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        """The verdict that came with the reply; failed where none did."""
        return reply.verdict if isinstance(reply, JudgedReply) else _NONE


class JudgingSubject:
    """`inner`, asked by another program about the items of one of its tasks.

    What does not fit into the model fails item by item, since prompts are made while the program runs.
    """

    def __init__(self, inner: Subject, benchmark: Benchmark) -> None:
        self.inner = inner
        self.name = benchmark.name
        self.identity, self.profile = inner.identity, inner.profile

    def form(self, options: ReplyOptions) -> Form:
        """See `Subject`."""
        return self.inner.form(options)

    def facts(self, options: ReplyOptions, extractor: str) -> PromptFacts:
        """See `Subject`."""
        return self.inner.facts(options, extractor)

    def too_long(self, items: Sequence[BenchmarkItem], options: ReplyOptions, weigh: bool) -> dict[str, str]:
        """See `Subject`. Nothing is known before the program asks."""
        return {}

    @abstractmethod
    def replies(
        self, items: Sequence[BenchmarkItem], options: ReplyOptions, environment: Environment = no_tools
    ) -> list[ItemReply]:
        """See `Subject`."""

    def choice_logprobs(self, items: Sequence[BenchmarkItem], options: ReplyOptions) -> list[ItemReply]:
        """See `Subject`. No task here weighs choices."""
        raise NotImplementedError(self.name)

    def loglikelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[ContinuationScore]:
        """See `Subject`."""
        return self.inner.loglikelihoods(pairs)

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """See `Subject`."""
        return self.inner.rolling(texts)
