"""What requests demand: allowed tools, a forced call beside a format, schemas that are enforced in part."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coterie.protocol.demands import names_of
from tests.serve.support import ASK, call, tokenizer

NO_REASONING = {str(tokenizer().token_id("<think>")): -100}
X = {"type": "object", "properties": {"x": {"enum": [1, 2]}}, "required": ["x"]}
CALLS = {str(tokenizer().token_id("<tool_call>")): 100}


def tools(*names: str, schema: dict[str, Any] = X, **more: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": name, "parameters": schema, **more}} for name in names]


def allowed(mode: str, *names: str) -> dict[str, Any]:
    listed = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": listed}}


def ask(server: Any, **more: Any) -> tuple[dict[str, Any], list[str], int]:
    """The first choice, the ignored fields, and the number of tokens of the prompt."""
    body = {
        "model": "tiny",
        "messages": ASK,
        "max_tokens": 120,
        "logit_bias": NO_REASONING,
        "seed": 1,
        **more,
    }
    status, headers, answer = call(server.url, "POST", "/v1/chat/completions", body)
    assert status == 200, answer
    named = headers.get("x-coterie-ignored", "")
    return answer["choices"][0], named.split(",") if named else [], answer["usage"]["prompt_tokens"]


def called(choice: dict[str, Any]) -> list[str]:
    return [made["function"]["name"] for made in choice["message"].get("tool_calls", ())]


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_only_allowed_tools_are_called_and_all_are_shown(server, mode):
    given = {
        "tools": tools("f", "g", "h", strict=True),
        "max_tokens": 60,
        "logit_bias": {**NO_REASONING, **CALLS},
    }
    _, _, shown = ask(server, **{**given, "max_tokens": 1})
    for seed in range(2):
        choice, ignored, size = ask(server, **given, seed=seed, tool_choice=allowed(mode, "g", "h"))
        assert called(choice) and {*called(choice)} <= {"g", "h"} and not ignored and size == shown
        assert all(json.loads(made["function"]["arguments"]) for made in choice["message"]["tool_calls"])
    free, _, _ = ask(server, tools=given["tools"], tool_choice=allowed("auto", "g"), max_tokens=4)
    assert free["message"]["content"] and not called(free)


def test_allowed_tools_of_the_responses_api(server):
    flat = [{"type": "web_search"}, *({"type": "function", **tool["function"]} for tool in tools("f", "g"))]
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]}
    body = {"model": "tiny", "input": "x", "tools": flat, "tool_choice": choice, "logit_bias": NO_REASONING,
            "max_output_tokens": 100, "text": {"format": {"type": "json_object"}}}  # fmt: skip
    status, headers, answer = call(server.url, "POST", "/v1/responses", body)
    assert status == 200 and headers["x-coterie-ignored"] == "tools/0,text.format"
    assert {item["name"] for item in answer["output"]} == {"g"}
    body["tool_choice"] = {**choice, "tools": [{"type": "function", "name": "no"}]}
    _, _, answer = call(server.url, "POST", "/v1/responses", body)
    assert answer["error"]["param"] == "/tool_choice/tools/0/name"
    body |= {"tool_choice": "required", "tools": [*flat, {"type": "function", "name": "h", "strict": True,
                                                          "parameters": {"not": {}}}]}  # fmt: skip
    _, _, answer = call(server.url, "POST", "/v1/responses", body)
    assert answer["error"]["param"] == "/tools/3/parameters/not"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
def test_a_forced_call_beside_a_format_is_a_call(server, choice):
    made, ignored, _ = ask(
        server, tools=tools("f"), tool_choice=choice, response_format={"type": "json_object"}
    )
    assert called(made) and ignored == ["response_format"]


def test_a_forced_call_of_an_open_schema_ends(server):
    for schema in (X, {"type": "object", "properties": {"x": X}, "required": ["x"]}):
        choice, _, _ = ask(
            server, tools=tools("f", schema=schema), tool_choice="required", parallel_tool_calls=False
        )
        assert choice["finish_reason"] == "tool_calls"
        assert set(json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])) == {"x"}
    bare = [{"type": "function", "function": {"name": "now"}}]
    choice, _, _ = ask(server, tools=bare, tool_choice="required", parallel_tool_calls=False)
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == "{}"


LOOSE = {**X, "not": {"properties": {"x": {"const": 1}}}}


def test_what_is_not_enforced_is_named_and_checked(server):
    """Each of the two replies occurs; the stream says the same."""
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": LOOSE}}
    place, seen = "/response_format/json_schema/schema/not", set()
    for seed in range(6):
        choice, ignored, _ = ask(server, response_format=form, seed=seed)
        ends = json.loads(choice["message"]["content"])["x"] == 1
        assert ignored == [place]
        assert choice["x_coterie_schema"].startswith(f"violated: {place} " if ends else "satisfied")
        seen.add(ends)
        if len(seen) == 2:
            break
    else:
        pytest.fail("only one of the two replies occurred")
    body = {"model": "tiny", "messages": ASK, "logit_bias": NO_REASONING, "seed": seed, "stream": True,
            "max_tokens": 120, "response_format": form}  # fmt: skip
    _, _, events = call(server.url, "POST", "/v1/chat/completions", body)
    last = json.loads(events.split("data: ")[-2])["choices"][0]
    assert last["finish_reason"] and last["x_coterie_schema"] == choice["x_coterie_schema"]


def test_a_call_is_checked_too_and_a_cut_reply_is_not(server):
    unique = {"type": "array", "minItems": 3, "maxItems": 3, "uniqueItems": True, "items": {"enum": [1, 2]}}
    schema = {"type": "object", "properties": {"x": unique}, "required": ["x"]}
    given = {
        "tools": tools("e", "f", schema=schema),
        "tool_choice": {"type": "function", "function": {"name": "f"}},
    }
    choice, ignored, _ = ask(server, **given)
    place = "/tools/1/function/parameters/properties/x/uniqueItems"
    assert ignored == [place] and choice["x_coterie_schema"].startswith(f"violated: {place} ")
    cut, _, _ = ask(server, **given, max_tokens=5)
    assert cut["finish_reason"] == "length" and "x_coterie_schema" not in cut


def test_names_fit_a_header():
    names = names_of(tuple(f"/s/properties/é,\n{i}/not" for i in range(40)))
    assert len(names) == 17 and names[-1] == "and 24 more"
    assert all(name.isascii() and "," not in name and "\n" not in name for name in names)
