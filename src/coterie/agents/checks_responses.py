"""Checks of `/v1/responses` beyond a text: what the server keeps, its events, tool arguments in a stream."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from coterie.agents.checks import Absent, Client, check, events, expect, honoured, ok
from coterie.agents.checks_chat import TOOL, WEATHER
from coterie.sandbox.schemas import problem

PATH = "/v1/responses"
ENDS = ("response.completed", "response.incomplete")
FUNCTION: dict[str, Any] = {"type": "function", **TOOL["function"]}
FIRST, SECOND = ({"role": "user", "content": text} for text in ("Hello", "And then?"))


def _body(client: Client, given: Any, **fields: Any) -> dict[str, Any]:
    return {"model": client.model, "input": given, "max_output_tokens": 8, "temperature": 0} | fields


def _ask(client: Client, given: Any, what: str, **fields: Any) -> dict[str, Any]:
    """A response. Errors: `Absent` when the server refuses it."""
    return dict(honoured(client.post(PATH, _body(client, given, **fields)), what))


def _kept(client: Client) -> dict[str, Any]:
    """A response that the server keeps. Errors: `Absent` for one that does not claim to."""
    data = _ask(client, [FIRST], "responses")
    if data.get("store") is not True:
        raise Absent("the response does not say that it is stored")
    return data


def _text(data: Mapping[str, Any]) -> str:
    """The text of a response's messages."""
    parts = [p for item in data["output"] if item["type"] == "message" for p in item["content"]]
    return "".join(part.get("text") or "" for part in parts)


@check("responses", "kept, fetched and deleted", needed=False)
def kept(client: Client) -> None:
    """A response that says it is stored can be fetched, and no more after it was deleted."""
    data = _kept(client)
    place = f"{PATH}/{data['id']}"
    found = client.send("GET", place)
    expect(found.status == 200, f"stored, and status {found.status} when fetched")
    expect(found.data["output"] == data["output"], "another output comes back than was answered")
    expect(client.send("DELETE", place).status in (200, 204), "a stored response cannot be deleted")
    status = client.send("GET", place).status
    expect(status == 404, f"status {status} for a response that was deleted, not 404")


@check("responses", "previous_response_id", needed=False)
def continued(client: Client) -> None:
    """Continuing a stored response gives the prompt and the reply of the same items sent by hand."""
    first = _kept(client)
    more = _ask(client, [SECOND], "previous_response_id", previous_response_id=first["id"])
    _same(more, _ask(client, [FIRST, *first["output"], SECOND], "the same items"), "previous_response_id")
    unknown = client.post(PATH, _body(client, [SECOND], previous_response_id="resp_" + "0" * 32))
    expect(unknown.status in (400, 404), f"an unknown previous_response_id: status {unknown.status}")


@check("responses", "item_reference", needed=False)
def referred(client: Client) -> None:
    """A reference to a stored item stands for the item."""
    first = _kept(client)
    places = [{"type": "item_reference", "id": item["id"]} for item in first["output"]]
    more = _ask(client, [FIRST, *places, SECOND], "item_reference")
    _same(more, _ask(client, [FIRST, *first["output"], SECOND], "the same items"), "item_reference")


def _same(one: Mapping[str, Any], other: Mapping[str, Any], what: str) -> None:
    counts = [data["usage"]["input_tokens"] for data in (one, other)]
    expect(
        counts[0] == counts[1], f"{what}: {counts[0]} prompt tokens, {counts[1]} with the items sent by hand"
    )
    expect(_text(one) == _text(other), f"{what}: another reply than with the items sent by hand")


@check("responses", "input_tokens", needed=False)
def counted(client: Client) -> None:
    """`/v1/responses/input_tokens` counts what a response then uses."""
    asked = {"model": client.model, "input": [FIRST], "tools": [FUNCTION]}
    count = ok(client.post(f"{PATH}/input_tokens", asked), "input_tokens")["input_tokens"]
    used = _ask(client, [FIRST], "responses", tools=[FUNCTION])["usage"]["input_tokens"]
    expect(count == used, f"input_tokens counts {count}, the response {used}")


@check("responses", "events add up", needed=False)
def streamed(client: Client) -> None:
    """Events are numbered, deltas add up to the whole text, and the last event holds the response."""
    whole = _ask(client, [FIRST], "responses")
    got = events(client.post(PATH, _body(client, [FIRST], stream=True)), "a stream of responses")
    numbers = [event["sequence_number"] for event in got]
    expect(numbers == sorted(set(numbers)), "sequence_number does not grow with each event")
    expect(got[0]["type"] == "response.created", f"the first event is {got[0]['type']}")
    expect(got[-1]["type"] in ENDS, f"the last event is {got[-1]['type']}")
    text = "".join(event["delta"] for event in got if event["type"] == "response.output_text.delta")
    expect(text == _text(got[-1]["response"]), "deltas do not add up to the text of the last event")
    expect(text.strip() == _text(whole).strip(), f"streamed {text[:60]!r}, whole {_text(whole)[:60]!r}")


@check("responses", "arguments in events", needed=False)
def arguments(client: Client) -> None:
    """The pieces of a call's arguments add up to its arguments, which fit the schema."""
    fields = {"tools": [FUNCTION], "tool_choice": "required", "max_output_tokens": 200}
    whole = [
        item
        for item in _ask(client, "Weather in Rome?", "tool_choice", **fields)["output"]
        if item["type"] == "function_call"
    ]
    expect(whole, "tool_choice was accepted, and no call made")
    body = _body(client, "Weather in Rome?", stream=True, **fields)
    got = events(client.post(PATH, body), "a stream of responses")
    calls = [item for item in got[-1]["response"]["output"] if item["type"] == "function_call"]
    expect(calls, "no call in the stream")
    for call in calls:
        of_it = [event for event in got if event.get("item_id") == call["id"]]
        text = "".join(e["delta"] for e in of_it if e["type"] == "response.function_call_arguments.delta")
        expect(text == call["arguments"], f"pieces {text[:60]!r}, whole {call['arguments'][:60]!r}")
        wrong = problem(json.loads(text), WEATHER)
        expect(wrong is None, f"arguments break the schema: {wrong}")
    expect(
        [c["arguments"] for c in calls] == [c["arguments"] for c in whole],
        "another call than without a stream",
    )
