"""What is scored: a model in this process or behind a URL, asked in the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from coterie.benchmarks.item import BenchmarkItem, ItemReply
from coterie.evaluate.asking import Form, ReplyOptions
from coterie.evaluate.continuations import ContinuationScore
from coterie.results.evaluation import ExecProfile, ModelIdentity, PromptFacts
from coterie.sandbox.tools import Tool

Environment = Callable[[BenchmarkItem], Sequence[Tool]]


def no_tools(item: BenchmarkItem) -> Sequence[Tool]:
    """The environment of items without working tools."""
    return ()


def weighed(item: BenchmarkItem, scores: Sequence[ContinuationScore]) -> ItemReply:
    """The scores of an item's choices as a reply."""
    return ItemReply(
        logprobs=tuple(score.logprob for score in scores),
        lengths=tuple(len(choice.encode()) for choice in item.choices),
        greedy=tuple(score.greedy for score in scores),
    )


class Subject(Protocol):
    """A model that answers items. Errors of all methods: `CoterieError`, one line.

    `identity`: which model it is; `profile`: what runs it.
    """

    @property
    def identity(self) -> ModelIdentity: ...

    @property
    def profile(self) -> ExecProfile: ...

    def form(self, options: ReplyOptions) -> Form:
        """The form that items are asked in. Errors: `ConfigError` for one that this model cannot take."""
        ...

    def facts(self, options: ReplyOptions, extractor: str) -> PromptFacts:
        """What the model is given besides the items' texts. `extractor`: digest of what reads replies."""
        ...

    def too_long(self, items: Sequence[BenchmarkItem], options: ReplyOptions, weigh: bool) -> dict[str, str]:
        """The ids of items that do not fit into the model's positions, with the reason in words.

        `weigh`: choices are weighed, so no room for a reply is needed.
        """
        ...

    def replies(
        self, items: Sequence[BenchmarkItem], options: ReplyOptions, environment: Environment = no_tools
    ) -> list[ItemReply]:
        """One reply to each item, in their order; tools of the environment are called until it answers."""
        ...

    def choice_logprobs(self, items: Sequence[BenchmarkItem], options: ReplyOptions) -> list[ItemReply]:
        """The log-probability of each choice of each item, summed over its tokens."""
        ...

    def loglikelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[ContinuationScore]:
        """The score of each text as the continuation of the text before it, tokenised together."""
        ...

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """The log-probability of each whole text; one that is too long is read in parts."""
        ...
