"""Asking a server for the next turn: the request that is sent, and the turn that its stream makes."""

from __future__ import annotations

import pytest

from coterie.agents.speaker import RemoteSpeaker, Sampling, wire_messages
from coterie.config.errors import ConfigError
from coterie.remote.client import Endpoint
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
    assert turn.broken == {1: "[oops"}
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
