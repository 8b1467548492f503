"""Checks of everything but chat: other endpoints, refusals, limits, dropped connections."""

from __future__ import annotations

import base64
import contextlib
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from coterie.agents.checks import Absent, Client, Failed, check, expect, ignored, ok, refused


@check("models", "list and one")
def models(client: Client) -> None:
    """The list of models has its form, and each model can be queried alone."""
    listed = ok(client.endpoint.request("GET", "/v1/models"), "models")
    expect(listed.get("object") == "list", f"object is {listed.get('object')!r}")
    one = ok(client.endpoint.request("GET", f"/v1/models/{client.model}"), "one model")
    expect(one["id"] == client.model, f"asked for {client.model!r}, got {one['id']!r}")


@check("models", "health", needed=False)
def health(client: Client) -> None:
    """`/health` answers with 200."""
    answer = client.endpoint.request("GET", "/health")
    if answer.status == 404:
        raise Absent("/health: status 404")
    expect(answer.status == 200, f"/health: status {answer.status}")


@check("completions", "echo with logprobs", needed=False)
def echo(client: Client) -> None:
    """The server gives log-probabilities of the prompt's tokens, which evaluation harnesses need."""
    answer = client.complete("The cat sat", echo=True, logprobs=1, max_tokens=1)
    if answer.status in (400, 404, 405, 501):
        raise Absent(f"echo with logprobs: status {answer.status}")
    data = ok(answer, "echo")
    found = data["choices"][0]
    expect("The cat sat" in found["text"], f"echo does not give the prompt back: {found['text'][:60]!r}")
    expect(found.get("logprobs"), "logprobs was accepted and left out")
    values, tops = found["logprobs"]["token_logprobs"], found["logprobs"]["top_logprobs"]
    count = data["usage"]["prompt_tokens"] + data["usage"]["completion_tokens"]
    expect(len(values) == count, f"{len(values)} log-probabilities for {count} tokens")
    expect(values[0] is None and all(value <= 0 for value in values[1:]), f"log-probabilities {values[:4]}")
    expect(
        max(tops[-1].values()) == values[-1],
        "the greedy token's log-probability is not the largest, to the last bit",
    )


@check("completions", "prompts as text, ids and lists", needed=False)
def prompts(client: Client) -> None:
    """A prompt may be text, ids, or a list of either; a list gives one choice for each."""
    data = ok(client.complete("The cat"), "completions")
    expect(data["object"] == "text_completion", f"object is {data['object']!r}")
    for prompt, count in ((["The cat", "A dog"], 2), ([1, 2, 3], 1), ([[1, 2], [3, 4]], 2)):
        choices = ok(client.complete(prompt), f"prompt {prompt}")["choices"]
        expect(len(choices) == count, f"prompt {prompt}: {len(choices)} choices")


@check("completions", "tokenize and back", needed=False)
def tokens(client: Client) -> None:
    """A text turned to tokens and back is the same text."""
    asked = {"model": client.model, "prompt": "Hello wörld", "add_special_tokens": False}
    found = ok(client.post("/tokenize", asked), "/tokenize")["tokens"]
    back = ok(client.post("/detokenize", {"model": client.model, "tokens": found}), "/detokenize")["prompt"]
    expect(back.strip() == "Hello wörld", f"{back!r} came back")
    ok(client.endpoint.request("GET", "/tokenizer_info"), "/tokenizer_info")


@check("embeddings", "floats and base64", needed=False)
def embeddings(client: Client) -> None:
    """Each input gets a vector, and both encodings hold the same numbers."""
    asked: dict[str, Any] = {"model": client.model, "input": ["cat", "dog"]}
    plain = ok(client.post("/v1/embeddings", asked | {"encoding_format": "float"}), "/v1/embeddings")["data"]
    packed = ok(client.post("/v1/embeddings", asked | {"encoding_format": "base64"}), "base64")["data"]
    for one, other in zip(plain, packed, strict=True):
        raw = base64.b64decode(other["embedding"])
        values = struct.unpack(f"<{len(raw) // 4}f", raw)
        near = all(abs(a - b) < 1e-4 for a, b in zip(one["embedding"], values, strict=True))
        expect(near, "base64 and float say different numbers")


@check("responses", "text", needed=False)
def responses(client: Client) -> None:
    """`/v1/responses` answers a text with an output message."""
    data = ok(
        client.post("/v1/responses", {"model": client.model, "input": "Hello", "max_output_tokens": 16}),
        "responses",
    )
    expect(data["object"] == "response" and isinstance(data["output"], list), "the answer is not a response")
    expect(data["usage"]["total_tokens"] > 0, "usage is missing")


