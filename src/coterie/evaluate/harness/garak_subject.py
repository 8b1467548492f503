"""A subject that answers a probe of garak, whose detector reads the replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from coterie.benchmarks.item import BenchmarkItem, ItemReply
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.harness.garak_probe import GarakBenchmark, HeldReplies
from coterie.evaluate.harness.judged import JudgedReply, JudgingSubject
from coterie.evaluate.subject import Environment, Subject, no_tools

_FIELDS = tuple(one.name for one in fields(ItemReply))


class GarakSubject(JudgingSubject):
    """`inner`, asked the prompts of a probe; then garak goes through its attempts with the replies."""

    def __init__(self, inner: Subject, benchmark: GarakBenchmark) -> None:
        super().__init__(inner, benchmark)
        self.benchmark = benchmark

    def too_long(self, items: Sequence[BenchmarkItem], options: ReplyOptions, weigh: bool) -> dict[str, str]:
        """See `Subject`. A probe's prompts are known."""
        return self.inner.too_long(items, options, weigh)

    def replies(
        self, items: Sequence[BenchmarkItem], options: ReplyOptions, environment: Environment = no_tools
    ) -> list[ItemReply]:
        """See `Subject`. Errors: `ConfigError`, one line, where garak's detector does not work."""
        found = self.inner.replies(items, options)
        texts = {int(item.id): reply.text for item, reply in zip(items, found, strict=True)}
        attempts = self.benchmark.attempts(HeldReplies(texts.get))
        return [
            JudgedReply(
                **{name: getattr(reply, name) for name in _FIELDS},
                verdict=self.benchmark.verdict(attempts[int(item.id)]),
            )
            for item, reply in zip(items, found, strict=True)
        ]
