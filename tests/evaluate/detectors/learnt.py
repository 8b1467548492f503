"""A small test set, and tiny models that have read it over and over, or have not."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import torch

from coterie.benchmarks.canary import canary_item
from coterie.benchmarks.files import items_digest
from coterie.benchmarks.generated import listed, relisted
from coterie.benchmarks.item import Benchmark, BenchmarkItem, ItemReply, ItemVerdict, choice_verdict
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.detectors.item_order import joined
from coterie.evaluate.local_subject import LocalSubject
from coterie.infer.model import LanguageModel
from coterie.nn.logprobs import token_logprobs
from coterie.nn.packed import forward_packed
from coterie.primer.base import Rng
from coterie.primer.words import COLOURS, PLACES, WORDS
from coterie.text.tokenizer import Tokenizer
from tests.evaluate.items import identity_of
from tests.infer.models import tiny_model

OPTIONS = ReplyOptions(max_tokens=8, form="plain")
ITEMS, POSITIONS = 15, 256


class Quiz(Benchmark):
    """Words that belong together by chance alone, so that nobody can know them."""

    name, says, mode, published = "quiz", "which word goes with which", "choice", True

    def __init__(self) -> None:
        self._items = [self._item(Rng("quiz", number), f"q{number:02d}") for number in range(ITEMS)]
        self.canary = canary_item(items_digest(self._items))

    def _item(self, random: Rng, id: str) -> BenchmarkItem:
        words, asked = random.sample(WORDS, 4), f"{random.pick(COLOURS)} {random.pick(PLACES)}"
        turn = {"role": "user", "content": listed(f"Which word goes with {asked}?", words)}
        return BenchmarkItem(id, (turn,), random.between(0, 3), tuple(words))

    def items(self) -> Sequence[BenchmarkItem]:
        return self._items

    def judge(self, item: BenchmarkItem, reply: ItemReply) -> ItemVerdict:
        return choice_verdict(item, reply)

    def twins(self, item: BenchmarkItem, count: int) -> Sequence[BenchmarkItem]:
        return [self._item(Rng("twin", item.id, number), f"{item.id}-{number}") for number in range(count)]

    def rewordings(self, item: BenchmarkItem) -> Sequence[str]:
        return [f"{item.question}\n{word}" for word in ("Now.", "Well?", "Please.", "Quick!")]

    def reordered(self, item: BenchmarkItem, order: Sequence[int]) -> BenchmarkItem | None:
        return relisted(item, order)


@functools.cache
def subject_of(times: int) -> LocalSubject:
    """A model that read the test set as it is in a file, canary last, `times` times."""
    quiz = Quiz()
    assert quiz.canary is not None
    last = replace(quiz.canary, facts={})
    texts = [joined([*quiz.items()[start : start + 3]]) for start in range(0, ITEMS, 3)]
    texts.append(f"{last.question}\n{last.answer}")
    frame = f"Which word goes with\n- Reply {last.question}\n"  # not the texts: words would get shorter there
    words = [f" {word}\n- {word}" for word in (*WORDS, *COLOURS, *PLACES)]
    tokenizer = Tokenizer.train([frame * 9, *words], 600)
    torch.manual_seed(0)
    model = tiny_model("dense", 3, tokenizer.vocab_size, POSITIONS)
    start = list(tokenizer.document_start)
    ids = [[*start, *tokenizer.encode(text)] for text in texts]
    targets = torch.tensor([token for one in ids for token in one[1:]])
    parameters = list(model.parameters())
    means, squares = ([torch.zeros_like(one) for one in parameters] for _ in range(2))
    for step in range(1, times + 1):  # Adam; torch's imports its compiler, which takes long
        h_TD = forward_packed(model, [one[:-1] for one in ids])
        loss = -token_logprobs(h_TD, model.head_weight, targets).mean()
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for one, m, v, g in zip(parameters, means, squares, gradients, strict=True):
                m.lerp_(g, 0.1)
                v.lerp_(g.square(), 0.001)
                one -= 6e-3 * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    loaded = LanguageModel(model.eval(), tokenizer, kernels="torch")
    return LocalSubject(loaded, "tiny", identity=identity_of(str(times)))
