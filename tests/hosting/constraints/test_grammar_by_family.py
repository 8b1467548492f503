"""Required calls in the format of every family: whatever tokens a model draws, the call can be parsed."""

from __future__ import annotations

import json
import random
import re
from functools import cache
from typing import Any

import jsonschema
import pytest
from openai import OpenAI

from coterie.hosting.constraints.grammar import GrammarFilter, Grammars
from coterie.infer.model import LanguageModel
from coterie.infer.thinking import ThinkingBudget
from coterie.text.chat import render_ids, shipped_template
from coterie.text.messages import Message, ToolCall
from coterie.text.replies import parse_reply
from coterie.text.reply_formats import format_of
from coterie.text.tokenizer import END_OF_TEXT, StreamDecoder, Tokenizer
from tests.infer.models import tiny_model
from tests.serve.support import serving
from tests.text.test_templates import NAMES

MARK = re.compile(r"<\|[\w▁]+\|>|<｜[\w▁]+｜>|</?think>|</?tool_\w+>|\[/?[A-Z_]+\]")
ADD = {
    "name": "add",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "how": {"$ref": "#/$defs/how"}},
        "required": ["a", "how"],
        "additionalProperties": False,
        "$defs": {"how": {"enum": ["fast", 'with "care"']}},
    },
}
NOW = {"name": "now", "parameters": {"type": "object", "additionalProperties": False}}
SCHEMAS = {tool["name"]: tool["parameters"] for tool in (ADD, NOW)}
ANSWER = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["n"],
    "additionalProperties": False,
}
ONE_CALL = {"gpt_oss"}  # formats whose replies hold one call


@cache
def tokenizer(name: str, single: bool) -> Tokenizer:
    """Of a family, its marks as tokens, or spelt out."""
    template = shipped_template(name)
    form = format_of(template)
    found = {mark for text in (template, repr(form)) for mark in MARK.findall(text)} - {"[INST]"}
    specials = (END_OF_TEXT, *sorted(found - {END_OF_TEXT})) if single else (END_OF_TEXT,)
    return Tokenizer.train(
        ['{"name": "add", "arguments": functions json'] * 3, 300 + len(specials), specials, template
    )


def grammars(name: str, single: bool) -> Grammars:
    words = tokenizer(name, single)
    return Grammars(words, words.vocab_size, sorted(words.stop_ids), format_of(words.chat_template))


def write(kept: GrammarFilter, words: Tokenizer, seed: int, urge: str = "") -> str:
    """Draw at random, mark tokens more often, until the reply ends; `urge` is written first if allowed."""
    rng, decoder, text = random.Random(seed), StreamDecoder(words), ""
    wanted = words.encode(urge, allow_special=True) if urge else []
    marks = set(words.added_tokens.values())
    thinks = {words.added_tokens.get(mark) for mark in ("<think>", "[THINK]")}  # it would never stop thinking
    for _ in range(4000):
        mask_V = kept.allowed()
        if mask_V is None:
            if not wanted:
                return text
            token = wanted.pop(0)
        else:
            allowed = [token for token in mask_V.nonzero().flatten().tolist() if token not in thinks]
            shown = [token for token in allowed if token in marks and token not in words.stop_ids]
            token = rng.choice(shown if shown and rng.random() < 0.3 else allowed)
        kept.accept(token)
        assert kept.failure is None
        if token in words.stop_ids:
            return text
        text += decoder.feed(token)
    raise AssertionError(f"does not end: {text[-200:]}")


def check(calls: tuple[ToolCall, ...]) -> None:
    for made in calls:
        jsonschema.validate(dict(made.arguments), SCHEMAS[made.name])


@pytest.mark.parametrize(
    ("name", "single"),
    [(name, single) for name in NAMES for single in (True, False) if single or name != "gpt_oss"],
)
def test_a_call_that_must_be_made_is_read_back(name: str, single: bool) -> None:
    words = tokenizer(name, single)
    form, made = format_of(words.chat_template), grammars(name, single)
    several = set()
    for seed in range(12):
        text = write(made.of_calls([ADD, NOW], seed % 2 == 0, opened=False), words, seed)
        message = parse_reply(text, form)
        assert message.tool_calls and message.text == "", text
        check(message.tool_calls)
        several.add(len(message.tool_calls) > 1)
        assert seed % 2 == 0 or len(message.tool_calls) == 1
    assert several == ({False} if form.name in ONE_CALL else {True, False})


