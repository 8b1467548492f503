"""Where replies begin: a prompt rendered once has the ids that rendering its beginnings gives."""

import random
from itertools import pairwise

import pytest

from coterie.text import Message, Tokenizer, ToolCall, conversation_ids, render, render_ids
from coterie.text.control_tokens import SafeConversation
from coterie.text.reply_places import openings, reply_span, reply_starts
from tests.text.test_templates import NAMES, TOOLS, vocabulary

PIECES = (
    "hello", "\n", "\n\n", " ", "<|im_end|>", "<think>", "<|assistant|>\n", "[/INST]", "assistant\n", "é",
    "][", "<｜Assistant｜>", '{"a": 1}', "<|start|>assistant", "<think>\n",
)  # fmt: skip


def words(rng: random.Random) -> str:
    return "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 4)))


def conversation(seed: str, reasoning: bool) -> list[Message]:
    """Questions, calls, results and replies whose texts tempt tokens to merge across their edges."""
    rng = random.Random(seed)
    talk = [Message("system", words(rng))] if rng.random() < 0.5 else []
    for _ in range(rng.randint(1, 4)):
        talk.append(Message("user", words(rng)))
        thought = words(rng) or None if reasoning and rng.random() < 0.5 else None
        if rng.random() < 0.4:
            talk.append(Message("assistant", words(rng), thought, (ToolCall("add", {"a": words(rng)}),)))
            talk.append(Message("tool", words(rng), name="add"))
        talk.append(Message("assistant", words(rng), thought))
    return talk


def ids_by_beginnings(tokenizer: Tokenizer, talk: list[Message]) -> list[int]:
    """The prompt's ids, each reply found by rendering what comes before it: slow, and for any template."""
    safe = SafeConversation(tokenizer, talk, TOOLS)

    def text(count: int, prompt: bool) -> str:
        return render(
            safe.messages[:count], tokenizer.chat_template, prompt, safe.tools, tokenizer.named_tokens
        )

    whole, edges = text(len(talk), True), [0]
    for index in (index for index, message in enumerate(talk) if message.role == "assistant"):
        span = reply_span(tokenizer, whole, text(index, False), text(index, True), text(index + 1, False))
        assert span is not None
        edges += span
    edges.append(len(whole))
    return safe.ids(whole[a:b] for a, b in pairwise(edges))


@pytest.mark.parametrize("name", NAMES)
def test_one_pass_gives_the_ids_of_rendering_every_beginning(name):
    tokenizer = vocabulary(name)
    for seed in range(12):
        talk = conversation(f"{name} {seed}", reasoning=name in ("chatml", "llama3", "llama4", "mistral"))[
            :-1
        ]
        assert conversation_ids(tokenizer, talk, None, True, TOOLS) == ids_by_beginnings(tokenizer, talk)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_learnt_continues_its_prompt(name):
    tokenizer = vocabulary(name)
    for seed in range(6):
        talk = conversation(f"{name} {seed}", reasoning=False)
        prompt = conversation_ids(tokenizer, talk[:-1], None, True, TOOLS)
        if name == "deepseek_r1":  # its prompt opens reasoning, which a reply without any does not show
            prompt = prompt[: prompt.index(tokenizer.token_id("<think>"))] if talk[-2].role == "user" else []
        assert render_ids(tokenizer, talk, tools=TOOLS).ids[: len(prompt)] == prompt


def opening(template: str) -> list[tuple[str, str]]:
    tokens = {"<|im_start|>": 1, "<|im_end|>": 2, "<think>": 3}
    return [(found.text, found.always) for found in openings(template, {}, tokens)]


def test_openings():
    turns = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    ask = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    assert opening(turns + ask) == [("<|im_start|>assistant\n", "<|im_start|>assistant\n")]
    thinking = ask.replace("{% endif", "<think>\n\n</think>{% endif")
    assert opening(turns + thinking) == [
        ("<|im_start|>assistant\n<think>\n\n</think>", "<|im_start|>assistant\n")
    ]
    plain = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert opening(plain + "{% if add_generation_prompt %}\nAssistant:{% endif %}") == [
        ("Assistant:", "Assistant:")
    ]
    assert opening(plain) == [] and opening("{{ raise_exception('no') }}") == []
    assert opening("{% for m in messages %}[INST]{{ m.content }} [/INST]{% endfor %}") == [
        (" [/INST]", " [/INST]")
    ]


def test_starts_are_never_inside_a_token():
    tokens = {"<|im_start|>": 1, "<think>": 3}
    found = openings(
        "{{ messages[0].content }}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
        {},
        tokens,
    )
    head = "<|im_start|>assistant\n"
    for reply, shared in (("<think>\nhm", "<think>\n"), ("<think", ""), ("yes", "")):
        assert reply_starts(f"x{head}{reply}", found, tokens) == [1 + len(head + shared)]
