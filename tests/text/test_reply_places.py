"""Where replies are: one more rendering finds what rendering every beginning of the conversation finds."""

import random

import pytest

from coterie.config.errors import DataError
from coterie.text import Message, Tokenizer, ToolCall, conversation_ids, render, render_ids
from coterie.text import chat as chat_module
from coterie.text.reply_places import surroundings
from coterie.text.tokenizer import CHATML
from tests.text.test_templates import NAMES, TOOLS, vocabulary

PIECES = (
    "hello",
    "\n",
    "\n\n",
    " ",
    "assistant\n",
    "é",
    "][",
    '{"a": 1}',
    "2+2",
    "the end.",
    "<b>",
    "{% x %}",
)
ARGUMENTS = ({"a": "b\n"}, {"a": 1}, {}, {"b": ["x y"], "c": 2})


def words(rng: random.Random) -> str:
    return "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 4)))


def conversation(seed: str, reasoning: bool) -> list[Message]:
    """Questions, calls, results and replies, some of them empty, with white space at every edge."""
    rng = random.Random(seed)
    talk = [Message("system", words(rng))] if rng.random() < 0.5 else []
    for _ in range(rng.randint(1, 4)):
        talk.append(Message("user", words(rng)))
        thought = words(rng) or None if reasoning and rng.random() < 0.5 else None
        if rng.random() < 0.4:
            call = ToolCall("add", rng.choice(ARGUMENTS))
            talk.append(Message("assistant", words(rng), thought, (call,) * rng.randint(1, 2)))
            talk += [Message("tool", words(rng), name="add")] * rng.randint(1, 2)
        talk.append(Message("assistant", words(rng), thought))
    return talk


