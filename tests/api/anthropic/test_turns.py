"""Turns as chat messages: which blocks become what, and where errors point."""

from __future__ import annotations

import pytest

from coterie.api.anthropic.bodies import InputMessage
from coterie.api.anthropic.turns import TurnReader, carried, signature
from coterie.hosting.errors import ApiError
from coterie.protocol.body import read
from coterie.protocol.fields import Ignored


def text(words: str) -> dict:
    return {"type": "text", "text": words}


def use(id: str, **arguments: object) -> dict:
    return {"type": "tool_use", "id": id, "name": "add", "input": arguments}


def result(id: str, content: object = "3", **more: object) -> dict:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **more}


def reader(*turns: tuple[str, object], system: str | None = None) -> TurnReader:
    given = TurnReader(Ignored())
    given.read(system, [read(InputMessage, {"role": role, "content": content})[0] for role, content in turns])
    return given


def test_a_tool_loop():
    given = reader(
        ("user", "1+2?"),
        ("assistant", [{"type": "thinking", "thinking": "Hm.", "signature": "x"}, text("I "), text("add."),
                       use("t1", a=1, b="é"), use("t2")]),
        ("user", [text("And?"), result("t1"), result("t2", [text("4"), text("5")], is_error=True)]),
        system="Be brief",
    )  # fmt: skip
    called = [
        {"id": id, "type": "function", "function": {"name": "add", "arguments": arguments}}
        for id, arguments in (("t1", '{"a": 1, "b": "é"}'), ("t2", "{}"))
    ]
    assert given.messages == [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "1+2?"},
        {"role": "assistant", "content": "I add.", "reasoning_content": "Hm.", "tool_calls": called},
        {"role": "tool", "content": "3", "tool_call_id": "t1", "name": "add"},
        {"role": "tool", "content": "Error: 45", "tool_call_id": "t2", "name": "add"},
        {"role": "user", "content": "And?"},
    ]
    # Messages are counted with the system prompt, the results apart; places are those of the request.
    for ours, theirs in (
        ("/messages/1: x", "/messages/0: x"),
        ("/messages/2/tool_calls/1/function/arguments", "/messages/1/content/4/input"),
        ("/messages/4", "/messages/2/content/2"),
        ("/messages/5: /messages/0", "/messages/2: /system"),
    ):
        assert given.translated(ours) == theirs


def test_turns_of_one_role_are_one_turn():
    given = reader(
        ("user", "a"), ("user", [text("b")]), ("assistant", [use("t1")]), ("assistant", [use("t2")]),
        ("user", [result("t1")]), ("user", [result("t2"), text("c")]), ("user", "d"),
    )  # fmt: skip
    assert [(one["role"], one["content"]) for one in given.messages] == [
        ("user", "a\n\nb"), ("assistant", ""), ("tool", "3"), ("tool", "3"), ("user", "c\n\nd")
    ]  # fmt: skip
    assert [call["id"] for call in given.messages[1]["tool_calls"]] == ["t1", "t2"]
    assert given.translated("/messages/1/tool_calls/1") == "/messages/3/content/0/input"


def test_a_system_turn_stays_where_it_is():
    given = reader(("user", "a"), ("system", [text("Be brief")]), ("user", "b"), system="Be kind")
    assert [one["role"] for one in given.messages] == ["system", "user", "system", "user"]
    first = reader(("system", "Be brief"), ("user", "b"), system="Be kind")
    assert [one["content"] for one in first.messages] == ["Be kind", "Be brief", "b"]


def test_a_system_turn_may_last_for_one_turn():
    note = {"role": "system", "content": "Be brief", "clear_at": "next_user_message"}
    told = [read(InputMessage, turn)[0] for turn in ({"role": "user", "content": "a"}, note)]
    for turns, count in ((told, 2), ([*told, told[0]], 1)):
        given = TurnReader(Ignored())
        given.read(None, turns)
        assert len(given.messages) == count


def test_results_of_all_forms():
    found = [{"type": "tool_reference", "tool_name": "add"}]
    given = reader(("user", [result("x", found), {"type": "tool_result", "tool_use_id": "y"},
                             result("z", "", is_error=True)]))  # fmt: skip
    assert [one["content"] for one in given.messages] == ["add", "", "Error"]


@pytest.mark.parametrize(
    ("role", "block"),
    [("user", use("t")), ("assistant", result("t")), ("system", {"type": "thinking", "thinking": "x"})],
)
def test_blocks_of_the_wrong_role(role, block):
    with pytest.raises(ApiError) as caught:
        reader((role, [text("a"), block]))
    assert caught.value.param == "/messages/0/content/1/type"


def test_reasoning_in_a_signature():
    assert carried(signature("Hm. é", carry=True)) == "Hm. é"
    for other in (signature("Hm.", carry=False), "", "EqQBCkYIARgCKkDa", "é", "aGVsbG8="):
        assert carried(other) == ""
    thought = {"type": "thinking", "thinking": "", "signature": signature("Hm.", carry=True)}
    told = reader(
        ("user", "a"), ("assistant", [thought, {"type": "redacted_thinking", "data": "x"}, text("b")])
    )
    assert told.messages[1]["reasoning_content"] == "Hm."
