"""Rendering equals transformers, and the mask is the assistant's tokens."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.config.errors import DataError
from coterie.text import (
    SPECIALS,
    Message,
    Tokenizer,
    ToolCall,
    conversation_ids,
    parse_reply,
    render,
    render_ids,
)
from coterie.text.tokenizer import CHATML

TEMPLATE = CHATML.read_text()
TOOLS = [
    {
        "type": "function",
        "function": {"name": "add", "description": "é <b>", "parameters": {"type": "object"}},
    }
]
CALL = ToolCall("add", {"a": 1, "b": "é"})
TALK = [
    Message("system", "Be brief."),
    Message("user", "1+1?"),
    Message("assistant", "", "use the tool", (CALL, CALL)),
    Message("tool", "2", name="add"),
    Message("assistant", "It is 2."),
    Message("user", "Thanks"),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["system user assistant It is brief. use the tool"] * 5, 330)


def test_hand_written_rendering():
    expected = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
        "<think>\nuse the tool\n</think>\n\n"
        '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "é"}}\n</tool_call>'
        '\n<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "é"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>tool\n<tool_response>\n2\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\nIt is 2.<|im_end|>\n"
        "<|im_start|>user\nThanks<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render(TALK, TEMPLATE, add_generation_prompt=True) == expected


@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("prompt", [False, True])
def test_rendering_and_ids_equal_transformers(tokenizer, tmp_path, tools, first, prompt):
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    messages = [message.to_dict() for message in TALK[first:]]
    text = theirs.apply_chat_template(messages, tools=tools, add_generation_prompt=prompt, tokenize=False)
    assert render(TALK[first:], TEMPLATE, prompt, tools) == text
    ids, mask = render_ids(tokenizer, TALK[first:], add_generation_prompt=prompt, tools=tools)
    assert ids == theirs(text, add_special_tokens=False).input_ids and len(mask) == len(ids)


def learnt_texts(tokenizer, ids, mask):
    """The maximal learnt runs, decoded."""
    runs, current = [], []
    for token, learnt in [*zip(ids, mask, strict=True), (0, False)]:
        if learnt:
            current.append(token)
        elif current:
            runs.append(tokenizer.decode(current))
            current = []
    return runs


def test_mask_covers_replies_and_their_end(tokenizer):
    ids, mask = render_ids(tokenizer, TALK)
    first, second = learnt_texts(tokenizer, ids, mask)
    assert first.startswith("<think>\nuse the tool\n</think>") and first.endswith("</tool_call><|im_end|>")
    assert second == "It is 2.<|im_end|>"
    prompt, unmarked = render_ids(tokenizer, TALK[:2], add_generation_prompt=True)
    assert ids[: len(prompt)] == prompt and not any(unmarked) and mask[len(prompt)]


PLAIN = st.text(max_size=6) | st.sampled_from(["\U000f0000", "\n", " "])
plain = st.lists(PLAIN, max_size=5).map("".join)
nasty = st.lists(PLAIN | st.sampled_from(SPECIALS), max_size=5).map("".join)


@given(question=nasty, answer=plain)
@settings(max_examples=150, deadline=None)
def test_special_tokens_people_write_stay_text(tokenizer, question, answer):
    talk = [Message("user", question), Message("assistant", answer)]
    ids, mask = render_ids(tokenizer, talk)
    im_start, im_end = tokenizer.token_id("<|im_start|>"), tokenizer.token_id("<|im_end|>")
    assert [token for token in ids if token in tokenizer.special_ids] == [im_start, im_end] * 2
    # A token may hold the line break before the reply and the one that begins it.
    assert learnt_texts(tokenizer, ids, mask)[0].lstrip("\n") == answer.lstrip("\n") + "<|im_end|>"
    assert tokenizer.decode(ids) == render(talk, TEMPLATE)


word = st.text(alphabet="abé .,\n", max_size=12).map(str.strip)
calls = st.lists(
    st.builds(ToolCall, st.sampled_from(["f", "g_1"]), st.dictionaries(word, st.integers())), max_size=2
)


@given(content=word, reasoning=st.none() | word.filter(bool), tool_calls=calls)
@settings(max_examples=150, deadline=None)
def test_parse_inverts_render(content, reasoning, tool_calls):
    message = Message("assistant", content, reasoning, tuple(tool_calls))
    text = render([message], TEMPLATE).removeprefix("<|im_start|>assistant\n").removesuffix("<|im_end|>\n")
    assert parse_reply(text) == message


@pytest.mark.parametrize(
    ("text", "content", "reasoning", "num_calls"),
    [
        ("plain", "plain", None, 0),
        ("<think>never closed", "", "never closed", 0),
        ("opened by the prompt</think>\nanswer", "answer", "opened by the prompt", 0),
        ("<tool_call>{bad}</tool_call>", "<tool_call>{bad}</tool_call>", None, 0),
        ('<tool_call>{"name": "f"}</tool_call> then <tool_call>{"name"', 'then <tool_call>{"name"', None, 1),
        ('<tool_call>{"name": "f", "arguments": [1]}</tool_call>', None, None, 0),
    ],
)
def test_parse_of_replies_that_are_not_well_formed(text, content, reasoning, num_calls):
    message = parse_reply(text)
    assert (message.text, message.reasoning) == (text if content is None else content, reasoning)
    assert len(message.tool_calls) == num_calls


def test_templates_are_sandboxed_and_may_refuse(tokenizer):
    for source in [
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ raise_exception('no') }}",
        "{% if",
    ]:
        with pytest.raises(DataError, match="chat template"):
            render(TALK, source)
    forgetful = (
        "{% for m in messages %}[{{ m.role }}]{% if loop.last %}{{ m.content }}{% endif %}{% endfor %}"
    )
    with pytest.raises(DataError, match="rewrites turn 2"):
        render_ids(tokenizer, [TALK[1], TALK[4], TALK[5]], forgetful)


def test_a_prompt_is_rendered_once_with_the_whole_conversation(tokenizer, monkeypatch):
    """So a template may ask for something in any message, and the time grows with the length alone."""
    seen = []

    def counted(messages, *others):
        seen.append(len(messages))
        return render(messages, *others)

    monkeypatch.setattr("coterie.text.chat.render", counted)
    demanding = "{% if messages | length < 6 %}{{ raise_exception('too short') }}{% endif %}" + TEMPLATE
    ids = conversation_ids(tokenizer, TALK, demanding, True)
    assert seen == [len(TALK)] and ids == conversation_ids(tokenizer, TALK, None, True)
    assert render_ids(tokenizer, TALK, demanding, True) == (ids, [False] * len(ids))
    assert seen == [len(TALK)] * 3


FORGETS = (  # as Qwen3's own: the last reply alone shows a block of reasoning, even an empty one
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n"
    "{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_templates_that_show_earlier_replies_otherwise(tokenizer):
    talk = [
        Message("user", "a"),
        Message("assistant", "one"),
        Message("user", "b"),
        Message("assistant", "two", "hm"),
    ]
    ids, mask = render_ids(tokenizer, talk, FORGETS)
    assert tokenizer.decode(ids) == render(talk, FORGETS)
    assert learnt_texts(tokenizer, ids, mask) == ["one<|im_end|>", "<think>\nhm\n</think>\n\ntwo<|im_end|>"]
    _, mask = render_ids(tokenizer, talk, FORGETS, learn=[False, False, False, True])
    assert learnt_texts(tokenizer, ids, mask) == ["<think>\nhm\n</think>\n\ntwo<|im_end|>"]
    thought = [talk[0], Message("assistant", "one", "hm"), *talk[2:]]
    with pytest.raises(DataError, match="leaves out the reasoning of turn 2"):
        render_ids(tokenizer, thought, FORGETS)
    assert render_ids(tokenizer, thought, FORGETS, learn=[False, False, False, True])[0] == ids
    prompt, _ = render_ids(tokenizer, thought[:3], FORGETS, add_generation_prompt=True)
    assert tokenizer.decode(prompt) == render(thought[:3], FORGETS, add_generation_prompt=True)


def test_a_prompt_that_opens_reasoning_which_is_not_shown_again(tokenizer):
    opens = TEMPLATE.replace(
        "assistant\\n' }}\n{%- endif %}", "assistant\\n<think>\\n\\n</think>\\n\\n' }}\n{%- endif %}"
    )
    assert opens != TEMPLATE
    for reply in ("one", "<think", ""):
        ids, mask = render_ids(tokenizer, [Message("user", "a"), Message("assistant", reply)], opens)
        assert learnt_texts(tokenizer, ids, mask) == [reply + "<|im_end|>"]
    ids, mask = render_ids(tokenizer, [Message("user", "a"), Message("assistant", "", None, (CALL,))], opens)
    assert learnt_texts(tokenizer, ids, mask)[0].startswith("<tool_call>")


def test_templates_that_join_arguments_as_text():
    joins = (
        "{% for m in messages %}{% for c in m.tool_calls %}"
        "{{ c.function.name + ' ' + c.function.arguments }}{% endfor %}{% endfor %}"
    )
    assert render([Message("assistant", "", None, (CALL,))], joins) == 'add {"a": 1, "b": "é"}'
    with pytest.raises(DataError, match="dict"):
        render([Message("assistant", "", None, (CALL,))], joins + "{{ 1 + messages[0] }}")
