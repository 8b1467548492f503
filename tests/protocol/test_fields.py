"""Fields beside those that are honoured: named when they have no effect, refused when they would have one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletionMessage
from openai.types.responses import Response
from pydantic import BaseModel

from coterie.protocol.fields import Ignored, UnreadField, asks_for_nothing, sift
from tests.serve.support import ASK, call, serving

CHAT = "/v1/chat/completions"
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
FORMS = {
    "object": lambda said: said,
    "whole": lambda said: said.model_dump(mode="json", warnings=False),
    "set": lambda said: said.model_dump(mode="json", exclude_none=True, warnings=False),
}


class Pick(BaseModel):
    x: Literal["a", "b"]


@pytest.fixture(scope="module")
def said(client: openai.OpenAI) -> dict[str, Any]:
    """Replies as the package's own objects: plain, parsed, with calls, put together from a stream."""
    tools: dict[str, Any] = {"tools": [openai.pydantic_function_tool(Pick)], "tool_choice": "required"}
    asked: dict[str, Any] = {"model": "tiny", "messages": ASK, "seed": 1, "parallel_tool_calls": False}
    chats = client.chat.completions
    with chats.stream(**asked, **tools, max_tokens=200) as stream:
        streamed = stream.get_final_completion().choices[0].message
    thought = {"role": "assistant", "content": None, "refusal": None, "reasoning_content": "hm"}
    return {
        "plain": chats.create(model="tiny", messages=ASK, max_tokens=4).choices[0].message,
        "parsed": chats.parse(**asked, response_format=Pick, max_tokens=200).choices[0].message,
        "called": chats.parse(**asked, **tools, max_tokens=200).choices[0].message,
        "streamed": streamed,
        "thought": ChatCompletionMessage.model_validate(thought),
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["plain", "parsed", "called", "streamed", "thought"])
def test_a_reply_of_the_openai_package_may_be_sent_back(client, said, kind, form):
    message = said[kind]
    results = [{"role": "tool", "tool_call_id": one.id, "content": "1"} for one in message.tool_calls or ()]
    answer = client.chat.completions.with_raw_response.create(
        model="tiny", messages=[*ASK, FORMS[form](message), *(results or ASK)], max_tokens=1
    )
    named = answer.headers.get("x-coterie-ignored", "")
    assert ("messages.parsed" in named) == (kind == "parsed"), named
    assert ("parsed_arguments" in named) == (kind in ("called", "streamed")), named


@pytest.mark.parametrize("form", FORMS)
def test_a_response_may_be_sent_back(client, form):
    """Items of every type, with all fields that the package knows; those without effect are named."""
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "phase": None}
    text = {"type": "output_text", "text": "hi", "annotations": [], "logprobs": []}
    call_item = {"type": "function_call", "id": "f", "call_id": "c", "name": "f", "arguments": "{}"}
    reasoning = {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": None}
    thought = {**reasoning, "content": [{"type": "reasoning_text", "text": "hm"}]}
    output = [thought, {**message, "content": [text]}, {**call_item, "status": "completed"}]
    fields = {"id": "r", "created_at": 1, "model": "tiny", "object": "response", "tools": []}
    whole = Response.model_validate(
        {**fields, "output": output, "parallel_tool_calls": True, "tool_choice": "auto"}
    )
    result = {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "1"}]}
    answer = client.responses.with_raw_response.create(
        model="tiny",
        input=[{"role": "user", "content": "x"}, *map(FORMS[form], whole.output), result],
        max_output_tokens=1,
    )
    named = set(answer.headers["x-coterie-ignored"].split(","))
    assert {"input.message.id", "input.reasoning.id", "input.function_call.status"} <= named
    seeded = {"seed": 1}  # without one, the untrained model may think up to the limit before its answer
    real = client.responses.parse(
        model="tiny", input="x", text_format=Pick, max_output_tokens=200, extra_body=seeded
    )
    again = [*map(FORMS[form], real.output), {"role": "user", "content": "y"}]
    client.responses.create(model="tiny", input=again, max_output_tokens=1)


