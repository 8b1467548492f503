"""Requests by hand, as Claude Code's documentation says that it sends them to a server.

https://code.claude.com/docs/en/llm-gateway-protocol; the program itself is not run.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from coterie.api.anthropic.events import fold
from coterie.hosting.host import Host
from coterie.serve.server import ServerThread
from tests.api.anthropic.test_messages import events_in
from tests.api.anthropic.test_turns import result, text
from tests.hosting.constraints.test_grammar import NO_REASONING
from tests.serve.support import call, language_model, service

PATH = "/v1/messages?beta=true"
KEY = "sk-local"
HEADERS = {
    "accept": "application/json",
    "anthropic-beta": "claude-code-20250219,context-1m-2025-08-07,interleaved-thinking-2025-05-14,"
    "context-management-2025-06-27,effort-2025-11-24,one-that-comes-later-2027-01-01",
    "anthropic-version": "2023-06-01",
    "anthropic-dangerous-direct-browser-access": "true",
    "user-agent": "claude-cli/2.1.212 (external, cli)",
    "x-app": "cli",
    "x-claude-code-session-id": "0b0f4a5e-7f0e-4a53-9d1b-3f3b2f8a5b11",
    "x-claude-code-agent-id": "a1b2",
    "x-stainless-lang": "js",
    "x-stainless-retry-count": "0",
}
CACHED = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
SYSTEM = [
    text("x-anthropic-billing-header: cc_version=2.1.212.f3a; cc_entrypoint=cli;"),
    {**text("You are Claude Code, Anthropic's official CLI for Claude."), **CACHED},
    {**text("\nUse the tools to help the user."), **CACHED},
]
TOOLS: list[dict[str, Any]] = [{"name": f"t{n}", "input_schema": {}} for n in range(140)]
TOOLS[0] |= {"name": "Read", "strict": False, "eager_input_streaming": True,
             "input_schema": {"type": "object", "properties": {"path": {"type": "string", "maxLength": 4}},
                              "required": ["path"], "additionalProperties": False},
             "input_examples": [{"path": "a.py"}]}  # fmt: skip
TOOLS[1] |= {"type": "custom", "defer_loading": True, "allowed_callers": ["direct"]}
TOOLS[-1] |= CACHED
SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
BODY = {
    "model": "claude-local",
    "max_tokens": 32_000,
    "stream": True,
    "system": SYSTEM,
    "tools": [*TOOLS, SEARCH],
    "messages": [{"role": "user", "content": [text("<system-reminder>\nx\n</system-reminder>"),
                                              {**text("Read a.py"), **CACHED}]}],
    "metadata": {"user_id": '{"device_id": "d", "session_id": "s"}'},
    "thinking": {"type": "adaptive"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
    "stop_sequences": ["e", "a"],  # ours, so that a random model ends
}  # fmt: skip


@pytest.fixture(scope="module")
def gateway() -> Iterator[ServerThread]:
    model = language_model(max_positions=2**15)
    with ServerThread(Host.of(service(model, "claude-local", api_key=KEY))) as server:
        yield server


def send(gateway: ServerThread, path: str = PATH, **body: Any) -> tuple[dict[str, str], Any]:
    headers = {**HEADERS, "authorization": f"Bearer {KEY}", "x-api-key": KEY}
    status, found, answer = call(gateway.url, "POST", path, {**BODY, **body}, headers)
    assert status == 200, answer
    return found, answer


def test_a_turn_with_many_tools(gateway):
    headers, raw = send(gateway)
    events = events_in(raw)
    message = fold(events)
    assert message["stop_reason"] in ("stop_sequence", "model_context_window_exceeded", "end_turn")
    named = headers["x-coterie-ignored"].split(",")
    assert named == events[-2]["x_coterie_ignored"] and set(named) == {
        "metadata", "context_management", "system.cache_control", "tools.eager_input_streaming",
        "tools.input_examples", "tools.defer_loading", "tools.cache_control",
        "messages.content.cache_control", "tools/140", "max_tokens",
    }  # fmt: skip
    counted = {name: BODY[name] for name in ("model", "system", "tools", "messages", "thinking")}
    status, _, count = call(gateway.url, "POST", "/v1/messages/count_tokens?beta=true", counted,
                            {**HEADERS, "x-api-key": KEY})  # fmt: skip
    usage = message["usage"]
    assert status == 200
    assert count["input_tokens"] == usage["input_tokens"] + usage["cache_read_input_tokens"] > 3000
    # The second time the start of the prompt is not read again.
    again = fold(events_in(send(gateway)[1]))["usage"]
    assert again["cache_read_input_tokens"] > 3000 > again["input_tokens"]


def test_a_tool_is_called_and_its_result_is_read(gateway):
    asked: dict[str, Any] = {"tools": TOOLS[:1], "max_tokens": 100, "logit_bias": NO_REASONING}
    forced = {**asked, "tool_choice": {"type": "tool", "name": "Read"}, "seed": 1}
    message = fold(events_in(send(gateway, **forced)[1]))
    (used,) = message["content"]
    assert (used["type"], used["name"], set(used["input"])) == ("tool_use", "Read", {"path"})
    turns = [
        *BODY["messages"],
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "", "signature": "EqQBCkYIARgCKkDa"}, used]},
        {"role": "user", "content": [{**result(used["id"], "<tool_use_error>no such file</tool_use_error>",
                                               is_error=True), **CACHED}]},
        {"role": "system", "content": "The user is away."},
    ]  # fmt: skip
    assert fold(events_in(send(gateway, **asked, messages=turns)[1]))["stop_reason"] is not None


def test_discovery_and_probes(gateway):
    for key in ({"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}):
        status, _, listed = call(gateway.url, "GET", "/v1/models?limit=1000", headers={**HEADERS, **key})
        assert status == 200 and "claude-local" in [model["id"] for model in listed["data"]]
    status, headers, body = call(gateway.url, "GET", "/v1/models?limit=1000", headers=HEADERS)
    assert (status, body["error"]["type"]) == (401, "authentication_error")
    assert headers["request-id"] == body["request_id"]
    with pytest.raises(urllib.error.HTTPError) as caught:  # a probe of the connection; the page is off here
        urllib.request.urlopen(urllib.request.Request(gateway.url, method="HEAD"), timeout=10)
    assert caught.value.code == 401


def test_the_request_of_a_name_for_a_session(gateway):
    """Small requests beside the conversation: no stream, a schema for the answer."""
    schema = {"type": "object", "properties": {"title": {"type": "string", "maxLength": 5}},
              "required": ["title"], "additionalProperties": False}  # fmt: skip
    _, message = send(
        gateway,
        stream=False,
        tools=[],
        thinking={"type": "disabled"},
        max_tokens=200,
        output_config={"format": {"type": "json_schema", "schema": schema}},
        stop_sequences=None,
    )
    assert set(json.loads(message["content"][0]["text"])) == {"title"}
