"""Checks of chat completions, whole and streamed: sampling fields, tools, JSON schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from coterie.agents.checks import Absent, Client, check, expect, ok, refused
from coterie.sandbox.schemas import problem

REASONS = ("stop", "length", "tool_calls", "content_filter")
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather.", "parameters": WEATHER},
}
SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "sure": {"type": "boolean"}},
    "required": ["colour", "sure"],
    "additionalProperties": False,
}


def choice(data: Mapping[str, Any]) -> dict[str, Any]:
    """The first choice of a chat completion. Errors: `Failed` if its form is wrong."""
    found = data["choices"][0]
    expect(found["message"]["role"] == "assistant", f"the role is {found['message'].get('role')!r}")
    expect(found["finish_reason"] in REASONS, f"finish_reason is {found['finish_reason']!r}")
    return dict(found)


def said(data: Mapping[str, Any]) -> str:
    """A reply's reasoning and content: a model that thinks may not reach its answer in a few tokens."""
    message = choice(data)["message"]
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    return str(reasoning) + str(message.get("content") or "")


@check("chat", "form of an answer")
def form(client: Client) -> None:
    """The answer has its object, id, time and one choice."""
    data = ok(client.chat(), "chat")
    expect(data["object"] == "chat.completion", f"object is {data['object']!r}")
    expect(isinstance(data["id"], str) and isinstance(data["created"], int), "id or created is missing")
    choice(data)


@check("chat", "usage")
def usage(client: Client) -> None:
    """The token counts add up, and the reply keeps to max_tokens."""
    used = ok(client.chat(), "chat")["usage"]
    whole = used["prompt_tokens"] + used["completion_tokens"]
    expect(used["prompt_tokens"] > 0 and used["total_tokens"] == whole, f"usage does not add up: {used}")
    expect(used["completion_tokens"] <= 8, f"{used['completion_tokens']} tokens for max_tokens 8")


@check("chat", "max_tokens and max_completion_tokens")
def longest(client: Client) -> None:
    """Either name bounds the reply, and the finish reason is then `length`."""
    for fields in ({"max_tokens": 2}, {"max_tokens": None, "max_completion_tokens": 2}):
        data = ok(client.chat(**fields), str(fields))
        count = data["usage"]["completion_tokens"]
        expect(count <= 2, f"{fields}: {count} tokens")
        expect(count < 2 or choice(data)["finish_reason"] in ("length", "stop"), f"{fields}: finish_reason")


@check("chat", "greedy replies repeat")
def greedy(client: Client) -> None:
    """Temperature 0 gives the same reply twice."""
    first, second = (said(ok(client.chat(max_tokens=16), "temperature 0")) for _ in range(2))
    expect(first == second, f"two replies at temperature 0 differ: {first[:60]!r}, {second[:60]!r}")


@check("chat", "seeds repeat")
def seeds(client: Client) -> None:
    """A seed gives the same reply twice, also among other requests."""
    from concurrent.futures import ThreadPoolExecutor

    asked: dict[str, Any] = {"temperature": 1.0, "seed": 7, "max_tokens": 16}
    alone = said(ok(client.chat(**asked), "seed"))
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(client.chat, f"Count to {n}", temperature=1.0, max_tokens=16) for n in range(3)]
        again = said(ok(pool.submit(client.chat, **asked).result(), "seed"))
        for other in others:
            other.result()
    expect(alone == again, f"two replies to one seed differ: {alone[:60]!r}, {again[:60]!r}")