def sifted(place: str, data: dict[str, Any], known: tuple[str, ...] = (), strict: bool = False) -> Any:
    """The fields left and the names, or the refused field."""
    named = Ignored(strict=strict)
    try:
        return sift(place, data, known, named), [*named]
    except UnreadField as error:
        return error.name


def test_a_misspelt_field_of_an_open_object_is_refused():
    known = ("name", "parameters")
    assert sifted("tools.function", {"paramaters": {"a": 1}}, known) == "paramaters"
    both = {"paramaters": {"a": 1}, "parameters": {}}  # then it cannot be what was meant
    assert sifted("tools.function", both, known) == ({"parameters": {}}, ["tools.function.paramaters"])


def test_made_up_names_are_safe_in_a_header():
    many = {"a\r\nset-cookie: b\u20ac": 1, **{f"field{i}": 1 for i in range(1000)}}
    _, named = sifted("messages", many)
    assert named[0] == "messages.a??set-cookie:?b?" and len(named) == 65 and named[-1] == "messages.*"


def test_strict_refuses_what_would_be_named_except_the_labels_of_the_contract():
    place = "/v1/chat/completions"
    assert sifted(place, {"user": "me", "timeout": None, "tags": []}, strict=True) == ({}, ["user"])
    assert sifted(place, {"client_metadata": {"a": 1}}, strict=True) == "client_metadata"
    for data in ({"parsed": 1, "content": "x"}, {"content": "x", "colour": 1}):
        assert sifted("messages", data, ("content",), strict=True) in ("parsed", "colour")


def test_zero_and_empty_objects_ask_for_something():
    assert not any(asks_for_nothing(value) for value in (0, 0.0, {}, " ", [None], True))