@pytest.mark.parametrize("name", NAMES)
def test_reasoning_comes_first_and_then_the_call(name: str) -> None:
    words = tokenizer(name, True)
    form, made = format_of(words.chat_template), grammars(name, True)
    if form.reasoning is not None:
        kept, begin = made.of_calls([ADD], False, opened=True), f"Hm.{form.reasoning.close[0]}"
        assert not bool(kept.allowed()[sorted(words.stop_ids)].any())  # it still owes the call
    else:
        kept, begin = (
            made.of_calls([ADD], False, opened=False),
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant",
        )
    for token in words.encode(begin, allow_special=True):
        assert bool(kept.allowed()[token]), begin
        kept.accept(token)
    message = parse_reply(begin + write(kept, words, 3), form, opened=form.reasoning is not None)
    assert message.reasoning == "Hm." and len(message.tool_calls) == 1
    check(message.tool_calls)


@pytest.mark.parametrize("single", [True, False], ids=["tokens", "spelt"])
@pytest.mark.parametrize("name", NAMES)
def test_a_budget_ends_reasoning_in_every_form(name: str, single: bool) -> None:
    words = tokenizer(name, single)
    form = format_of(words.chat_template)
    opening, closing = form.thinking
    for opened in (False, True):
        kept = ThinkingBudget(6, form, words, words.vocab_size, opened)
        written = [] if opened else words.encode(opening, allow_special=True)
        for token in written:
            assert kept.allowed() is None
            kept.accept(token)
        marks = len(written)
        while (mask_V := kept.allowed()) is None:
            written += words.encode("a") if len(written) < 60 else pytest.fail("it is not ended")
            kept.accept(written[-1])
        assert len(written) - marks == 6
        while (mask_V := kept.allowed()) is not None and mask_V.sum() == 1:
            (token,) = mask_V.nonzero().flatten().tolist()
            written.append(token)
            kept.accept(token)
        assert words.decode(written).endswith(closing)
        message = parse_reply(words.decode(written), form, opened=opened and form.reasoning is not None)
        assert opened or set(message.reasoning or "") == {"a"}


@pytest.mark.parametrize("name", NAMES)
def test_the_grammar_is_the_form_of_the_shipped_template(name: str) -> None:
    """The grammar accepts exactly what the template shows for a call."""
    words = tokenizer(name, True)
    calls = (ToolCall("add", {"a": 7, "how": "fast"}), ToolCall("now", {}))
    form = format_of(words.chat_template)
    calls = calls[:1] if form.name in ONE_CALL else calls
    talk = [Message("user", "x"), Message("assistant", "", None, calls)]
    ids, learnt = render_ids(
        words, talk, tools=[{"type": "function", "function": tool} for tool in (ADD, NOW)]
    )
    kept = grammars(name, True).of_calls([ADD, NOW], True, opened=False)
    reply = [token for token, own in zip(ids, learnt, strict=True) if own]
    stops = [place for place, token in enumerate(reply) if token in words.stop_ids]
    for token in reply[: stops[0] + 1]:
        assert bool(kept.allowed()[token]), (words.decode(reply), words.decode([token]))
        kept.accept(token)


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_or_a_call(name: str) -> None:
    words = tokenizer(name, True)
    form, made = format_of(words.chat_template), grammars(name, True)
    kinds = set()
    for seed in range(16):
        message = parse_reply(write(made.of_schema(ANSWER, "/x", False, [ADD]), words, seed), form)
        check(message.tool_calls)
        kinds.add(bool(message.tool_calls))
        if not message.tool_calls:
            jsonschema.validate(json.loads(message.text), ANSWER)
    assert kinds == {True, False}