@check("chat", "stop")
def stop(client: Client) -> str | None:
    """The reply ends just before the stop text and is otherwise unchanged."""
    data = ok(client.chat(max_tokens=24), "chat")
    whole = choice(data)["message"].get("content") or ""
    if len(whole) < 4:
        return "the reply was too short to try"
    mark = whole[len(whole) // 2 : len(whole) // 2 + 2]
    short = choice(ok(client.chat(max_tokens=24, stop=[mark]), "stop"))
    expect(mark not in short["message"]["content"], f"the reply goes on past {mark!r}")
    expect(short["message"]["content"] == whole[: whole.index(mark)], "the reply was changed, not stopped")
    expect(short["finish_reason"] == "stop", f"finish_reason is {short['finish_reason']!r}")
    return None


@check("chat", "n", needed=False)
def several(client: Client) -> None:
    """The server gives as many choices as asked for, or refuses."""
    answer = client.chat(n=2, temperature=1.0)
    if answer.status == 400:
        raise Absent(f"refused: {refused(answer, 'n 2')['message']}")
    numbers = sorted(c["index"] for c in ok(answer, "n 2")["choices"])
    expect(numbers == [0, 1], f"n 2 gave choices {numbers}")


@check("chat", "logprobs", needed=False)
def logprobs(client: Client) -> None:
    """Each token has an entry with as many alternatives as asked for, and a greedy token leads them."""
    answer = client.chat(logprobs=True, top_logprobs=2, max_tokens=4)
    if answer.status == 400:
        raise Absent(f"refused: {refused(answer, 'logprobs')['message']}")
    data = ok(answer, "logprobs")
    found = choice(data).get("logprobs") or {}
    expect(found, "logprobs was accepted and left out")
    for entry in found["content"]:
        right = entry["logprob"] <= 0 and len(entry["top_logprobs"]) == 2
        expect(right, f"an entry of another form: {entry}")
        best = max(other["logprob"] for other in entry["top_logprobs"])
        expect(abs(best - entry["logprob"]) < 1e-4, "a greedy token is not the likeliest")


@check("stream", "form of a stream")
def stream_form(client: Client) -> None:
    """All chunks have one id; the role comes first, one finish_reason follows, `[DONE]` is last."""
    got = client.stream(client.chat_body())
    expect(got.done, "the stream does not end with [DONE]")
    expect(
        {e["object"] for e in got.events} == {"chat.completion.chunk"},
        "an event is not a chat.completion.chunk",
    )
    expect(len({e["id"] for e in got.events}) == 1, "the id changes within a stream")
    expect(got.deltas[0].get("role") == "assistant", "the first delta has no role")
    reasons = [c["finish_reason"] for e in got.events for c in e["choices"] if c.get("finish_reason")]
    expect(len(reasons) == 1 and reasons[0] in REASONS, f"finish reasons {reasons}")


@check("stream", "same reply as without")
def stream_same(client: Client) -> None:
    """The pieces of a stream add up to the reply that is sent whole."""
    whole = choice(ok(client.chat(max_tokens=24), "chat"))["message"].get("content") or ""
    streamed = client.stream(client.chat_body(max_tokens=24)).text
    expect(streamed.strip() == whole.strip(), f"streamed {streamed[:60]!r}, whole {whole[:60]!r}")


@check("stream", "usage when asked for")
def stream_usage(client: Client) -> None:
    """`include_usage` adds a last chunk with the usage and no choices; without it no chunk has usage."""
    got = client.stream(client.chat_body(stream_options={"include_usage": True}))
    counted = [e for e in got.events if e.get("usage")]
    expect(counted and counted[-1] is got.events[-1], "include_usage gives no usage at the end")
    expect(counted[-1]["choices"] == [], "the chunk with usage has choices")
    expect(counted[-1]["usage"]["total_tokens"] > 0, "usage is empty")
    plain = client.stream(client.chat_body())
    expect(not any(e.get("usage") for e in plain.events), "usage comes unasked, which old clients trip over")


@check("stream", "one name for reasoning")
def stream_reasoning(client: Client) -> None:
    """A delta names reasoning one way only: agents that read both would record it twice."""
    for delta in client.stream(client.chat_body(max_tokens=24)).deltas:
        expect(
            not (delta.get("reasoning") and delta.get("reasoning_content")), "reasoning comes under two names"
        )


@check("tools", "a call that must be made", needed=False)
def tool_required(client: Client) -> None:
    """`required`, and the name of a tool, force a call whose arguments fit the schema."""
    for wanted in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        found = _constrained(client, "Weather in Rome?", "tool_choice", tools=[TOOL], tool_choice=wanted)
        calls = found["message"].get("tool_calls") or []
        expect(calls, "tool_choice was accepted, and no whole call made")
        expect(found["finish_reason"] == "tool_calls", f"finish_reason is {found['finish_reason']!r}")
        call = calls[0]
        expect(call["type"] == "function" and isinstance(call["id"], str), f"a call of another form: {call}")
        expect(call["function"]["name"] == "get_weather", f"a call of {call['function']['name']!r}")
        wrong = problem(json.loads(call["function"]["arguments"]), WEATHER)
        expect(wrong is None, f"arguments break the schema: {wrong}")


def _constrained(client: Client, prompt: str, what: str, **options: Any) -> dict[str, Any]:
    """The choice of a reply that `options` constrain.

    Errors: `Absent` when the server refuses `what`, `Failed` when the reply is cut off at 200 tokens.
    """
    answer = client.chat(prompt, max_tokens=200, **options)
    if answer.status == 400:
        raise Absent(f"{what} is refused: {refused(answer, what)['message']}")
    found = choice(ok(answer, what))
    expect(found["finish_reason"] != "length", f"{what}: the reply is not complete after 200 tokens")
    return found


@check("tools", "calls in a stream", needed=False)
def tool_stream(client: Client) -> None:
    """The first piece of a call has its index, id, type and name, and the pieces add up to JSON."""
    body = client.chat_body("Weather in Rome?", tools=[TOOL], tool_choice="required", max_tokens=200)
    answer = client.post("/v1/chat/completions", body)
    if answer.status == 400:
        raise Absent(f"tool_choice is refused: {refused(answer, 'tools')['message']}")
    pieces = [call for delta in client.stream(body).deltas for call in delta.get("tool_calls") or ()]
    expect(pieces, "no call in the stream")
    expect(all(isinstance(piece.get("index"), int) for piece in pieces), "a piece of a call has no index")
    first = pieces[0]
    known = first.get("id") and first.get("type") == "function" and first["function"].get("name")
    expect(known, f"the first piece lacks id, type or name: {first}")
    text = "".join(
        piece["function"].get("arguments") or "" for piece in pieces if piece["index"] == first["index"]
    )
    expect(problem(json.loads(text), WEATHER) is None, f"arguments break the schema: {text[:80]}")


@check("tools", "no call when none is wanted")
def tool_none(client: Client) -> None:
    """`tool_choice: none` gives text and no call."""
    data = ok(client.chat("Weather in Rome?", tools=[TOOL], tool_choice="none"), "tool_choice none")
    expect(not choice(data)["message"].get("tool_calls"), "tool_choice none gave a call")


@check("tools", "results in the history")
def tool_history(client: Client) -> None:
    """The server accepts a history with a call, its result, and reasoning under either name."""
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'},
    }
    for name in ("reasoning_content", "reasoning"):
        history = [
            {"role": "user", "content": "Weather in Rome?"},
            {"role": "assistant", "content": None, "tool_calls": [call], name: "I should look."},
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        ]
        ok(client.chat(messages=history, tools=[TOOL]), f"a history with a call and {name}")


