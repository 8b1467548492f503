"""Mutated and broken requests to every endpoint: a documented status with an error envelope, and a live engine."""

# ruff: noqa: E501  # tables, one body after another

from __future__ import annotations

import copy
import json
import random
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.serve.support import ASK, call, error_of, serving

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
TOOL = {
    "name": "f",
    "description": "d",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
}
CHAT = {
    "model": "tiny", "max_tokens": 2, "temperature": 0.5, "top_p": 0.9, "top_k": 4, "min_p": 0.1, "seed": 1, "n": 2,
    "stop": ["x"], "logprobs": True, "top_logprobs": 2, "logit_bias": {"3": 1.5}, "stream": False, "user": "u",
    "messages": [{"role": "system", "content": "s"}, *ASK, {"role": "assistant", "content": None, "tool_calls": [CALL]},
                 {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "1"}]}],
    "tools": [{"type": "function", "function": TOOL}], "tool_choice": "auto", "parallel_tool_calls": True,
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": TOOL["parameters"]}},
    "moe": {"routing": "summary", "mask": {"0": [1]}, "bias": {"0": {"1": -1.0}}, "top_k": 1},
}  # fmt: skip
MESSAGES: dict[str, Any] = {
    "model": "tiny", "max_tokens": 2, "temperature": 0.5, "top_p": 0.9, "top_k": 4, "stop_sequences": ["x"], "stream": False,
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}], "metadata": {"user_id": "u"},
    "thinking": {"type": "enabled", "budget_tokens": 1024}, "tool_choice": {"type": "auto"},
    "tools": [{"name": "f", "description": "d", "input_schema": TOOL["parameters"]}],
    "output_config": {"format": {"type": "json_schema", "schema": TOOL["parameters"]}},
    "messages": [*ASK, {"role": "assistant", "content": [
        {"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": "1"}]}]}],
}  # fmt: skip
OPTIONS = {
    "num_predict": 2,
    "temperature": 0.5,
    "top_k": 4,
    "seed": 1,
    "stop": ["x"],
    "num_ctx": 512,
    "repeat_penalty": 1.1,
}
ITEMS = [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "tiny", "prompt": ["a", "b"], "max_tokens": 2, "echo": True, "logprobs": 1,
                        "stop": "x", "logit_bias": {"1": 2}, "best_of": 1, "n": 1, "min_tokens": 1, "stop_token_ids": [9],
                        "truncate_prompt_tokens": 9, "prompt_logprobs": 1, "guided_regex": None},
    "/v1/responses": {"model": "tiny", "instructions": "i", "max_output_tokens": 2, "previous_response_id": "RESP", "input": [
        {"type": "item_reference", "id": "ITEM"},
        {"role": "user", "content": [{"type": "input_text", "text": "x"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "1"}],
        "tools": [{"type": "function", **TOOL}], "text": {"format": {"type": "text"}}, "reasoning": {"effort": "low"}},
    "/v1/embeddings": {"model": "tiny", "input": ["a", "b"], "dimensions": 4, "encoding_format": "float"},
    "/v1/rerank": {"query": "a", "documents": ["b", {"text": "c"}], "top_n": 1, "max_tokens_per_doc": 5},
    "/v1/score": {"text_1": ["a", "b"], "text_2": ["c", "d"], "truncate_prompt_tokens": -1},
    "/v1/messages": MESSAGES, "/v1/messages/count_tokens": {
        name: value for name, value in MESSAGES.items() if name in ("model", "system", "messages", "tools", "tool_choice")},
    "/v1/responses/input_tokens": {"model": "tiny", "input": [{"role": "user", "content": "x"}], "previous_response_id": None},
    "/v1/conversations": {"items": ITEMS, "metadata": {"a": "b"}}, "/v1/conversations/CONV/items": {"items": ITEMS},
    "/v1/conversations/CONV": {"metadata": {"a": "b"}},
    "/api/chat": {
        "model": "tiny:latest", "stream": False, "format": TOOL["parameters"], "think": False, "logprobs": True, "top_logprobs": 2,
        "options": OPTIONS, "tools": [{"type": "function", "function": TOOL}], "keep_alive": "5m",
        "messages": [*ASK, {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [
            {"function": {"name": "f", "arguments": {"a": 1}}}]}, {"role": "tool", "tool_name": "f", "content": "1"}]},
    "/api/generate": {"model": "tiny", "stream": False, "prompt": "x", "raw": True, "options": OPTIONS, "format": "json"},
    "/api/embed": {"model": "tiny", "input": ["a", "b"], "truncate": True, "dimensions": 4},
    "/api/embeddings": {"model": "tiny", "prompt": "a"}, "/api/show": {"model": "tiny", "verbose": True},
    "/tokenize": {"model": "tiny", "messages": ASK, "add_generation_prompt": True, "return_token_strs": True},
    "/detokenize": {"model": "tiny", "tokens": [1, 2, 3]},
    "/v1/feedback": {"kind": "label", "messages": ASK, "message": {"role": "assistant", "content": "x"}, "label": True},
}  # fmt: skip
deep: Any = {}
for _ in range(40):
    deep = {"a": [deep]}
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**200, -(2**64), 0.5, 1e308, -1e-320, 2.0, "", "x", "\0", "é漢🙂", "\x1b[2J",
    "<|im_end|>", "<tool_call>", "[" * 5000, '{"a":' * 3000, "a" * 3000, "#", [], [[]], {}, [None], ["x"] * 300, [0] * 300,
    {"type": "text"}, {"type": "object"}, {"$ref": "#"}, {"": {}}, {"a": None}, deep, "-1", "00", "99999999999999999999",
]  # fmt: skip
STATUSES = {200, 400, 403, 404, 405, 408, 411, 413, 415, 422, 429}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside a body."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [found for key, one in inner for found in places(one, (*path, key))]


