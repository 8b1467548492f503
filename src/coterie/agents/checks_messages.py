"""Checks of Anthropic's API: `/v1/messages` whole and streamed, tools, counting, errors in its envelope."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from coterie.agents.checks import Absent, Client, check, events, expect, honoured, ok
from coterie.agents.checks_chat import WEATHER
from coterie.remote.client import Answer
from coterie.sandbox.schemas import problem

PATH = "/v1/messages"
HEADERS = {"anthropic-version": "2023-06-01"}
REASONS = ("end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded", "refusal")
TOOL = {"name": "get_weather", "description": "Weather.", "input_schema": WEATHER}
FORCED: dict[str, Any] = {"tools": [TOOL], "tool_choice": {"type": "any"}, "max_tokens": 200}


def _send(client: Client, path: str = PATH, /, **fields: Any) -> Answer:
    messages = [{"role": "user", "content": "Hello"}]
    body = {"model": client.model, "messages": messages, "max_tokens": 8, "temperature": 0} | fields
    sent = {key: value for key, value in body.items() if value is not None}
    return client.send("POST", path, sent, headers=HEADERS)


def _prompt(usage: Mapping[str, Any]) -> int:
    """The tokens of the whole prompt; those of a cache are counted apart."""
    parts = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    return sum(usage.get(part) or 0 for part in parts)


@check("messages", "form of a message", needed=False)
def form(client: Client) -> None:
    """A message has its type, role, blocks, stop reason and usage."""
    data = ok(_send(client), PATH)
    expect((data["type"], data["role"]) == ("message", "assistant"), "type or role is wrong")
    expect(data["stop_reason"] in REASONS, f"stop_reason is {data['stop_reason']!r}")
    expect(all(isinstance(block["type"], str) for block in data["content"]), "a block has no type")
    expect(0 < data["usage"]["output_tokens"] <= 8, f"usage {data['usage']} for max_tokens 8")


@check("messages", "events of a message add up", needed=False)
def streamed(client: Client) -> None:
    """A stream goes from message_start to message_stop, and its blocks are those of the whole message."""
    whole = ok(_send(client), PATH)
    built, reason = _built(events(_send(client, stream=True), PATH))
    plain = [(block["type"], block.get("text") or block.get("thinking") or "") for block in whole["content"]]
    expect(built == plain, f"streamed {str(built)[:80]}, whole {str(plain)[:80]}")
    expect(reason == whole["stop_reason"], f"streamed stop_reason {reason!r}, whole {whole['stop_reason']!r}")


def _built(got: list[Any]) -> tuple[list[tuple[str, str]], str | None]:
    """The type and text of each block that a stream's events add up to, and the stop reason."""
    named = [event for event in got if event["type"] != "ping"]
    expect(named[0]["type"] == "message_start", f"the first event is {named[0]['type']}")
    expect(named[-1]["type"] == "message_stop", f"the last event is {named[-1]['type']}")
    blocks: list[tuple[str, str]] = []
    reason = None
    for event in named:
        if event["type"] == "content_block_start":
            expect(event["index"] == len(blocks), "blocks are not numbered one by one")
            blocks.append((event["content_block"]["type"], ""))
        elif event["type"] == "content_block_delta":
            delta, (kind, text) = event["delta"], blocks[event["index"]]
            more = delta.get("text") or delta.get("thinking") or delta.get("partial_json") or ""
            blocks[event["index"]] = (kind, text + more)
        elif event["type"] == "message_delta":
            reason = event["delta"].get("stop_reason")
    return blocks, reason


@check("messages", "count_tokens", needed=False)
def counted(client: Client) -> None:
    """`/v1/messages/count_tokens` counts what a message then uses, with tools too."""
    for fields in ({}, {"tools": [TOOL], "system": "Be brief."}):
        asked = _send(client, PATH + "/count_tokens", max_tokens=None, temperature=None, **fields)
        count = ok(asked, "count_tokens")["input_tokens"]
        used = _prompt(ok(_send(client, **fields), PATH)["usage"])
        expect(count == used, f"count_tokens says {count}, the usage {used}")


@check("messages", "tool_use", needed=False)
def tools(client: Client) -> None:
    """A call that must be made fits its schema, and a stream gives the same input."""
    data = honoured(_send(client, **FORCED), "tool_choice any")
    calls = [block for block in data["content"] if block["type"] == "tool_use"]
    expect(calls and data["stop_reason"] == "tool_use", f"no call; stop_reason {data['stop_reason']!r}")
    wrong = problem(calls[0]["input"], WEATHER)
    expect(wrong is None, f"the input breaks the schema: {wrong}")
    built, _ = _built(events(_send(client, stream=True, **FORCED), PATH))
    inputs = [json.loads(text) for kind, text in built if kind == "tool_use"]
    expect(inputs == [call["input"] for call in calls], f"streamed {str(inputs)[:80]}")


@check("messages", "errors in its envelope", needed=False)
def envelope(client: Client) -> None:
    """Errors are `{"type": "error", "error": {"type", "message"}}`, whole and before a stream."""
    ok(_send(client), PATH)
    king: dict[str, Any] = {"messages": [{"role": "king", "content": "x"}]}
    for what, status, fields in (
        ("role 'king'", 400, king),
        ("role 'king' in a stream", 400, king | {"stream": True}),
        ("an unknown model", 404, {"model": "no-such-model-anywhere"}),
    ):
        answer = _send(client, **fields)
        expect(answer.status == status, f"{what}: status {answer.status}, not {status}")
        whole = answer.data if isinstance(answer.data, Mapping) else {}
        error = whole.get("error")
        named = isinstance(error, Mapping) and all(isinstance(error.get(k), str) for k in ("type", "message"))
        expect(named and whole.get("type") == "error", f"{what}: another form: {answer.text[:120]}")


def prompt_tokens(client: Client, messages: list[dict[str, str]]) -> int:
    """The prompt's tokens of a conversation. Errors: `Absent` where the server lacks the protocol."""
    answer = _send(client, messages=messages)
    if answer.status != 200:
        raise Absent(f"{PATH}: status {answer.status}")
    return _prompt(answer.data["usage"])
