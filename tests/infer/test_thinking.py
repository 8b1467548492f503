"""A bound on reasoning by hand, and through the Python face under templates of every kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from coterie.config import ConfigError
from coterie.infer.model import LanguageModel
from coterie.infer.thinking import ThinkingBudget, ThinkingWish
from coterie.text.chat import shipped_template
from coterie.text.replies import parse_reply
from coterie.text.reply_formats import format_of
from coterie.text.tokenizer import Tokenizer
from tests.infer.models import tiny_model

ASK = [{"role": "user", "content": "Hello"}]
PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"
TEXTS = ["Once upon a time there was a little fox. Hello, user! <|channel|>analysis<|message|>"] * 4


def model(template: str) -> LanguageModel:
    tokenizer = Tokenizer.train(TEXTS, 330)
    tokenizer.chat_template = template
    return LanguageModel(tiny_model("dense", vocab_size=tokenizer.vocab_size, max_positions=256), tokenizer)


def thinking(made: LanguageModel, **settings: Any) -> tuple[int, str, str]:
    """Tokens of reasoning, the reasoning and the answer of a model that always begins to reason."""
    tokenizer = made.tokenizer
    assert tokenizer is not None
    opens, closes = (tokenizer.added_tokens[mark] for mark in ("<think>", "</think>"))
    made.stop_ids = ()
    bias = ((opens, 4.0), (closes, -100.0))  # it reasons for ever unless it is stopped
    reply = made.chat(ASK, temperature=0, max_tokens=40, logit_bias=bias, **settings)
    place = reply.ids.index(closes) if closes in reply.ids else len(reply.ids)
    said = parse_reply(reply.text, format_of(tokenizer.chat_template))
    return place, said.reasoning or "", said.text


def bound(budget: int, opened: bool, name: str = "qwen3") -> tuple[ThinkingBudget, Tokenizer]:
    tokenizer = Tokenizer.train(TEXTS, 330)
    form = format_of(shipped_template(name))
    return ThinkingBudget(budget, form, tokenizer, tokenizer.vocab_size, opened), tokenizer


def only(kept: ThinkingBudget) -> int:
    mask_V = kept.allowed()
    assert mask_V is not None and int(mask_V.sum()) == 1
    return int(mask_V.nonzero())


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("budget", [0, 1, 3])
def test_reasoning_ends_after_the_budget_and_does_not_begin_again(budget, opened):
    kept, tokenizer = bound(budget, opened)
    opens, closes = (tokenizer.added_tokens[mark] for mark in ("<think>", "</think>"))
    if not opened:
        assert kept.allowed() is None
        kept.accept(opens)
    for token in tokenizer.encode("abc")[:1] * budget:
        assert kept.allowed() is None
        kept.accept(token)
    assert only(kept) == closes
    kept.accept(closes)
    mask_V = kept.allowed()
    assert mask_V is not None and not mask_V[opens] and int(mask_V.sum()) == tokenizer.vocab_size - 1


def test_reasoning_that_ends_by_itself_is_not_touched():
    kept, tokenizer = bound(3, True)
    kept.accept(tokenizer.encode("a")[0])
    kept.accept(tokenizer.added_tokens["</think>"])
    for token in tokenizer.encode("an answer of many more tokens"):
        assert kept.allowed() is None
        kept.accept(token)


def test_an_inner_filter_is_kept_to():
    class OnlyA:
        failure = None

        def __init__(self, size: int) -> None:
            self.mask = torch.zeros(size, dtype=torch.bool)

        def allowed(self):
            return self.mask

        def accept(self, token: int) -> None:
            self.mask[token] = True

    tokenizer = Tokenizer.train(TEXTS, 330)
    inner = OnlyA(tokenizer.vocab_size)
    form = format_of(shipped_template("qwen3"))
    kept = ThinkingBudget(0, form, tokenizer, tokenizer.vocab_size, True, inner)
    kept.accept(only(kept))
    assert kept.allowed() is not None and kept.allowed().nonzero().flatten().tolist() == [
        tokenizer.added_tokens["</think>"]
    ]


@pytest.mark.parametrize(
    ("settings", "most"),
    [({"think_budget": 5}, 5), ({"effort": "low"}, 8), ({"effort": "minimal"}, 4), ({"think_budget": 0}, 0)],
)
def test_the_answer_still_comes(settings, most):
    place, reasoning, answer = thinking(model(shipped_template("chatml")), **settings)
    assert place <= most + 1 and len(answer) > 0
    assert bool(reasoning) == (most > 0) or place == 0


def test_a_text_prompt_is_bounded_too():
    made = model(shipped_template("chatml"))
    closes = made.tokenizer.added_tokens["</think>"]
    opens = made.tokenizer.added_tokens["<think>"]
    ids = [*made.encode("Hello"), opens]
    reply = made.generate(ids, temperature=0, max_tokens=20, stop_ids=(), think_budget=4)
    assert reply.ids.index(closes) <= 4
    assert made.generate(ids, temperature=0, max_tokens=20, stop_ids=(), effort="low").ids.index(closes) <= 4
    pieces = "".join(made.stream(ids, temperature=0, max_tokens=20, stop_ids=(), think_budget=4))
    assert pieces == reply.text


def test_variables_reach_the_template():
    made = model(shipped_template("qwen3"))
    off = made.tokenizer.decode(made._asked(ASK, ThinkingWish("none"), made.sampling)[0])
    assert off.endswith("<think>\n\n</think>\n\n")
    made = model(shipped_template("gpt_oss"))
    high = made.tokenizer.decode(made._asked(ASK, ThinkingWish("max"), made.sampling)[0])
    assert "Reasoning: high" in high


def test_what_cannot_be_met_is_refused():
    for wish in ({"effort": "low"}, {"think_budget": 3}):
        with pytest.raises(ConfigError, match="knows no reasoning"):
            model(PLAIN).chat(ASK, max_tokens=2, **wish)
    assert model(PLAIN).chat(ASK, max_tokens=2, effort="none").ids
    with pytest.raises(ConfigError, match=r"unknown value 'hihg'.*'high'"):
        ThinkingWish("hihg")
    with pytest.raises(ConfigError, match="give one of them"):
        ThinkingWish("low", 3)
    with pytest.raises(ConfigError, match="0 or more"):
        ThinkingWish(None, -1)