ACCEPTED: list[tuple[dict[str, Any], str | None]] = [
    ({"background": False, "suffix": "", "functions": [], "audio": None, "temprature": None,
      "mirostat": 0, "typical_p": 1.0, "rep_pen": None}, None),
    ({"client_metadata": {"a": "b"}, "litellm_trace": "t", "n_predict": 1},
     "client_metadata,litellm_trace,n_predict"),
    ({"messages": [{"role": "user", "content": "x", "colour": 0}]}, "messages.colour"),
    ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs.enable_thinking"),
    ({"stop": ["a", "b", "c", "d", "e"], "top_p": 0, "max_tokens": 2.0, "n": 1.0, "seed": 3.0}, None),
    ({"stream": True, "stream_options": {"include_obfuscation": True, "include_usage": None}},
     "stream_options.include_obfuscation"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"a": 1}}]}]},
     "messages.content.cache_control"),
    ({"messages": [*ASK, {"role": "assistant", "content": "b", "reasoning_details": []}, *ASK]}, None),
    ({"messages": [*ASK, {"role": "assistant", "content": None, "tool_calls": []}, *ASK]}, None),
    ({"messages": [*ASK, {"role": "assistant", "reasoning": "hm"}, *ASK]}, None),
    ({"messages": [*ASK, {"role": "assistant", "content": "b", "provider_specific_fields": {"refusal": None}},
                   *ASK]}, "messages.provider_specific_fields"),
    ({"messages": [*ASK, {"role": "assistant", "content": None, "tool_calls": [
        {**CALL, "index": 0, "function": {"name": "f", "arguments": "", "parsed_arguments": {}}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "1"}]},
     "messages.tool_calls.index,messages.tool_calls.function.parsed_arguments"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "named"), ACCEPTED)
def test_fields_that_cannot_change_the_reply(server, more, named):
    status, headers, body = call(
        server.url, "POST", CHAT, {"model": "tiny", "messages": ASK, "max_tokens": 1, **more}
    )
    assert status == 200, body
    assert headers.get("x-coterie-ignored") == named


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_minus_one_sets_no_limit(server, path):
    asked = {"messages": ASK} if path == CHAT else {"prompt": "Hello"}
    more = {"model": "tiny", "seed": 1, "max_tokens": -1, "stop": ["e"], "temperature": 1}
    status, _, body = call(server.url, "POST", path, {**asked, **more, "logit_bias": {"0": -100, "2": -100}})
    assert status == 200 and body["choices"][0]["finish_reason"] == "stop", body
    assert call(server.url, "POST", path, {**asked, "model": "tiny", "max_tokens": -2})[0] == 400


SAID: list[tuple[dict[str, Any], str]] = [
    ({"content": None, "refusal": "no"}, "refusal"),
    ({"content": "x", "audio": {"id": "a"}}, "audio"),
    ({"content": None, "function_call": {"name": "f", "arguments": "{}"}}, "function_call"),
    ({"content": None, "parsed": {"x": 1}}, "parsed"),
    ({"content": "x", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}, "reasoning_details"),
    ({"role": "assistant", "contents": "y"}, "contents"),
    ({"content": [{"type": "refusal", "refusal": "no"}]}, "content/0/refusal"),
    ({"content": None, "tool_calls": [{**CALL, "type": "customs"}]}, "tool_calls/0/type"),
]  # fmt: skip
ARGUMENTS = ['{"a": ', "[1]", "3", '{"a": "\\ud800"}', '{"a": 1, "a": 2}', '{"a": NaN}', "[" * 80,
             '{"a":' * 66, '{"a": 1e999}']  # fmt: skip


@pytest.mark.parametrize(("message", "place"), SAID)
def test_fields_that_would_change_the_reply_are_pointed_at(server, message, place):
    messages = [*ASK, {"role": "assistant", **message}, *ASK]
    status, _, body = call(server.url, "POST", CHAT, {"model": "tiny", "messages": messages, "max_tokens": 1})
    assert status == 400 and body["error"]["param"] == f"/messages/1/{place}", body


@pytest.mark.parametrize("text", ARGUMENTS)
def test_arguments_in_the_history_that_are_no_object_are_shown_as_they_are(server, text):
    """In both APIs; a header says so."""
    bad = {**CALL, "function": {"name": "f", "arguments": text}}
    turns = [*ASK, {"role": "assistant", "content": None, "tool_calls": [CALL, bad]}, *ASK]
    status, headers, body = call(
        server.url, "POST", CHAT, {"model": "tiny", "messages": turns, "max_tokens": 1}
    )
    assert status == 200, body
    assert headers["x-coterie-ignored"] == "messages.tool_calls.function.arguments"
    items = [{"role": "user", "content": "x"}] + [
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": one} for one in ("{}", text)
    ]
    asked = {"model": "tiny", "input": items, "max_output_tokens": 1}
    status, headers, body = call(server.url, "POST", "/v1/responses", asked)
    assert (status, headers["x-coterie-ignored"]) == (200, "messages.tool_calls.function.arguments"), body
    good = [*ASK, {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]}, *ASK]
    shown = [call(server.url, "POST", "/tokenize", {"messages": each})[2] for each in (turns, good)]
    assert shown[0]["count"] > shown[1]["count"]  # the model sees its own text


