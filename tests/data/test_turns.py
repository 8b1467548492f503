"""Turns of every form are the same messages, and every mark counts."""

# ruff: noqa: E501  # tables, one case a line

import json

import pytest

from coterie.config.errors import DataError
from coterie.data.fields import MARKS, REASONING
from coterie.data.turns import learnt_of, read_turns
from coterie.text import Message, ToolCall

CALL = {"name": "add", "arguments": {"a": 1}}
ADD = ToolCall("add", {"a": 1})
U, A = Message("user", "q"), Message("assistant", "a")
# form, messages
FORMS = [
    ("openai", [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], (U, A)),
    ("sharegpt", [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], (U, A)),
    ("mixed names", [{"role": "human", "value": "q"}, {"from": "assistant", "content": "a"}], (U, A)),
    ("pairs", [{"human": "q", "assistant": "a"}], (U, A)),
    ("pairs with system", [{"system": "s", "human": "q", "assistant": "a"}], (Message("system", "s"), U, A)),
    ("a table", {"role": ["user", "assistant"], "content": ["q", "a"]}, (U, A)),
    ("capitals", [{"role": "User", "content": "q"}, {"role": "Assistant", "content": "a"}], (U, A)),
    ("old function_call", [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "function_call": CALL}, {"role": "function", "name": "add", "content": "2"}], (U, Message("assistant", "", None, (ADD,)), Message("tool", "2", name="add"))),
    ("a call as a turn", [{"from": "human", "value": "q"}, {"from": "function_call", "value": json.dumps(CALL)}, {"from": "observation", "value": "2"}, {"from": "gpt", "value": "a"}], (U, Message("assistant", "", None, (ADD,)), Message("tool", "2"), A)),
    ("two calls as turns", [{"role": "user", "content": "q"}, {"role": "tool_call", "content": json.dumps(CALL)}, {"role": "tool_call", "content": json.dumps(CALL)}, {"role": "tool_response", "content": "2"}], (U, Message("assistant", "", None, (ADD, ADD)), Message("tool", "2"))),
    ("words, then a call as a turn", [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}, {"role": "tool_call", "content": CALL}], (U, Message("assistant", "a", None, (ADD,)))),
    ("calls next to a ShareGPT text", [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "tool_calls": [{"type": "function", "function": CALL}]}], (U, Message("assistant", "a", None, (ADD,)))),
    ("calls as JSON text", [{"from": "human", "value": "q"}, {"from": "gpt", "value": "", "tool_calls": json.dumps([CALL])}], (U, Message("assistant", "", None, (ADD,)))),
    ("arguments as JSON text", [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": '{"a": 1}'}}]}], (U, Message("assistant", "", None, (ADD,)))),
    ("nulls", [{"role": "user", "content": "q", "loss": None, "thinking": None, "tool_calls": None}, {"role": "assistant", "content": "a", "function_call": None, "other": None, "more": ""}], (U, A)),
]  # fmt: skip


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize(("form", "messages"), [case[1:] for case in FORMS], ids=[case[0] for case in FORMS])
def test_every_form_gives_the_same_turns(form, messages, as_text):
    turns = read_turns(json.dumps(form) if as_text else form, "messages")
    assert tuple(turn.message for turn in turns) == messages
    assert not any(turn.unread for turn in turns) and learnt_of(turns) is None


@pytest.mark.parametrize("name", REASONING)
@pytest.mark.parametrize(("role", "content"), [("role", "content"), ("from", "value")])
def test_reasoning_is_read_under_each_of_its_names(name, role, content):
    turns = read_turns([{role: "user", content: "q"}, {role: "assistant", content: "a", name: "so"}], "x")
    assert turns[1].message == Message("assistant", "a", "so")


VALUES = [(False, False), (True, True), (0, False), (1, True), (0.0, False), ("false", False), ("True", True), ("no", False), ("0", False), ("1", True)]  # fmt: skip


@pytest.mark.parametrize("name", MARKS)
@pytest.mark.parametrize(("value", "learnt"), VALUES)
@pytest.mark.parametrize("role", ["role", "from"])
def test_every_mark_counts_in_every_form(name, value, learnt, role):
    content = "content" if role == "role" else "value"
    turns = [{role: "user", content: "q"}, {role: "assistant", content: "a", name: value}]
    for form in (turns, json.dumps(turns)):
        assert learnt_of(read_turns(form, "x")) == (False, learnt)


REFUSED = [
    ({"role": "assistant", "content": "a", "weight": 0.25}, "weight is 0.25; it can be true"),
    ({"role": "assistant", "content": "a", "train": "perhaps"}, "train is 'perhaps'"),
    ({"role": "assistant", "content": "a", "train": [False]}, "train is"),
    ({"role": "assistant", "content": "a", "train": True, "loss": 0}, "contradict"),
    ({"role": "user", "content": "a", "train": True}, "only an assistant's are"),
    ({"role": "assistant", "content": "a", "thinking": "x", "reasoning": "y"}, "differ"),
    ({"role": "assistant", "content": "a", "thinking": 3}, "reasoning"),
    ({"role": "user", "content": "a", "thinking": "x"}, "only an assistant has reasoning"),
    ({"role": "user", "from": "gpt", "content": "a"}, "role and from differ"),
    ({"role": "assistant", "content": "a", "value": "b"}, "content and value differ"),
    ({"content": "a"}, "has no role"),
    ({"role": "assistant", "content": [{"type": "text", "text": "a", "train": False}]}, "part 1 of the content has 'train'"),
    ({"role": "assistant", "content": [{"type": "thinking", "thinking": "a"}]}, "part 1 of the content"),
    ({"role": ["x"], "content": "a"}, r"role \['x'\]"),
    ({"from": "function_call", "value": "{"}, "is text and is not valid JSON"),
    ({"from": "function_call", "value": "[3]"}, "'name' and 'arguments'"),
    ({"role": "assistant", "content": "", "tool_calls": [CALL], "function_call": CALL}, "keep one"),
    ({"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"x": float("nan")}}]}, "JSON cannot express"),
    ({"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"x": b"y"}}]}, "holds a bytes"),
    ({"role": "assistant", "content": "", "tool_calls": 3}, "'name' and 'arguments'"),
]  # fmt: skip


@pytest.mark.parametrize(("turn", "message"), REFUSED)
def test_what_cannot_be_read_is_named_with_its_turn(turn, message):
    with pytest.raises(DataError, match=message) as caught:
        read_turns([{"role": "user", "content": "q"}, turn], "messages")
    assert str(caught.value).startswith("turn 2 of 'messages': ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [None, 3, "", "words", "[", "[2]", [], [2], {}, {"role": ["user"], "content": []}, [[]], "{}"])  # fmt: skip
def test_what_is_no_conversation_is_refused(value):
    with pytest.raises(DataError, match="'x'"):
        read_turns(value, "x")


def test_fields_that_nobody_knows_are_named():
    turns = [
        {"role": "user", "content": "q", "id": 3, "timestamp": "now"},
        {"role": "assistant", "content": "a", "mood": "x", "flag": False},
    ]
    assert [turn.unread for turn in read_turns(turns, "x")] == [(), ("mood", "flag")]
