"""Any cutting of a reply's text gives the same message, in every family's format, and calls are numbered."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coterie.serve.endpoints.assemble import Assembler
from coterie.text.chat import parse_reply

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "é"}}\n</tool_call>'
PARTS = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    CALL,
    '{"name": "x"}',
    " ",
    "\n",
    "a",
    "<",
    "</",
    "fox é",
    "<th",
]


def assembled(pieces, **settings):
    reader = Assembler(**settings)
    reasoning, content, calls = "", "", []
    for piece in [*map(reader.feed, pieces), reader.finish()]:
        reasoning, content, calls = reasoning + piece.reasoning, content + piece.content, calls + piece.calls
    return (
        reasoning,
        content,
        [(c["index"], c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls],
    )


@given(st.lists(st.sampled_from(PARTS), max_size=8), st.data(), st.booleans(), st.booleans())
def test_cutting_changes_nothing(parts, data, opened, tools):
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=10)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = assembled([text], opened=opened, tools=tools)
    assert (
        assembled(pieces, opened=opened, tools=tools)
        == whole
        == assembled(list(text), opened=opened, tools=tools)
    )


@pytest.mark.parametrize(
    "text",
    ["Hello", " a fox \n", f"<think>\nhm\n</think>\n\n{CALL}", f"Sure.\n{CALL}\n{CALL}", "<think>never closed",
     "<tool_call>no json</tool_call> and on", "a < b", ""],
)  # fmt: skip
def test_the_same_as_the_parser_of_whole_replies(text):
    expected = parse_reply(text)
    reasoning, content, calls = assembled([text])
    assert (reasoning, content) == (expected.reasoning or "", expected.text)
    assert [(name, arguments) for _, name, arguments in calls] == [
        (c.name, dict(c.arguments)) for c in expected.tool_calls
    ]


def test_hidden_calls_leave_no_marks():
    assert assembled([f"Well. {CALL}"], hide_calls=True) == ("", "Well.", [])


def test_without_tools_marks_are_text():
    assert assembled([CALL], tools=False) == ("", CALL, [])
