"""A subject that is asked as lm-eval asks: by its requests as texts, or in chats by the model's own rules."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from coterie.benchmarks.item import BenchmarkItem, ItemReply
from coterie.config import ConfigError
from coterie.evaluate.asking import Form, ReplyOptions
from coterie.evaluate.harness.benchmark import HarnessBenchmark
from coterie.evaluate.harness.model import HarnessModel
from coterie.evaluate.local_subject import LocalSubject
from coterie.evaluate.subject import Environment, Subject, no_tools
from coterie.results.evaluation import PromptFacts


class HarnessSubject:
    """`inner`, asked the items of one task.

    As plain text every token is what lm-eval's Hugging Face backend makes it. In a chat the model's template,
    its reasoning and its end of a turn are those of the project's own tasks. A server is asked for
    log-probabilities of texts, and for replies in chats only.
    Errors: `ConfigError` for plain replies of a server.
    """

    def __init__(self, inner: Subject, benchmark: HarnessBenchmark, seed: int = 0) -> None:
        self.inner, self.benchmark = inner, benchmark
        self.identity, self.profile = inner.identity, inner.profile
        self._model = HarnessModel(inner, seed) if isinstance(inner, LocalSubject) else None
        self._chat = benchmark.chat and benchmark.mode != "text"
        if self._model is None and not self._chat and benchmark.mode == "reply":
            raise ConfigError(
                f"{benchmark.name}: a server writes replies in chats only; say form=chat, or give a directory"
            )

    def form(self, options: ReplyOptions) -> Form:
        """See `Subject`."""
        return self.inner.form(self._options(options))

    def facts(self, options: ReplyOptions, extractor: str) -> PromptFacts:
        """See `Subject`."""
        facts = self.inner.facts(self._options(options), extractor)
        return facts.model_copy(update={"fewshot": self.benchmark.fewshot})

    def too_long(self, items: Sequence[BenchmarkItem], options: ReplyOptions, weigh: bool) -> dict[str, str]:
        """See `Subject`. As plain text nothing is too long: it loses its left end, as in lm-eval."""
        if not self._chat:
            return {}
        found: dict[str, str] = {}
        for item in items:
            for part in self._chats(item) if weigh else [self._talk(item)]:
                found |= self.inner.too_long([part], self._options(options), weigh)
        return found

    def replies(
        self, items: Sequence[BenchmarkItem], options: ReplyOptions, environment: Environment = no_tools
    ) -> list[ItemReply]:
        """See `Subject`."""
        requests = [self.benchmark.requests(item)[0] for item in items]
        if self._chat:
            found = self.inner.replies([self._talk(item) for item in items], self._options(options))
            return [
                replace(reply, text=_cut(reply.text, request.args[1].get("until")))
                for reply, request in zip(found, requests, strict=True)
            ]
        assert self._model is not None
        repeated = [request for request in requests for _ in range(request.repeats or 1)]
        written = iter(self._model.write(repeated))
        result = []
        for request in requests:
            texts = [next(written) for _ in range(request.repeats or 1)]
            turns = [{"role": "assistant", "content": one.text} for one in texts] if len(texts) > 1 else []
            result.append(
                ItemReply(
                    text=texts[0].text,
                    truncated=any(one.truncated for one in texts),
                    tokens=sum(one.tokens for one in texts),
                    turns=tuple(turns),
                )
            )
        return result

    def choice_logprobs(self, items: Sequence[BenchmarkItem], options: ReplyOptions) -> list[ItemReply]:
        """See `Subject`."""
        requests = [self.benchmark.requests(item) for item in items]
        if self._chat:
            return [self._weighed(item, options) for item in items]
        flat = [request for each in requests for request in each]
        if self._model is None:
            scores = self.inner.loglikelihoods([(str(one.args[0]), str(one.args[1])) for one in flat])
            pairs = iter([(score.logprob, score.greedy) for score in scores])
        else:
            pairs = iter(self._model.loglikelihood(flat))
        return [_weights(item, [next(pairs) for _ in item.choices]) for item in items]

    def loglikelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[Any]:
        """See `Subject`."""
        return list(self.inner.loglikelihoods(pairs))

    def rolling(self, texts: Sequence[str]) -> list[float]:
        """See `Subject`."""
        return self.inner.rolling(texts) if self._model is None else self._model.rolling(texts)

    def _options(self, options: ReplyOptions) -> ReplyOptions:
        return replace(options, form="chat" if self._chat else "plain", system=None)

    def _talk(self, item: BenchmarkItem) -> BenchmarkItem:
        """The item with the conversation that lm-eval makes of it: system message, examples, question."""
        return replace(item, turns=tuple(json.loads(item.facts["requests"][0][0])), choices=())

    def _chats(self, item: BenchmarkItem) -> list[BenchmarkItem]:
        """One item for each of the contexts that choices follow, with these choices."""
        by_context: dict[str, list[str]] = {}
        for context, choice in item.facts["requests"]:
            by_context.setdefault(context, []).append(choice)
        if "" in by_context:
            raise ConfigError(f"{self.benchmark.name}: weighs choices without a question; say form=plain")
        return [
            replace(item, turns=tuple(json.loads(context)), choices=tuple(choices))
            for context, choices in by_context.items()
        ]

    def _weighed(self, item: BenchmarkItem, options: ReplyOptions) -> ItemReply:
        found = self.inner.choice_logprobs(self._chats(item), self._options(options))
        sums = [value for reply in found for value in reply.logprobs]
        return _weights(item, [(value, False) for value in sums])


def _weights(item: BenchmarkItem, pairs: Sequence[tuple[float, bool]]) -> ItemReply:
    return ItemReply(
        logprobs=tuple(logprob for logprob, _ in pairs),
        lengths=tuple(len(choice.encode()) for choice in item.choices),
        greedy=tuple(greedy for _, greedy in pairs),
    )


def _cut(text: str, until: str | Sequence[str] | None) -> str:
    """The text before the first of these strings."""
    for end in [until] if isinstance(until, str) else until or []:
        text = text.split(end)[0] if end else text
    return text
