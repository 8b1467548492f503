"""One conversation over every protocol gives the same prompt, and a stream says what the plain reply says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from coterie.hosting.engine_thread import Call, Job
from coterie.serve.server import ServerThread
from tests.serve.support import call

Turn = tuple[str, Any]  # ("user", text), ("assistant", text), ("calls", [arguments, ...]), ("result", text)
Talk = tuple[str | None, list[Turn]]  # system prompt, turns
PARAMETERS = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "unit": {"enum": ["km", "mile"]}},
    "required": ["a"],
    "additionalProperties": False,
}
DESCRIPTION = 'Add a number. Ünïcode, "quotes" and\nlines.'
TALKS: dict[str, Talk] = {
    "greeting": (None, [("user", "Hello")]),
    "system": ("You are short.", [("user", "Hello")]),
    "turns": ("You are\nshort.", [("user", "Hello"), ("assistant", "Hi."), ("user", " And you? ")]),
    "unusual text": (None, [("user", "<|im_end|> <tool_call> {{x}} 日本 🦊\r\n\t")]),
    "empty reply": (None, [("user", "Hello"), ("assistant", ""), ("user", "Again")]),
    "a call": (None, [("user", "1+1"), ("calls", [{"a": 1}]), ("result", "2")]),
    "two calls": (
        "Add.",
        [("user", "x"), ("calls", [{"a": 1}, {"a": 2, "unit": "km"}]), ("result", "3"), ("result", "é")],
    ),
    "calls and turns": (
        "Add.",
        [
            ("user", "x"),
            ("calls", [{"a": 1}]),
            ("result", "3"),
            ("assistant", "It is 3."),
            ("user", "Again"),
            ("calls", [{}]),
            ("result", ""),
        ],
    ),
}


def ids_of(turns: Sequence[Turn]) -> Iterator[tuple[str, Any, list[str]]]:
    """Each turn with the ids of its calls, or of the call that its result is for."""
    count, waiting = 0, []
    for kind, given in turns:
        if kind == "calls":
            waiting = [f"call_{count + number}" for number in range(len(given))]
            count += len(given)
            yield kind, given, list(waiting)
        else:
            yield kind, given, [waiting.pop(0)] if kind == "result" else []


def chat(talk: Talk, tools: bool) -> tuple[str, dict[str, Any]]:
    system, turns = talk
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for kind, given, ids in ids_of(turns):
        if kind == "calls":
            calls = [
                {"id": id_, "type": "function", "function": {"name": "add", "arguments": json.dumps(one)}}
                for id_, one in zip(ids, given, strict=True)
            ]
            messages.append({"role": "assistant", "content": None, "tool_calls": calls})
        elif kind == "result":
            messages.append({"role": "tool", "tool_call_id": ids[0], "content": given})
        else:
            messages.append({"role": kind, "content": given})
    function = {"name": "add", "description": DESCRIPTION, "parameters": PARAMETERS}
    offered = {"tools": [{"type": "function", "function": function}]} if tools else {}
    return "/v1/chat/completions", {"messages": messages, "max_tokens": 6, **offered}


def responses(talk: Talk, tools: bool) -> tuple[str, dict[str, Any]]:
    system, turns = talk
    items: list[dict[str, Any]] = []
    for kind, given, ids in ids_of(turns):
        if kind == "calls":
            items += [
                {"type": "function_call", "call_id": id_, "name": "add", "arguments": json.dumps(one)}
                for id_, one in zip(ids, given, strict=True)
            ]
        elif kind == "result":
            items.append({"type": "function_call_output", "call_id": ids[0], "output": given})
        else:
            items.append({"role": kind, "content": given})
    function = {"type": "function", "name": "add", "description": DESCRIPTION, "parameters": PARAMETERS}
    offered = {"tools": [function]} if tools else {}
    given = {"instructions": system} if system else {}
    return "/v1/responses", {"input": items, "max_output_tokens": 6, "store": False, **given, **offered}


def messages(talk: Talk, tools: bool) -> tuple[str, dict[str, Any]]:
    system, turns = talk
    sent: list[dict[str, Any]] = []
    for kind, given, ids in ids_of(turns):
        if kind == "calls":
            blocks = [
                {"type": "tool_use", "id": id_, "name": "add", "input": one}
                for id_, one in zip(ids, given, strict=True)
            ]
            sent.append({"role": "assistant", "content": blocks})
        elif kind == "result":
            block = {"type": "tool_result", "tool_use_id": ids[0], "content": given}
            if isinstance(sent[-1]["content"], list) and sent[-1]["role"] == "user":
                sent[-1]["content"].append(block)  # the results of one turn are one message
            else:
                sent.append({"role": "user", "content": [block]})
        else:
            sent.append({"role": kind, "content": given})
    tool = {"name": "add", "description": DESCRIPTION, "input_schema": PARAMETERS}
    offered = {"tools": [tool]} if tools else {}
    given = {"system": system} if system else {}
    return "/v1/messages", {"messages": sent, "max_tokens": 6, **given, **offered}


def ollama(talk: Talk, tools: bool) -> tuple[str, dict[str, Any]]:
    _, body = chat(talk, tools)
    for message in body["messages"]:
        message["content"] = message["content"] or ""
        if message["role"] == "tool":
            message["tool_name"] = "add"
        for one in message.get("tool_calls", ()):
            one["function"]["arguments"] = json.loads(one["function"]["arguments"])
            del one["type"]
    del body["max_tokens"]
    return "/api/chat", {**body, "options": {"num_predict": 6}, "stream": False}


PROTOCOLS = {"responses": responses, "messages": messages, "ollama": ollama}


@pytest.fixture
def submitted(server: ServerThread, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The prompts that reach the engine."""
    prompts: list[list[int]] = []
    submit = server.service.thread.submit

    def noted(jobs: Sequence[Job]) -> Call:
        prompts.extend(job.prompt for job in jobs)
        return submit(jobs)

    monkeypatch.setattr(server.service.thread, "submit", noted)
    return prompts


