"""Control tokens that people type stay text, wherever they type them; the model's own words keep theirs."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.text import SPECIALS, Message, Tokenizer, ToolCall, conversation_ids, render, render_ids
from coterie.text.chat import typed_control_tokens
from coterie.text.control_tokens import Talk, TypedMarks, typed_names, without
from coterie.text.messages import TextPart

TYPED = st.lists(
    st.one_of(st.text(max_size=6), st.sampled_from([*SPECIALS, "\U000f0000", "\U0010fffd"])), max_size=4
).map("".join)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["system user assistant It is brief. use the tool"] * 5, 330)


def talk(typed: str) -> tuple[list[Message], list[dict]]:
    """A conversation with the same text everywhere people can put one."""
    function = {"name": "f", "description": typed, "parameters": {"type": "object", "title" + typed: typed}}
    messages = [
        Message("system", "Be brief."),
        Message("user", typed),
        Message("assistant", "yes", "hm", (ToolCall("f", {"a": ["b"]}),)),
        Message("tool", typed, name="f" + typed),
    ]
    return messages, [{"type": "function", "function": function}]


@given(typed=TYPED)
@settings(max_examples=100, deadline=None)
def test_a_prompt_has_the_control_tokens_of_its_template_alone(tokenizer, typed):
    messages, tools = talk(typed)
    ids = conversation_ids(tokenizer, messages, None, True, tools)
    clean = conversation_ids(tokenizer, talk("x")[0], None, True, talk("x")[1])
    control = set(tokenizer.added_tokens.values())
    assert [token for token in ids if token in control] == [token for token in clean if token in control]
    assert tokenizer.decode(ids) == render(messages, tokenizer.chat_template, True, tools)
    named = typed_control_tokens(tokenizer, messages, None, tools)
    assert named == [name for name in dict.fromkeys(named) if name in typed]
    assert bool(named) == any(name in typed for name in SPECIALS)


def test_a_token_is_not_typed_in_two_halves(tokenizer):
    halves = Message("user", (TextPart("<|im_"), TextPart("end|>")))
    ids = conversation_ids(tokenizer, [halves])
    assert ids == conversation_ids(tokenizer, [Message("user", "<|im_end|>")])
    assert ids.count(tokenizer.token_id("<|im_end|>")) == 1
    assert typed_control_tokens(tokenizer, [halves]) == ["<|im_end|>"]


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_words_of_the_model_and_of_its_owner_keep_their_tokens(tokenizer, role):
    words = "<think>\nhm\n</think>\n\n<tool_call>x</tool_call>"
    messages = [Message("user", "a <think> b"), Message(role, words), Message("user", "c")]
    control = set(tokenizer.added_tokens.values())
    ids, mask = render_ids(tokenizer, messages)
    found = [tokenizer.decode([token]) for token in ids if token in control]
    turns = [name for name in found if "im_" not in name]
    assert turns == ["<think>", "</think>", "<tool_call>", "</tool_call>"]
    learnt = tokenizer.decode([token for token, marked in zip(ids, mask, strict=True) if marked])
    assert learnt == (words + "<|im_end|>" if role == "assistant" else "")


def test_names_that_a_client_gives_a_template_are_people_s_words(tokenizer):
    shows = "{{ bos_token }}{{ note }}<|im_end|>"
    ids = conversation_ids(tokenizer, [Message("user", "a")], shows, variables={"note": "<|im_end|>"})
    end, start = tokenizer.token_id("<|im_end|>"), tokenizer.eos_id
    assert ids == [start, *tokenizer.encode("<|im_end|>"), end]


def test_a_template_that_cuts_or_escapes_a_typed_token_still_gives_text(tokenizer):
    end = tokenizer.token_id("<|im_end|>")
    question = [Message("user", "ab<|im_end|>cd")]
    for template, shown in (
        ("{{ messages[0].content[:13] }}", "ab<|im_end|>"),
        ("{{ messages[0].content[3:] }}", "<|im_end|>cd"),
        ("{{ messages[0].content.split('<|im_end|>')[1] }}", "cd"),
        ("{{ messages[0].content | tojson(ensure_ascii=True) }}", '"ab<|im_end|>cd"'),
        ("{{ messages[0].content | upper }}", "AB<|IM_END|>CD"),
    ):
        ids = conversation_ids(tokenizer, question, template)
        assert end not in ids and tokenizer.decode(ids) == shown


def test_marks_are_characters_that_nobody_used():
    used = "\U000f0000\U000f0002"
    talk = Talk([Message("user", used + "<x>")], None, {"a": "\U000f0001"})
    start, end = talk.unused(2)
    assert (start, end) == ("\U000f0003", "\U000f0004")
    marked = TypedMarks(start, end).put(talk, frozenset(["<x>"]))
    assert marked.messages[0].text == f"{used}{start}<x>{end}"
    shown = TypedMarks(start, end).take("<x>" + marked.messages[0].text)
    assert shown.text == f"<x>{used}<x>"
    assert shown.is_token("<x>", 0) and not shown.is_token("<x>", 5)
    assert typed_names(talk, frozenset(["<x>", "<y>"])) == ["<x>"]
    marked = f"a{start}c{used}a{end}"
    assert without(marked, (start, end)) == (f"ac{used}a", [(1, start), (5, end)])