WRONG_ITEMS: list[tuple[Any, str]] = [
    ({"type": "image_generation_call"}, "/input/1/type"),
    ({"type": ["x"]}, "/input/1/type"),
    ({"role": "assistant", "contents": "x"}, "/input/1/contents"),
    ({"role": "king", "content": "x"}, "/input/1/role"),
    ({"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}, "/input/1/content/0/image_"),
    ({"role": "user", "content": ["x"]}, "/input/1/content/0"),
    ({"type": "reasoning", "summary": 3}, "/input/1"),
    ({"type": "function_call_output", "call_id": "c"}, "/input/1"),
    ({"type": "function_call", "call_id": "c", "arguments": "{}"}, "/input/1/name"),
]  # fmt: skip


@pytest.mark.parametrize(("item", "place"), WRONG_ITEMS)
def test_wrong_items_are_pointed_at(server, item, place):
    asked = {"model": "tiny", "input": [{"role": "user", "content": "x"}, item], "instructions": "be brief"}
    status, _, body = call(server.url, "POST", "/v1/responses", {**asked, "max_output_tokens": 1})
    assert status == 400 and body["error"]["param"].startswith(place), json.dumps(body)


LAST: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"messages": ASK, "max_tokens": 2, "n": 2}, "finish_reason"),
    ("/v1/completions", {"prompt": "Hello", "max_tokens": 2}, "finish_reason"),
    ("/v1/responses", {"input": "Hello", "max_output_tokens": 2}, "response.incomplete"),
]


@pytest.mark.parametrize(("path", "asked", "mark"), LAST)
@pytest.mark.parametrize("more", [{}, {"user": "me", "timeout": 3}])
def test_a_stream_says_in_its_last_object_what_had_no_effect(server, path, asked, mark, more):
    body = {"model": "tiny", "stream": True, "seed": 4, **asked, **more}
    _, headers, text = call(server.url, "POST", path, body)
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: {")]
    saying = [data for data in map(json.loads, lines) if "x_coterie_ignored" in json.dumps(data)]
    assert {*headers.get("x-coterie-ignored", "").split(",")} - {""} == {*more}
    assert len(saying) == (asked.get("n", 1) if more else 0)
    for data in saying:
        assert {*data.get("response", data)["x_coterie_ignored"]} == {*more}
        assert data.get("type") == mark or data["choices"][0][mark] == "length"


@pytest.fixture(scope="module")
def strict_url() -> Iterator[str]:
    with serving(strict=True) as running:
        yield running.url


STRICT: list[tuple[str, dict[str, Any], str | None]] = [
    (CHAT, {"messages": ASK, "user": "me"}, None),
    (CHAT, {"messages": ASK, "client_metadata": {"a": 1}}, "/client_metadata"),
    (CHAT, {"messages": [{**ASK[0], "colour": 1}]}, "/messages/0/colour"),
    (CHAT, {"messages": [{"role": "assistant", "content": "x", "parsed": {"a": 1}}]}, "/messages/0/parsed"),
    (CHAT, {"messages": ASK, "chat_template_kwargs": {"loud": True}}, "/chat_template_kwargs/loud"),
    (CHAT, {"messages": ASK, "reasoning_effort": "low", "enable_thinking": False}, "/reasoning_effort"),
    ("/v1/responses", {"input": [{"role": "user", "content": "x", "colour": 1}]}, "/input/0/colour"),
    ("/v1/responses", {"input": "x", "tools": [{"type": "web_search"}]}, "/tools/0"),
    ("/v1/responses", {"input": "x", "include": ["file_search_call.results"]},
     "/include:file_search_call/results"),
    ("/v1/responses", {"input": "x", "reasoning": {"summary": "auto"}}, "/reasoning/summary"),
    ("/v1/responses", {"input": "x", "text": {"verbosity": "low"}, "user": "me"}, None),
    ("/v1/embeddings", {"input": "x", "input_type": "query"}, "/input_type"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "asked", "param"), STRICT)
def test_a_strict_server_refuses_what_has_no_effect(strict_url, path, asked, param):
    limit = {CHAT: {"max_tokens": 1}, "/v1/responses": {"max_output_tokens": 1}}.get(path, {})
    status, headers, body = call(strict_url, "POST", path, {"model": "tiny", **asked, **limit})
    if param is None:
        assert status == 200 and "user" in headers["x-coterie-ignored"].split(",")
    else:
        assert (status, body["error"]["param"]) == (400, param), body
        assert "x-coterie-ignored" not in headers