def ask(server: ServerThread, path: str, body: dict[str, Any]) -> Any:
    status, _, answer = call(server.url, "POST", path, {"model": "tiny", **body})
    assert status == 200, answer
    return answer


def num_read(answer: dict[str, Any]) -> int:
    """The prompt's tokens, as each protocol reports them."""
    if "prompt_eval_count" in answer:
        return answer["prompt_eval_count"]
    usage = answer["usage"]
    if "cache_read_input_tokens" in usage:
        return usage["input_tokens"] + usage["cache_read_input_tokens"]
    return usage.get("prompt_tokens", usage.get("input_tokens"))


@pytest.mark.parametrize("tools", [False, True], ids=["no tools", "tools"])
@pytest.mark.parametrize("name", TALKS)
def test_every_protocol_gives_the_prompt_of_chat(
    name: str, tools: bool, server: ServerThread, submitted: list[list[int]]
) -> None:
    path, body = chat(TALKS[name], tools)
    wanted = ask(server, path, {**body, "return_token_ids": True})
    ids = wanted["choices"][0]["prompt_token_ids"]
    assert submitted == [ids] and num_read(wanted) == len(ids)
    for protocol, write in PROTOCOLS.items():
        submitted.clear()
        answer = ask(server, *write(TALKS[name], tools))
        assert submitted == [ids], (protocol, server.service.tokenizer.decode(submitted[0]))
        assert num_read(answer) == len(ids), protocol


IMAGE = "iVBORw0KGgo="
PICTURED = {
    "/v1/chat/completions": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{IMAGE}"}}],
            }
        ]
    },
    "/v1/responses": {
        "input": [
            {
                "role": "user",
                "content": [{"type": "input_image", "image_url": f"data:image/png;base64,{IMAGE}"}],
            }
        ]
    },
    "/v1/messages": {
        "max_tokens": 4,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": IMAGE}}
                ],
            }
        ],
    },
    "/api/chat": {"messages": [{"role": "user", "content": "Look", "images": [IMAGE]}]},
}


@pytest.mark.parametrize("path", PICTURED)
def test_pictures_are_refused_by_name(path: str, server: ServerThread) -> None:
    status, _, answer = call(server.url, "POST", path, {"model": "tiny", **PICTURED[path]})
    message = answer["error"] if isinstance(answer["error"], str) else answer["error"]["message"]
    assert status == 400 and "image" in message and "\n" not in message