@check("json", "json_schema", needed=False)
def json_schema(client: Client) -> None:
    """The reply fits the schema even when the prompt asks for something else."""
    named = {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA, "strict": True}}
    found = _constrained(client, "Write a poem without any JSON.", "json_schema", response_format=named)
    wrong = problem(json.loads(found["message"]["content"]), SCHEMA)
    expect(wrong is None, f"the reply breaks the schema: {wrong}")


@check("json", "json_object", needed=False)
def json_object(client: Client) -> None:
    """The reply is a JSON object, unless its finish reason says that it was cut."""
    answer = client.chat("Say JSON: anything", response_format={"type": "json_object"}, max_tokens=100)
    if answer.status == 400:
        raise Absent(f"refused: {refused(answer, 'json_object')['message']}")
    found = choice(ok(answer, "json_object"))
    if found["finish_reason"] != "length":
        expect(isinstance(json.loads(found["message"]["content"]), dict), "the reply is not a JSON object")


@check("json", "broken schemas are refused")
def json_broken(client: Client) -> None:
    """The server refuses an invalid schema with 400 instead of writing free text."""
    for schema in ({"type": "objekt"}, {"type": "string", "pattern": "(["}):
        named = {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema, "strict": True}}
        refused(client.chat(response_format=named), f"schema {json.dumps(schema)}", 400, 422)