@check("errors", "one form")
def envelope(client: Client) -> None:
    """Broken JSON, missing and wrong fields: 400 with message, type and code."""
    broken = client.endpoint.request("POST", "/v1/chat/completions", content=b'{"model": ')
    refused(broken, "broken JSON", 400)
    refused(client.chat(messages=[]), "no messages", 400)
    refused(client.chat(temperature="hot"), "temperature 'hot'", 400)
    refused(client.chat(messages=[{"role": "king", "content": "x"}]), "role 'king'", 400)
    refused(client.chat(messages="hello"), "messages as text", 400)


@check("errors", "unknown models and routes")
def unknown(client: Client) -> None:
    """An unknown model gives 404, an unknown route 404 or 405."""
    refused(client.chat(model="no-such-model-anywhere"), "an unknown model", 404)
    answer = client.post("/v1/no-such-route", {})
    expect(answer.status in (404, 405), f"an unknown route: status {answer.status}")


@check("errors", "a prompt that does not fit")
def too_long(client: Client) -> None:
    """The server refuses it in the words that clients search for, and never truncates it silently."""
    limit = _context(client)
    words = "word " * min(2 * limit + 100, 400_000) if limit else "word " * 400_000
    error = refused(client.chat(words), "a prompt that is too long", 400, 413)
    said = f"{error.get('code')} {error['message']}"
    expect(
        "context_length_exceeded" in said or "maximum context length" in said,
        f"clients cannot tell: {said[:120]}",
    )


@check("errors", "sizes out of range")
def sizes(client: Client) -> None:
    """The server refuses numbers that are meaningless or would exhaust it."""
    wrong: list[dict[str, Any]] = [
        {"n": 10**6},
        {"top_logprobs": 10**5, "logprobs": True},
        {"max_tokens": -2},
    ]
    wrong += [{"temperature": -1}, {"top_p": 2}, {"stop": ["x"] * 1000}]
    for fields in wrong:
        name, value = next(iter(fields.items()))
        refused(
            client.chat(**fields), f"{name} {value if not isinstance(value, list) else 'of 1000'}", 400, 422
        )


@check("nothing silent", "fields that do not exist")
def misspelt(client: Client) -> None:
    """The server refuses a misspelt field, or names it as ignored in a header."""
    answer = client.chat(temprature=0.5)
    if answer.status != 400:
        expect(ignored(answer, "temprature"), "'temprature' was accepted without a word")


@check("nothing silent", "what it cannot do")
def cannot(client: Client) -> None:
    """Audio, web search and the old functions are refused or named as ignored in a header."""
    fields: dict[str, Any] = {
        "audio": {"voice": "alloy", "format": "wav"},
        "web_search_options": {},
        "functions": [{"name": "f", "parameters": {"type": "object", "properties": {}}}],
    }
    for name, value in fields.items():
        answer = client.chat(**{name: value})
        expect(answer.status in (400, 422) or ignored(answer, name), f"'{name}' was accepted without a word")


@check("hanging up", "the next request is served")
def hang_up(client: Client) -> str:
    """Replies whose clients hung up do not delay later requests."""
    limit = _context(client) or 4096
    longest = max(8, min(2000, limit // 2))
    before = _seconds(client)

    def leave(number: int) -> None:
        body = client.chat_body(f"Tell me story {number}", temperature=1.0, max_tokens=longest, stream=True)
        with client.endpoint.streaming("/v1/chat/completions", body) as (_, _, data):
            next(data, None)

    with ThreadPoolExecutor(8) as pool:
        for left in [pool.submit(leave, number) for number in range(8)]:
            left.result()
    after = min(_seconds(client), _seconds(client))
    if after > 4 * before + 1.0:
        raise Failed(f"{after:.2f} s for a short reply after eight were left, {before:.2f} s before")
    return f"{before:.2f} s before, {after:.2f} s after"


def _seconds(client: Client) -> float:
    started = time.perf_counter()
    ok(client.chat(max_tokens=2), "chat")
    return time.perf_counter() - started


def _context(client: Client) -> int | None:
    """The most tokens the model takes, where the server reports it."""
    with contextlib.suppress(KeyError, TypeError, Absent, Failed):
        one = ok(client.endpoint.request("GET", f"/v1/models/{client.model}"), "model")
        return int(one["max_model_len"])
    return None
