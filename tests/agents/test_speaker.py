"""Asking a server for the next turn: the request that is sent, and the turn that its stream makes."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from coterie.agents.speaker import RemoteSpeaker, Sampling, StreamedReply, wire_messages
from coterie.config.errors import ConfigError
from coterie.config.json_text import encodable
from coterie.remote.client import Endpoint, EndpointError
from coterie.text.chat import Message, ToolCall
from tests.agents.fake import USAGE, FakeServer, call_chunks, chunk

ASK = [Message("user", "hello")]


def test_a_whole_reply() -> None:
    pieces: list[tuple[str, str]] = []
    events = [
        ": ping prefill=1/2\n\n",
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "hm", "reasoning": "hm"}),
        chunk({"content": "one\u2028two"}),
        *call_chunks("add", '{"a": 1}'),
        *call_chunks("add", "[oops", 1),
        chunk({}, "tool_calls"),
        USAGE,
    ]
    with FakeServer(lambda path, body: events) as server:
        speaker = RemoteSpeaker(Endpoint(server.url + "/v1/"))
        tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
        turn = speaker.say(
            ASK, tools, Sampling(0.5, None, 9, 3), on_piece=lambda *piece: pieces.append(piece)
        )
    assert turn.message == Message(
        "assistant", "one\u2028two", "hm", (ToolCall("add", {"a": 1}), ToolCall("add", {}))
    )
    assert (turn.prompt_tokens, turn.completion_tokens, turn.finish_reason) == (5, 2, "tool_calls")
    assert turn.broken[1].startswith("it is not valid JSON") and turn.broken[1].endswith(": [oops")
    assert pieces == [("reasoning", "hm"), ("text", "one\u2028two")]
    path, body, _ = server.seen[0]
    assert path == "/v1/chat/completions"
    assert {
        "model": "tiny",
        "temperature": 0.5,
        "max_tokens": 9,
        "seed": 3,
        "stream": True,
    }.items() <= body.items()
    assert (
        "top_p" not in body
        and body["tools"] == tools
        and body["messages"] == [{"role": "user", "content": "hello"}]
    )


def test_results_are_tied_to_their_calls() -> None:
    call = ToolCall("add", {"a": "é"})
    messages = [
        *ASK,
        Message("assistant", "", None, (call, call)),
        Message("tool", "1"),
        Message("tool", "2"),
    ]
    wired = wire_messages(messages)
    ids = [c["id"] for c in wired[1]["tool_calls"]]
    assert len(set(ids)) == 2 and [m["tool_call_id"] for m in wired[2:]] == ids
    assert wired[1]["tool_calls"][0]["function"]["arguments"] == '{"a": "é"}'
    with pytest.raises(ConfigError, match="without a call"):
        wire_messages([*ASK, Message("tool", "1")])


HOSTILE_ARGUMENTS = {
    "half a character": '{"path": "\\ud800"}',
    "deep list": "[" * 100_000,
    "deep object": '{"path":' * 50_000 + "1" + "}" * 50_000,
    "not JSON": "{bad",
    "NaN": '{"a": NaN}',
    "huge number": '{"a": 1' + "0" * 10_000 + "}",
    "a number": "5",
    "null": "null",
    "text": '"x"',
}


@pytest.mark.parametrize("case", HOSTILE_ARGUMENTS)
def test_arguments_that_cannot_be_used(case: str) -> None:
    """The loop shows the reason to the model; a traceback here would lose the conversation."""
    reply = StreamedReply()
    for event in (*call_chunks("read", HOSTILE_ARGUMENTS[case]), chunk({}, "tool_calls")):
        reply.feed(event)
    turn = reply.turn()
    assert turn.message.tool_calls == (ToolCall("read", {}),)
    assert len(turn.broken[0]) < 600 and encodable(turn.broken[0])


WRONG: list[Any] = [None, 5, "x", [], {}, [5], ["x"], [[]], {"a": 1}, True, 1e300]


def test_fields_of_wrong_types() -> None:
    """A broken server gives a reply or one clear error."""
    for field in ("content", "reasoning", "reasoning_content", "tool_calls", "role"):
        for value in WRONG:
            for event in (
                chunk({field: value}),
                {**chunk(), "choices": value},
                {**chunk({"content": "a"}), "usage": value},
                {**chunk(), "choices": [{"delta": value, "finish_reason": value}]},
                chunk({"tool_calls": [{"index": 0, "function": {"name": value, "arguments": value}}]}),
                chunk({"tool_calls": [{"index": value, "function": value}]}),
                chunk(usage={"prompt_tokens": value, "completion_tokens": value}),
            ):
                reply = StreamedReply()
                with contextlib.suppress(EndpointError):
                    reply.feed(event)
                turn = reply.turn()
                assert isinstance(turn.message.text, str) and isinstance(turn.prompt_tokens, int | None)


def test_a_character_cut_in_two_is_joined() -> None:
    pieces: list[str] = []
    reply = StreamedReply(lambda kind, text: pieces.append(text))
    for text in ("a\ud83d", "\ude00b", "c\ud83d", "d\ude00", "e\ud83d"):
        reply.feed(chunk({"content": text}))
    assert reply.turn().message.text == "a\U0001f600bc\ufffdd\ufffde\ufffd" == "".join(pieces)