def mutated(body: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The body with one to three places replaced, removed, renamed, repeated or moved."""
    body = copy.deepcopy(body)
    for _ in range(rng.choice((1, 1, 2, 3))):
        path = rng.choice(places(body) or [("x",)])
        holder = body
        for key in path[:-1]:
            holder = holder[key]
        last, how = path[-1], rng.randrange(6)
        if how == 0 and isinstance(holder, dict):
            holder.pop(last, None)
        elif how == 1 and isinstance(holder, dict):
            holder[rng.choice(["x", "", "type", "$ref", "content", "\0"])] = holder.pop(last, None)
        elif how == 2 and isinstance(holder, list):
            holder += copy.deepcopy(holder) * rng.choice((1, 20))
        elif how == 3:
            holder[last] = copy.deepcopy(rng.choice([body, holder, *body.values()]))
        else:
            holder[last] = copy.deepcopy(rng.choice(VALUES))
        if len(json.dumps(body)) > 200_000:
            break
    return body


def broken_bytes(body: dict[str, Any], rng: random.Random) -> bytes:
    """The text of a body with bytes changed, cut off or repeated, or with halves of surrogate pairs."""
    raw = bytearray(json.dumps(body).encode())
    how, at = rng.randrange(5), rng.randrange(len(raw))
    if how == 0:
        del raw[at:]
    elif how == 1:
        raw[at : at + 3] = rng.randbytes(rng.randrange(6))
    elif how == 2:
        raw[at:at] = rng.choice(
            [b"\\ud800", b'"', b"\xff", b"\0", b"[[[[", b"}", b"1e999", b"NaN", b'"model":1,']
        )
    elif how == 3:
        raw = raw.replace(b'"x"', b'"\\udfff"')
    else:
        raw += raw[at:]
    return bytes(raw)


def check(path: str, answer: tuple[int, dict[str, str], Any], sent: Any) -> int:
    status, headers, data = answer
    assert status in STATUSES, (path, status, data, sent)
    assert headers["x-request-id"]
    assert status == 200 or error_of(path, data), (path, sent)
    return status


def filled(sent: Any, ids: dict[str, str]) -> Any:
    """What is sent, with the ids of what is stored in place of their names."""
    text = sent.decode("latin-1") if isinstance(sent, bytes) else json.dumps(sent)
    for name, id in ids.items():
        text = text.replace(name, id)
    return text.encode("latin-1")


def stored(url: str) -> dict[str, str]:
    """A response, one of its items, and a conversation."""
    kept = call(url, "POST", "/v1/responses", {"model": "tiny", "input": "x", "max_output_tokens": 1})[2]
    items = call(url, "GET", f"/v1/responses/{kept['id']}/input_items")[2]["data"]
    return {
        "RESP": kept["id"],
        "ITEM": items[0]["id"],
        "CONV": call(url, "POST", "/v1/conversations", {})[2]["id"],
    }


def broken_connection(url: str, rng: random.Random) -> None:
    """Requests that lie about their length, are cut off, come several at once, or are no HTTP."""
    parts = urlsplit(url)
    body = json.dumps({**CHAT, "max_tokens": 40, "stream": rng.random() < 0.5}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
    length = rng.choice([len(body), len(body) + 5, len(body) - 5, -1, 10**12])
    sent = rng.choice([
        f"{head}content-length: {length}\r\n\r\n".encode() + body,
        f"{head}transfer-encoding: chunked\r\n\r\n".encode() + b"%x\r\n" % rng.choice([9, 2**70]) + body,
        f"{head}content-length: {len(body)}\r\n\r\n".encode() + body[: rng.randrange(len(body))],
        (f"{head}content-length: {len(body)}\r\n\r\n".encode() + body) * 3,
        head.encode()[: rng.randrange(len(head))], rng.randbytes(50), b"GET / HTTP/9.9\r\n\r\n",
        f"{head}content-length: 2\r\ncontent-length: 3\r\n\r\n{{}}".encode(),
    ])  # fmt: skip
    with socket.create_connection((parts.hostname, parts.port), timeout=5) as connection:
        connection.sendall(sent)
        if rng.random() < 0.3:
            connection.settimeout(0.2)
            try:
                connection.recv(100)
            except TimeoutError:
                pass


def attack(count: int, seed: int, tmp_path: Any) -> dict[int, int]:
    """Send `count` requests to a fresh server; returns how often each status came."""
    rng, seen = random.Random(seed), dict.fromkeys(STATUSES, 0)
    with serving(feedback=str(tmp_path), slots=4, request_timeout=20, state_dir=tmp_path) as server:
        ids = stored(server.url)
        for number in range(count):
            path, body = rng.choice(list(BODIES.items()))
            kind = rng.random()
            sent: Any = mutated(body, rng) if kind < 0.7 else broken_bytes(body, rng)
            if isinstance(sent, dict) and sent.get("stream"):
                sent["stream"] = False
            if kind > 0.95:
                broken_connection(server.url, rng)
                continue
            headers = (
                {}
                if kind < 0.9
                else {"content-type": rng.choice(["text/plain", "", "a" * 99, "application/json"])}
            )
            if len(json.dumps(str(sent))) < 10**6:
                # Conversations grow until nothing fits; a new one then.
                ids = ids if number % 50 else stored(server.url)
                path, sent = filled(path.encode(), ids).decode(), filled(sent, ids)
                answer = call(server.url, rng.choice(["POST"] * 9 + ["PUT"]), path, sent, headers)
                seen[check(path, answer, sent)] += 1
            assert server.service.thread.alive, (number, sent)
        status, _, data = call(server.url, "POST", "/v1/chat/completions", {**CHAT, "n": 1})
        assert status == 200, data
        assert server.service.thread.failure is None
    return seen


def test_no_request_ends_in_a_failure_or_kills_the_engine(tmp_path: Any) -> None:
    seen = attack(250, 7, tmp_path)
    assert seen[200] and seen[400] and seen[415] + seen[405]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_thousands_of_requests_do_not_either(seed: int, tmp_path: Any) -> None:
    seen = attack(1000, seed, tmp_path)
    print(f"seed {seed}: { ({status: count for status, count in seen.items() if count}) }")
