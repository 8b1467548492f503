"""`/v1/messages` and `count_tokens`: streamed equals plain, the words are those of the chat API, errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coterie.api.anthropic.events import fold
from tests.api.anthropic.test_turns import result, text
from tests.hosting.constraints.test_grammar import ADD, CLOSES, NO_REASONING, OPENS, SCHEMA
from tests.serve.support import ASK, call, serving

PATH = "/v1/messages"
TOOL = {"name": "add", "description": "Adds.", "input_schema": ADD["parameters"]}
BODY = {"model": "tiny", "max_tokens": 20, "messages": ASK, "seed": 4, "temperature": 1}
LONG = [{"role": "user", "content": "Hello! " * 1000}]
FORCED = {"tools": [TOOL], "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
          "logit_bias": NO_REASONING, "max_tokens": 120}  # fmt: skip


def ask(server: Any, path: str = PATH, **body: Any) -> dict[str, Any]:
    status, _, answer = call(server.url, "POST", path, {**BODY, **body} if path == PATH else body)
    assert status == 200, answer
    return answer


def streamed(server: Any, **body: Any) -> list[dict[str, Any]]:
    return events_in(call(server.url, "POST", PATH, {**BODY, **body, "stream": True})[2])


def events_in(raw: str) -> list[dict[str, Any]]:
    """The events of a stream, whose names are their types."""
    events = []
    for block in filter(None, raw.split("\n\n")):
        if block.startswith(":"):
            continue
        name, _, data = block.partition("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"logit_bias": {OPENS: 60, CLOSES: 50}},
        {"logit_bias": {OPENS: 60, CLOSES: 50}, "thinking": {"type": "adaptive", "display": "omitted"}},
        {"logit_bias": {OPENS: 60, CLOSES: 50}, "thinking": {"type": "enabled", "budget_tokens": 1}},
        FORCED,
        {**FORCED, "max_tokens": 12},
        {"moe": {"routing": "summary"}},
        {"max_tokens": 10_000, "stop_sequences": ["e", "a", "i", "N"]},
    ],
)
def test_streamed_equals_plain(server, more):
    plain, events = ask(server, **more), streamed(server, **more)
    whole = fold(events)
    assert (whole.pop("x_coterie_ignored", None) is not None) == (more.get("max_tokens") == 10_000)
    for one in (whole, plain):  # ids are new ones each time
        assert one.pop("id").startswith("msg_")
        assert all(block.pop("id").startswith("call_") for block in one["content"] if "id" in block)
    assert whole == plain
    kinds = [event["type"] for event in events]
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
    assert events[0]["message"]["usage"]["input_tokens"] == plain["usage"]["input_tokens"]
    assert events[0]["message"]["stop_reason"] is None and plain["stop_reason"] is not None


def test_the_words_of_the_chat_api(server):
    answer = ask(server)
    chat = ask(server, "/v1/chat/completions", **BODY)
    assert answer["content"] == [text(chat["choices"][0]["message"]["content"])]
    assert answer["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]
    assert answer["usage"]["output_tokens"] == chat["usage"]["completion_tokens"] == 20
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("max_tokens", None)
    assert (answer["type"], answer["role"], answer["model"]) == ("message", "assistant", "tiny")


def test_stop_reasons(server):
    words = ask(server)["content"][0]["text"]
    found = ask(server, stop_sequences=["never", words[4:6]])
    assert (found["stop_reason"], found["stop_sequence"]) == ("stop_sequence", words[4:6])
    assert found["content"] == [text(words[:4])]
    long = ask(server, max_tokens=10**6)
    used = long["usage"]["input_tokens"] + long["usage"]["output_tokens"]
    assert long["stop_reason"] == "end_turn" or (long["stop_reason"], used) == (
        "model_context_window_exceeded", 512
    )  # fmt: skip


def test_max_tokens_beyond_the_context_are_reduced_and_named(server):
    body = {**BODY, "max_tokens": 32_000, "stop_sequences": ["e", "a"]}
    _, headers, _ = call(server.url, "POST", PATH, body)
    assert headers["x-coterie-ignored"] == "max_tokens"
    assert streamed(server, **body)[-2]["x_coterie_ignored"] == ["max_tokens"]


def test_a_tool_loop_over_three_turns(server):
    turns: list[dict[str, Any]] = [{"role": "user", "content": "1+1?"}]
    for _ in range(2):
        answer = ask(server, messages=turns, **FORCED)
        (made,) = answer["content"]
        assert (answer["stop_reason"], made["type"], made["name"]) == ("tool_use", "tool_use", "add")
        assert set(made["input"]) == {"a", "b"}
        turns += [
            {"role": "assistant", "content": answer["content"]},
            {"role": "user", "content": [result(made["id"], str(sum(made["input"].values())))]},
        ]
    last = ask(server, messages=turns, tools=[TOOL], tool_choice={"type": "none"}, max_tokens=4)
    chat = [{"role": "user", "content": "1+1?"}]
    for asked, given in zip(turns[1::2], turns[2::2], strict=True):
        block, returned = asked["content"][0], given["content"][0]
        function = {"name": "add", "arguments": json.dumps(block["input"])}
        calls = [{"id": block["id"], "type": "function", "function": function}]
        done = {"role": "tool", "content": returned["content"], "tool_call_id": block["id"], "name": "add"}
        chat += [{"role": "assistant", "content": "", "tool_calls": calls}, done]
    same = ask(server, "/v1/chat/completions", **{**BODY, "messages": chat, "max_tokens": 4})
    assert last["usage"]["input_tokens"] == same["usage"]["prompt_tokens"]
    assert "".join(b["text"] for b in last["content"]) == same["choices"][0]["message"]["content"]


def test_a_call_that_is_cut_comes_with_its_arguments_so_far(server):
    (whole,) = ask(server, **FORCED)["content"]
    for number, keys in ((12, ""), (18, "a"), (24, "ab")):
        answer = ask(server, **{**FORCED, "max_tokens": number})
        assert answer["stop_reason"] == "max_tokens"
        (cut,) = answer["content"]
        assert cut["name"] == "add" and cut["input"] == {key: whole["input"][key] for key in keys}


def test_arguments_are_streamed_as_they_are_written(server):
    deltas = [event["delta"] for event in streamed(server, **FORCED) if "index" in event and "delta" in event]
    pieces = [delta["partial_json"] for delta in deltas]
    assert len(pieces) > 3 and set(json.loads("".join(pieces))) == {"a", "b"}


def test_structured_output(server):
    form = {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
    answer = ask(server, **form, max_tokens=200, logit_bias=NO_REASONING)
    assert set(json.loads(answer["content"][0]["text"])) == {"n", "kind", "tags"}


def test_the_count_is_that_of_the_prompt(server):
    for more in (
        {},
        {"system": [text("Be brief")], "messages": [*ASK, {"role": "assistant", "content": "I"}]},
        {"tools": [TOOL], "thinking": {"type": "disabled"}},
        {"tools": [TOOL], "tool_choice": {"type": "none"}},
    ):  # fmt: skip
        prompt = {"model": "tiny", "messages": ASK, **more}
        counted = ask(server, PATH + "/count_tokens", **prompt)
        assert counted == {"input_tokens": ask(server, **more, max_tokens=1)["usage"]["input_tokens"]}
    assert ask(server, PATH + "/count_tokens", model="tiny", messages=LONG)["input_tokens"] > 1000


def test_tokens_read_before_are_apart_where_a_cache_is_asked_for():
    marked = [
        {
            "role": "user",
            "content": [{**text("Once upon a time " * 20), "cache_control": {"type": "ephemeral"}}],
        }
    ]
    plain = [{"role": "user", "content": marked[0]["content"][0]["text"]}]
    with serving() as server:
        total = ask(server, messages=plain)["usage"]["input_tokens"]
        used = ask(server, messages=marked)["usage"]
        assert used["input_tokens"] + used["cache_read_input_tokens"] == total
        assert used["cache_read_input_tokens"] > 0 and used["cache_creation_input_tokens"] == 0
        assert ask(server, messages=plain)["usage"]["input_tokens"] == total


PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0K"}}
PAPER = {"type": "document", "source": {"type": "url", "url": "http://169.254.169.254/"}}


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({"messages": [{"role": "user", "content": [text("x"), PICTURE]}]}, "/messages/0/content/1/type"),
        ({"messages": [{"role": "user", "content": [PAPER]}]}, "/messages/0/content/0/type"),
        ({"messages": [{"role": "user", "content": [result("t", [PICTURE])]}]},
         "/messages/0/content/0/content/0/type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "/messages/0/content/0/text"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "/messages/0/content/0"),
        ({"messages": [{"role": "king", "content": "x"}]}, "/messages/0/role"),
        ({"messages": []}, "/messages"),
        ({"max_tokens": None}, "/max_tokens"),
        ({"max_tokens": 0}, "/max_tokens"),
        ({"temperature": 1.5}, "/temperature"),
        ({"tool_choice": {"type": "any"}}, "/tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "f"}}, "/tool_choice/name"),
        ({"tools": [{"name": "f"}]}, "/tools/0/input_schema"),
        ({"tools": [{**TOOL, "allowed_callers": ["code_execution_20250825"]}]}, "/tools/0/allowed_callers"),
        ({"thinking": {"type": "enabled"}}, "/thinking/budget_tokens"),
        ({"mcp_servers": [{"url": "http://x"}]}, "/mcp_servers"),
        ({"max_token": 3}, "/max_token"),
    ],
)  # fmt: skip
def test_refusals_point_to_the_field(server, more, place):
    status, headers, body = call(server.url, "POST", PATH, {**BODY, **more})
    assert (status, body["type"], body["error"]["type"]) == (400, "error", "invalid_request_error")
    assert body["error"]["message"].startswith(place + ": "), body
    assert headers["request-id"] == body["request_id"]


def test_errors_have_the_types_of_the_protocol(server):
    def error(path: str = PATH, method: str = "POST", **body: Any) -> tuple[int, str, str]:
        status, _, answer = call(server.url, method, path, {**BODY, **body})
        return status, answer["error"]["type"], answer["error"]["message"]

    status, kind, words = error(model="claude-sonnet-4-5")
    assert (status, kind) == (404, "not_found_error") and "--alias" in words
    assert error(method="PUT")[:2] == (405, "invalid_request_error")
    assert error(PATH + "/batches")[:2] == (404, "not_found_error")
    status, kind, words = error(messages=[{"role": "user", "content": "Hello! " * 1000}])
    total = ask(
        server, PATH + "/count_tokens", model="tiny", messages=[{"role": "user", "content": "Hello! " * 1000}]
    )
    # The words by which clients know that they must shorten the history, and by how much.
    assert (status, kind) == (400, "invalid_request_error")
    assert words == f"prompt is too long: {total['input_tokens']} tokens > 512 maximum"
