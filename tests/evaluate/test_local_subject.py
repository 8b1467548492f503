"""A model in this process: its template and reasoning, choices, long texts, the same bits in any company."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch

from coterie.benchmarks.item import BenchmarkItem, ItemReply
from coterie.config import ConfigError
from coterie.evaluate.asking import ReplyOptions
from coterie.evaluate.local_subject import LocalSubject, windows
from coterie.infer.model import LanguageModel
from coterie.infer.sampling import SamplingParams
from coterie.native.plan import NativePlan
from coterie.sandbox.tools import Tool
from tests.agents.models import PLAIN
from tests.evaluate.items import Choices, Letters, model_of
from tests.evaluate.scripted import scripted
from tests.infer.models import training_logprobs

OPTIONS = ReplyOptions(max_tokens=8)
BASE = model_of(None)


def subject(template: str | None = "chatml", exact: bool = True) -> LocalSubject:
    return LocalSubject(model_of(template), "tiny", exact)


def shuffled(items: Sequence[BenchmarkItem]) -> list[BenchmarkItem]:
    order = list(items)
    random.Random(4).shuffle(order)
    return order


@pytest.mark.parametrize("template", ["chatml", None])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_an_item_has_one_reply_whatever_else_is_asked(template: str | None, temperature: float) -> None:
    asked, items = subject(template), Letters().items()
    options = ReplyOptions(max_tokens=8, temperature=temperature, seed=5, reasoning_tokens=4)
    together = {item.id: reply for item, reply in zip(items, asked.replies(items, options), strict=True)}
    other = shuffled(items)
    for item, reply in zip(other, asked.replies(other, options), strict=True):
        assert reply == together[item.id]
    assert asked.replies(items[:1], options) == [together[items[0].id]]
    if temperature:
        again = ReplyOptions(max_tokens=8, temperature=temperature, seed=6, reasoning_tokens=4)
        assert asked.replies(items, again) != list(together.values())


@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_replies_share_steps_and_keep_their_bits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = LocalSubject(model_of(None, kind), "tiny")
    draw, size = random.Random(3), asked.model.config.vocab_size
    prompts = [[draw.randrange(size) for _ in range(length)] for length in (1, 7, 32, 33, 64, 90, 90)]
    params = [SamplingParams(temperature=0.9, seed=n, max_tokens=9, stop_ids=()) for n in range(7)]
    steps, run = [], NativePlan.step
    monkeypatch.setattr(NativePlan, "step", lambda *given: (steps.append(len(given[1])), run(*given))[1])
    together = asked.write(prompts, params)
    # Prompts are read in steps too, and most steps carry several sequences.
    assert sum(steps) == sum(map(len, prompts)) + 7 * 8 and len(steps) < sum(steps) / 5
    for order in ([4], [5, 2, 0], [6, 5, 4, 3, 2, 1, 0]):
        again = asked.write([prompts[n] for n in order], [params[n] for n in order])
        for number, reply in zip(order, again, strict=True):
            assert (reply.ids, reply.logprobs) == (together[number].ids, together[number].logprobs)


@pytest.mark.parametrize("template", ["chatml", None])
def test_choices_have_the_same_bits_in_any_company(template: str | None) -> None:
    asked, items = subject(template), Choices().items()
    together = {
        item.id: found for item, found in zip(items, asked.choice_logprobs(items, OPTIONS), strict=True)
    }
    other = shuffled(items)
    for item, found in zip(other, asked.choice_logprobs(other, OPTIONS), strict=True):
        assert found == together[item.id]
    packed = subject(template, exact=False).choice_logprobs(items, OPTIONS)
    for item, found in zip(items, packed, strict=True):
        assert found.logprobs == pytest.approx(together[item.id].logprobs, abs=1e-3)
        assert found.lengths == tuple(len(choice.encode()) for choice in item.choices)


@pytest.mark.parametrize("template", ["chatml", None])
def test_choices_are_weighed_behind_the_prompt(template: str | None) -> None:
    """By the training forward pass over the text as it is written."""
    asked = subject(template)
    item = Choices().items()[3]
    model, question = asked.model, item.question
    if template is None:
        text, gap = f"Question: {question}\nAnswer:", " "
        ids = model.encode(text)
    else:
        ids, gap = model.render([{"role": "user", "content": question}]), ""
    (found,) = asked.choice_logprobs([item], OPTIONS)
    for choice, value in zip(item.choices, found.logprobs, strict=True):
        end = asked.tokenizer.encode(gap + choice)
        rows_TV = training_logprobs(model.model, [*ids, *end])[len(ids) - 1 : -1]
        assert value == pytest.approx(
            float(rows_TV[torch.arange(len(end)), torch.tensor(end)].sum()), abs=1e-3
        )


def test_plain_replies_end_where_the_next_question_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = LocalSubject(BASE, "base")
    item = Letters().items()[0]
    options = ReplyOptions(max_tokens=8)
    assert asked.facts(options, "x").form == "plain" and asked._params(options, None, 8).stop == (
        "\nQuestion:",
    )
    assert asked._prompt(item, options, []).ids == BASE.encode(f"Question: {item.question}\nAnswer:")
    text = ReplyOptions(max_tokens=8, form="text")
    assert asked._prompt(item, text, []).ids == BASE.encode(item.question)
    assert asked._params(text, None, 8).stop == ("\n",)


def test_reasoning_is_bounded_and_apart_from_the_answer() -> None:
    """The reply of a model that only thinks is cut after its budget, and the rest is the answer."""
    asked = LocalSubject(model_of("deepseek_r1"), "thinker")
    options = ReplyOptions(max_tokens=8, reasoning_tokens=6)
    for reply in asked.replies(Letters(4).items(), options):
        assert reply.reasoning and 6 <= reply.tokens <= 14
    assert asked.facts(options, "x").form == "chat"
    with pytest.raises(ConfigError, match="knows no reasoning"):
        LocalSubject(model_of(PLAIN)).replies(Letters(1).items(), ReplyOptions(effort="high"))


def test_items_that_do_not_fit_are_named() -> None:
    asked = LocalSubject(model_of(), "tiny")
    items = Letters(4, long=[2]).items()
    found = asked.too_long(items, OPTIONS, weigh=False)
    assert list(found) == ["l2"] and "256 positions" in found["l2"]


def test_a_text_is_scored_once_in_parts() -> None:
    model = model_of()
    asked = LocalSubject(model, "tiny")
    text = "the quick brown fox 0123 " * 40
    ids = asked.tokenizer.encode(text)
    assert len(ids) > 256
    parts = list(windows([7], ids, 256))
    assert [token for _, part in parts for token in part] == ids
    assert all(len(before) >= 1 and len(before) + len(part) <= 257 for before, part in parts)
    short = "the lazy dog"
    long_sum, short_sum = asked.rolling([text, short])
    whole = [*asked.tokenizer.document_start[-1:], *asked.tokenizer.encode(short)]
    rows_TV = training_logprobs(model.model, whole)[:-1]
    expected = rows_TV[torch.arange(len(whole) - 1), torch.tensor(whole[1:])].sum()
    assert short_sum == pytest.approx(float(expected), abs=1e-3) and long_sum < short_sum


def test_pairs_are_tokenised_together() -> None:
    asked = LocalSubject(model_of(), "tiny")
    first, second, third = asked.loglikelihoods(
        [("the quick ", "brown fox"), ("the quick", " brown fox"), ("", "the fox")]
    )
    assert first == second and third.logprob < 0


def test_a_model_without_a_tokenizer_and_unknown_forms_are_refused() -> None:
    with pytest.raises(ConfigError, match="tokenizer"):
        LocalSubject(LanguageModel(model_of().model))
    with pytest.raises(ConfigError, match="form"):
        LocalSubject(BASE).form(ReplyOptions(form="chatt"))
    with pytest.raises(ConfigError, match="no chat template"):
        LocalSubject(BASE).form(ReplyOptions(form="chat"))


class Shop(Tool):
    """A tool that counts its calls."""

    name, description = "price", "The price of a thing."
    parameters: ClassVar = {
        "type": "object",
        "properties": {"thing": {"type": "string"}},
        "required": ["thing"],
    }

    def __init__(self) -> None:
        self.calls: list[str] = []

    def call(self, arguments, seconds):  # type: ignore[no-untyped-def]
        self.calls.append(arguments["thing"])
        return "12"


def test_tools_are_called_until_there_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop()
    asked = LocalSubject(model_of("chatml"), "tiny")
    scripted(monkeypatch, asked, ['price {"thing": "hat"}', "12 coins"])
    (reply,) = asked.replies(
        Letters(1).items(), ReplyOptions(max_tokens=200, effort="none"), lambda item: [shop]
    )
    assert shop.calls == ["hat"] and reply.text.strip() == "12 coins" and not reply.truncated
    assert reply.calls == ({"name": "price", "arguments": {"thing": "hat"}},)
    assert [turn["role"] for turn in reply.turns] == ["assistant", "tool", "assistant"]


def test_a_tool_that_does_not_work_leaves_nothing_to_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Shop):
        def call(self, arguments, seconds):  # type: ignore[no-untyped-def]
            raise RuntimeError("the shelf fell")

    asked = LocalSubject(model_of("chatml"), "tiny")
    scripted(monkeypatch, asked, ['price {"thing": "hat"}'])
    (reply,) = asked.replies(
        Letters(1).items(), ReplyOptions(max_tokens=200, effort="none"), lambda item: [Broken()]
    )
    assert isinstance(reply, ItemReply) and "the shelf fell" in reply.failed


def test_a_base_model_cannot_be_shown_tools() -> None:
    with pytest.raises(ConfigError, match="cannot be shown tools"):
        LocalSubject(BASE, "base").replies(Letters(1).items(), OPTIONS, lambda item: [Shop()])
