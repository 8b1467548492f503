"""Messages: their parts, the forms they are read from, and what is refused."""

import json
from dataclasses import replace

import pytest

from coterie.config.errors import DataError
from coterie.text.messages import Message, TextPart, ToolCall

CALL = ToolCall("add", {"a": 1, "b": "é"})
TALK = [
    Message("system", "Be brief."),
    Message("assistant", "", "use the tool", (CALL, CALL)),
    Message("tool", "2", name="add"),
    Message("assistant", "It is 2."),
]


def test_a_text_is_one_part_and_the_empty_text_none():
    assert Message("user", "hi").content == (TextPart("hi"),) and Message("user", "").content == ()
    assert Message("user", "hi") == Message("user", [TextPart("hi")])
    assert replace(Message("user", "hi"), role="system") == Message("system", "hi")


def test_parts_of_text_are_read_and_shown_as_one_string():
    parts = [{"type": "text", "text": "1+"}, {"type": "input_text", "text": "1?"}]
    message = Message.from_dict({"role": "user", "content": parts})
    assert message.content == (TextPart("1+"), TextPart("1?")) and message.text == "1+1?"
    assert message.to_dict() == {"role": "user", "content": "1+1?"}


def test_messages_round_trip_through_dicts():
    assert [Message.from_dict(message.to_dict()) for message in TALK] == TALK
    openai = {"role": "assistant", "content": None}
    openai["tool_calls"] = [
        {"type": "function", "function": {"name": "add", "arguments": json.dumps({"a": 1, "b": "é"})}}
    ]
    assert Message.from_dict(openai) == Message("assistant", tool_calls=(CALL,))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"role": "bot", "content": "x"}, "role 'bot' is not one of"),
        ({"role": "user"}, "neither content nor tool calls"),
        ({"role": "user", "content": 3}, "content is int"),
        ({"role": "user", "content": ["x"]}, "part 1 of the content is not an object"),
        ({"role": "user", "content": [{"type": "text"}]}, "part 1 of the content has no 'text'"),
        (
            {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url"}]},
            "part 2 of the content is 'image_url'; models here read text only",
        ),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "'input_audio'; models here read text only"),
        ({"role": "user", "content": "x", "reasoning": "y"}, "only an assistant"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}, "not valid JSON"),
        ({"role": "assistant", "tool_calls": ["f"]}, "'name' and 'arguments'"),
    ],
)
def test_bad_messages(data, message):
    with pytest.raises(DataError, match=message):
        Message.from_dict(data)