@pytest.mark.parametrize("name", NAMES)
def test_a_strict_tool_binds_once_a_call_begins(name: str) -> None:
    words = tokenizer(name, True)
    form, made = format_of(words.chat_template), grammars(name, True)
    for seed in range(6):
        kept = made.of_strict_calls([ADD, {"name": "now"}], False)
        if form.writing.trigger:
            before = (form.writing.open + form.writing.call).partition(form.writing.trigger)[
                0
            ] + form.writing.trigger
            text = write(kept, words, seed, urge=before)
            end = form.writing.close if form.writing.trigger in form.writing.call else ""
            message = parse_reply(text + end, form)
            assert len(message.tool_calls) == 1 or form.name == "mistral"
            assert message.tool_calls
        else:
            message = parse_reply(write(kept, words, seed), form)
            assert message.tool_calls or form.writing.answer or not message.text.startswith(("{", "["))
        for call in message.tool_calls:
            if call.name == "add":
                check((call,))


CALLS = {  # of a tool that binds, wherever harmony lets the receiver stand
    "in the channel": "<|channel|>commentary to=functions.add <|constrain|>json<|message|>",
    "in the role": " to=functions.add<|channel|>commentary <|constrain|>json<|message|>",
    "while thinking": "<|channel|>analysis to=functions.add <|message|>",
    "after thinking": "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant to=functions.add"
    "<|channel|>commentary<|message|>",
    "without its space": "<|channel|>commentary to=add<|message|>",
}


@pytest.mark.parametrize("begin", CALLS.values(), ids=CALLS)
def test_harmony_cannot_call_around_a_strict_tool(begin: str) -> None:
    """Text that would be parsed as a call either satisfies its schema or cannot be written."""
    words = tokenizer("gpt_oss", True)
    kept = grammars("gpt_oss", True).of_strict_calls([ADD, {"name": "now"}], False)
    wrong = begin + '{"b": "no"}'
    assert parse_reply(wrong, format_of(words.chat_template)).tool_calls, "it is read as a call"
    for token in words.encode(wrong, allow_special=True):
        mask_V = kept.allowed()
        if mask_V is not None and not bool(mask_V[token]):
            return
        kept.accept(token)
    pytest.fail("a call outside its schema was written")


def test_harmony_may_think_and_speak_before_a_strict_call() -> None:
    words = tokenizer("gpt_oss", True)
    kept = grammars("gpt_oss", True).of_strict_calls([ADD], False)
    thought, said = (
        "<|channel|>" + name + "<|message|>Hm.<|end|><|start|>assistant"
        for name in ("analysis", "commentary")
    )
    text = f"{thought}{said}{thought}" + CALLS["in the channel"] + '{"a": 1, "how": "fast"}<|call|>'
    for token in words.encode(text, allow_special=True):
        assert bool(kept.allowed()[token]), words.decode([token])
        kept.accept(token)
    message = parse_reply(text, format_of(words.chat_template))
    assert message.reasoning == "Hm.\nHm." and message.text == "Hm." and len(message.tool_calls) == 1


@pytest.mark.parametrize("name", ["llama3", "gpt_oss", "mistral"])
def test_through_the_server(name: str) -> None:
    """A model with the family's template and marks, called with the real client."""
    words = tokenizer(name, True)
    model = LanguageModel(tiny_model("moe", seed=0, vocab_size=words.vocab_size, max_positions=1024), words)
    tools: list[Any] = [{"type": "function", "function": tool} for tool in (ADD, NOW)]
    with serving(model) as server, OpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
        for seed in range(3):
            given = {
                "model": "tiny",
                "messages": [{"role": "user", "content": "x"}],
                "tools": tools,
                "seed": seed,
                "max_tokens": 400,
                "parallel_tool_calls": False,
                "tool_choice": {"type": "function", "function": {"name": "add"}},
                "logit_bias": {str(words.token_id("<|channel|>")): 5} if name == "gpt_oss" else {},
            }
            answer = client.chat.completions.create(**given).choices[0]
            if answer.finish_reason == "length":  # a random model may think for ever
                continue
            (made,) = answer.message.tool_calls
            check((ToolCall(made.function.name, json.loads(made.function.arguments)),))
            assert answer.finish_reason == "tool_calls"
            with client.chat.completions.stream(**given) as stream:
                (again,) = stream.get_final_completion().choices[0].message.tool_calls
            assert again.function.arguments == made.function.arguments
            break
        else:
            pytest.fail("no reply ended")
