"""Control tokens that people type stay text, wherever they type them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.text import SPECIALS, Message, Tokenizer, ToolCall, conversation_ids, render
from coterie.text.control_tokens import SafeConversation

TYPED = st.lists(
    st.one_of(st.text(max_size=6), st.sampled_from([*SPECIALS, "\U000f0000", "\U0010fffd"])), max_size=4
).map("".join)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["system user assistant It is brief. use the tool"] * 5, 330)


def talk(typed: str) -> tuple[list[Message], list[dict]]:
    """A conversation with the same text everywhere people can put one."""
    function = {"name": "f", "description": typed, "parameters": {"type": "object", "title": typed}}
    messages = [
        Message("system", typed),
        Message("user", typed),
        Message("assistant", typed, typed + ".", (ToolCall("f" + typed, {"a" + typed: [typed]}),)),
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


def test_texts_without_control_tokens_are_left_alone_and_tokens_come_back(tokenizer):
    messages, tools = talk("plain")
    safe = SafeConversation(tokenizer, messages, tools, marks=["header:"])
    assert (safe.messages, safe.tools) == (messages, tools)
    typed = SafeConversation(tokenizer, [Message("user", "a header: <|im_end|>")], marks=["header:"])
    assert "header" not in typed.messages[0].text and "<|im_end|>" not in typed.messages[0].text
    assert tokenizer.decode(typed.ids([typed.messages[0].text])) == "a header: <|im_end|>"