def reply_by_beginnings(tokenizer: Tokenizer, talk: list[Message], index: int, whole: str) -> str:
    """The reply of one turn by its prompt and by the conversation up to it: slow, and for these templates."""
    names = tokenizer.added_tokens
    stops = [name for name, number in names.items() if number in tokenizer.stop_ids]

    def text(count: int, prompt: bool) -> str:
        return render(talk[:count], tokenizer.chat_template, prompt, TOOLS, tokenizer.named_tokens)

    prompt, turn = text(index, True), text(index + 1, False)
    if turn.startswith(prompt) and whole.startswith(turn):
        ends = [turn.rfind(name, len(prompt)) + len(name) for name in stops if name in turn[len(prompt) :]]
        return turn[len(prompt) : max(ends, default=len(turn))]
    start = next((at for at, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(prompt))
    for name in names:
        at = prompt.rfind(name, 0, start + len(name))
        start = at if 0 <= at < start < at + len(name) else start
    found = [(whole.find(name, start), name) for name in (*stops, "<|end|>") if name in whole[start:]]
    at, name = min(found, default=(len(whole), ""))
    return whole[start : at + (len(name) if name in stops else 0)]


def learnt_runs(tokenizer: Tokenizer, ids: list[int], mask: list[bool]) -> list[str]:
    parts = zip(tokenizer.token_bytes(ids), mask, strict=True)
    runs = b"".join(part if marked else b"\0" for part, marked in parts)
    return [run.decode() for run in runs.split(b"\0") if run]


@pytest.mark.parametrize("name", NAMES)
def test_the_replies_are_those_of_every_beginning(name):
    tokenizer = vocabulary(name)
    for seed in range(8):
        talk = conversation(f"{name} {seed}", reasoning=name in ("chatml", "llama3", "llama4", "mistral"))
        whole = render(talk, tokenizer.chat_template, False, TOOLS, tokenizer.named_tokens)
        wanted = [
            reply_by_beginnings(tokenizer, talk, index, whole)
            for index, message in enumerate(talk)
            if message.role == "assistant"
        ]
        assert learnt_runs(tokenizer, *render_ids(tokenizer, talk, tools=TOOLS)) == wanted


@pytest.mark.parametrize("name", NAMES)
def test_what_is_learnt_continues_its_prompt(name):
    tokenizer = vocabulary(name)
    for seed in range(6):
        talk = conversation(f"{name} {seed}", reasoning=False)
        talk[-1] = Message("assistant", "yes")
        prompt = conversation_ids(tokenizer, talk[:-1], None, True, TOOLS)
        if name == "deepseek_r1":  # its prompt opens reasoning, which a reply without any does not show
            prompt = prompt[: prompt.index(tokenizer.token_id("<think>"))] if talk[-2].role == "user" else []
        assert render_ids(tokenizer, talk, tools=TOOLS).ids[: len(prompt)] == prompt


FIRST = (
    "{% if messages[0].role == 'system' %}<|im_start|>system\n{{ messages[0].content }}<|im_end|>\n"
    "{% endif %}"
    "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ASKS = (
    "{% if messages | selectattr('role', 'equalto', 'user') | list | length == 0 %}"
    "{{ raise_exception('there is no question') }}{% endif %}"
)
PAIRS = (
    "{% for m in messages %}{% if m.tool_calls and (loop.last or loop.nextitem.role != 'tool') %}"
    "{{ raise_exception('a call wants its result') }}{% endif %}{% endfor %}"
)
LOOKS = "{% for m in messages %}{% if m.content.startswith('\ue000') %}{{ 1 }}{% endif %}{% endfor %}"
CALL = Message("assistant", "", None, (ToolCall("f", {"a": 1}),))
TURNS = [Message("user", "hello"), CALL, Message("tool", "ok", name="f"), Message("assistant", "bye")]


@pytest.mark.parametrize(
    "template", [FIRST, ASKS + CHATML.read_text(), PAIRS + CHATML.read_text(), LOOKS + FIRST]
)
def test_templates_that_refuse_beginnings_can_be_learnt(template):
    tokenizer = Tokenizer.train(["system user assistant hello bye"] * 5, 320, chat_template=template)
    turns = TURNS if template.startswith((ASKS, PAIRS)) else [TURNS[0], TURNS[-1]]
    talk = [Message("system", "Be brief."), Message("assistant", "welcome"), *turns]
    found = learnt_runs(tokenizer, *render_ids(tokenizer, talk))
    assert [found[0], found[-1]] == ["welcome<|im_end|>", "bye<|im_end|>"]
    assert len(found) == sum(message.role == "assistant" for message in talk)


def test_learning_renders_as_often_for_many_turns_as_for_few(monkeypatch):
    """Two renderings of the conversation, so the work is linear in its turns."""
    tokenizer = Tokenizer.train(["user assistant hello bye"] * 5, 320)
    seen: list[int] = []

    def counted(messages, *others):
        seen.append(len(messages))
        return render(messages, *others)

    monkeypatch.setattr(chat_module, "render", counted)
    for turns in (1, 50):
        seen.clear()
        ids, mask = render_ids(tokenizer, TURNS * turns, tools=TOOLS)
        assert seen == [len(TURNS) * turns] * 2 and any(mask)
        assert len(learnt_runs(tokenizer, ids, mask)) == 2 * turns


def test_replies_that_a_template_hides_are_refused_only_if_they_are_to_be_learnt():
    tokenizer = Tokenizer.train(["user assistant hello bye"] * 5, 320)
    last = "{% for m in messages %}[{{ m.role }}]{% if loop.last %}{{ m.content }}{% endif %}{% endfor %}"
    talk = [Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d")]
    with pytest.raises(DataError, match="rewrites turn 2"):
        render_ids(tokenizer, talk, last)
    ids, mask = render_ids(tokenizer, talk, last, learn=[False, False, False, True])
    assert learnt_runs(tokenizer, ids, mask)[-1].endswith("[assistant]d")
    with pytest.raises(DataError, match="leaves out the tool calls of turn 2"):
        render_ids(tokenizer, TURNS, FIRST)
    looks = "{% for m in messages %}{{ m.content | length }}{{ m.content }}{% endfor %}"
    with pytest.raises(DataError, match="hides where they begin"):
        render_ids(tokenizer, talk, looks)


def opening(template: str, role: str = "user") -> tuple[str, str] | None:
    found = surroundings(template, {}, ["<|im_start|>", "<|im_end|>", "<think>"]).openings.get(role)
    return found and (found.text, found.always)


def test_what_is_written_before_a_reply():
    turns = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    ask = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    assert opening(turns + ask) == ("<|im_end|><|im_start|>assistant\n", "<|im_start|>assistant\n")
    assert opening(turns + ask, "") == ("<|im_start|>assistant\n", "<|im_start|>assistant\n")
    thinking = ask.replace("{% endif", "<think>\n\n</think>{% endif")
    text = "<|im_end|><|im_start|>assistant\n<think>\n\n</think>"
    assert opening(turns + thinking) == (text, "<|im_start|>assistant\n")
    plain = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert opening(plain + "{% if add_generation_prompt %}\nAssistant:{% endif %}") == (
        "Assistant:",
        "Assistant:",
    )
    assert opening(plain) == ("", "") and opening("{{ raise_exception('no') }}") is None
    asks = "{% for m in messages %}[INST]{{ m.content }} [/INST]{% endfor %}"
    assert opening(asks) == (" [/INST]", "")