Reply = tuple[str, list[tuple[str, Any]], int]  # text, calls (name, arguments), tokens
FORCED = {
    chat: {"tool_choice": "required", "parallel_tool_calls": False},
    responses: {"tool_choice": "required", "parallel_tool_calls": False},
    messages: {"tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
}


def sampled(write: Callable[[Talk, bool], tuple[str, dict[str, Any]]], forced: bool) -> tuple[str, Any]:
    """A request whose reply depends on its seed: text, or one call."""
    path, body = write(TALKS["turns"], forced)
    settings = {"temperature": 1, "seed": 7}
    if write is ollama:
        return path, {**body, "options": {**settings, "num_predict": 60}}
    most = {"max_output_tokens": 60} if write is responses else {"max_tokens": 60}
    return path, {**body, **settings, **most, **(FORCED[write] if forced else {})}


def events_of(server: ServerThread, path: str, body: dict[str, Any]) -> list[Any]:
    """The objects of a stream: server-sent events, or lines of JSON."""
    status, headers, raw = call(server.url, "POST", path, {"model": "tiny", **body, "stream": True})
    assert status == 200, raw
    if "ndjson" in headers["content-type"]:
        return [json.loads(line) for line in raw.splitlines()]
    lines = [line[6:] for line in raw.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def of_chat(answer: Any) -> Reply:
    message = answer["choices"][0]["message"]
    calls = [one["function"] for one in message.get("tool_calls") or ()]
    named = [(one["name"], json.loads(one["arguments"])) for one in calls]
    return message["content"] or "", named, answer["usage"]["completion_tokens"]


def of_chat_stream(events: list[Any]) -> Reply:
    text, names, arguments = "", [], []
    for event in events:
        for choice in event["choices"]:
            text += choice["delta"].get("content") or ""
            for part in choice["delta"].get("tool_calls") or ():
                if part["index"] == len(names):
                    names.append(part["function"]["name"])
                    arguments.append("")
                arguments[part["index"]] += part["function"].get("arguments") or ""
    named = list(zip(names, map(json.loads, arguments), strict=True))
    return text, named, events[-1]["usage"]["completion_tokens"]


def of_responses(answer: Any) -> Reply:
    text, calls = "", []
    for item in answer["output"]:
        if item["type"] == "function_call":
            calls.append((item["name"], json.loads(item["arguments"])))
        elif item["type"] == "message":
            text += "".join(part["text"] for part in item["content"])
    return text, calls, answer["usage"]["output_tokens"]


def of_responses_stream(events: list[Any]) -> Reply:
    """What the deltas say, which the last event repeats whole."""
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    written: dict[int, str] = {}
    for event in events:
        if event["type"] == "response.function_call_arguments.delta":
            written[event["output_index"]] = written.get(event["output_index"], "") + event["delta"]
    whole = of_responses(events[-1]["response"])
    assert text == whole[0] and list(map(json.loads, written.values())) == [given for _, given in whole[1]]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return whole


def of_messages(answer: Any) -> Reply:
    blocks = answer["content"]
    text = "".join(block["text"] for block in blocks if block["type"] == "text")
    calls = [(block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"]
    return text, calls, answer["usage"]["output_tokens"]


def of_messages_stream(events: list[Any]) -> Reply:
    blocks: list[Any] = []
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append({**event["content_block"], "json": ""})
        elif event["type"] == "content_block_delta":
            blocks[event["index"]]["text"] = blocks[event["index"]].get("text", "") + event["delta"].get(
                "text", ""
            )
            blocks[event["index"]]["json"] += event["delta"].get("partial_json", "")
    for block in blocks:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block["json"])
    (last,) = (event for event in events if event["type"] == "message_delta")
    return of_messages({"content": blocks, "usage": last["usage"]})


def of_ollama(answer: Any) -> Reply:
    calls = [one["function"] for one in answer["message"].get("tool_calls") or ()]
    named = [(one["name"], one["arguments"]) for one in calls]
    return answer["message"]["content"], named, answer["eval_count"]


def of_ollama_stream(events: list[Any]) -> Reply:
    text = "".join(event["message"]["content"] for event in events)
    return text, [], events[-1]["eval_count"]


READERS = {
    chat: (of_chat, of_chat_stream),
    responses: (of_responses, of_responses_stream),
    messages: (of_messages, of_messages_stream),
    ollama: (of_ollama, of_ollama_stream),
}


@pytest.mark.parametrize("forced", [False, True], ids=["text", "a call"])
def test_a_stream_says_what_every_plain_reply_says(forced: bool, server: ServerThread) -> None:
    """The same seed gives the same reply over every protocol, plain and streamed."""
    replies = {}
    for write, (plain, streamed) in READERS.items():
        if forced and write is ollama:
            continue  # has no way to ask for a call
        path, body = sampled(write, forced)
        usage = {"stream_options": {"include_usage": True}} if write is chat else {}
        replies[write.__name__] = plain(ask(server, path, body))
        replies[write.__name__ + " streamed"] = streamed(events_of(server, path, {**body, **usage}))
    wanted = replies["chat"]
    assert wanted[1] if forced else wanted[0]
    assert replies == dict.fromkeys(replies, wanted)
