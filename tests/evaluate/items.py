"""A benchmark of a few items for tests, and models that answer it."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from coterie.benchmarks.item import Benchmark, BenchmarkItem, ItemReply, ItemVerdict, choice_verdict
from coterie.infer.model import LanguageModel
from coterie.results.evaluation import ModelIdentity
from tests.infer.models import tiny_model
from tests.text.calling import tokenizer_of

WORDS = "quick brown fox jumps over lazy dog".split()


class Letters(Benchmark):
    """Replies are right where they hold an `e`: a random model's are, now and then."""

    name = "letters"
    says = "Whether a reply holds a letter."
    max_tokens = 8

    def __init__(self, count: int = 12, long: Sequence[int] = ()) -> None:
        self.count, self.long = count, frozenset(long)

    def items(self) -> Sequence[BenchmarkItem]:
        return [
            BenchmarkItem(
                id=f"l{number}",
                turns=({"role": "user", "content": f"{number} " + self._words(number)},),
                answer="e",
                cluster=f"c{number // 2}",
                group="odd" if number % 2 else "even",
            )
            for number in range(self.count)
        ]

    def _words(self, number: int) -> str:
        repeat = 200 if number in self.long else 1 + number % 3
        return " ".join(WORDS[number % 7 :] * repeat)

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        right = item.answer in reply.text
        return ItemVerdict(
            score=float(right), extracted="e" if right else None, lenient=1.0, unparsed=not reply.text
        )


class Choices(Benchmark):
    """Four choices of several lengths, two of which begin alike."""

    name = "choices"
    says = "Which word follows."
    mode = "choice"

    def items(self) -> Sequence[BenchmarkItem]:
        return [
            BenchmarkItem(
                id=f"w{number}",
                turns=({"role": "user", "content": f"{number}: {WORDS[number % 7]} {WORDS[number % 5]}"},),
                answer=number % 4,
                choices=("fox", "fox jumps over", "dog", f"lazy {number}"),
            )
            for number in range(10)
        ]

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        return choice_verdict(item, reply)


@functools.cache
def model_of(
    template: str | None = "chatml", kind: str = "moe", positions: int = 256, seed: int = 3
) -> LanguageModel:
    """A random model, norms included, with a shipped chat template or none."""
    tokenizer = tokenizer_of(template or "chatml")
    if template is None:
        tokenizer.chat_template = None
    return LanguageModel(tiny_model(kind, seed, tokenizer.vocab_size, positions), tokenizer)


def identity_of(name: str) -> ModelIdentity:
    """A stand-in for the digests of a model."""
    return ModelIdentity(name=name, weights_tensors=f"sha256:{name:0>64}")
