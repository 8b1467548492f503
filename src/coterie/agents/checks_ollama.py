"""Checks of Ollama's API: chat as lines of JSON, what is served, embeddings, errors."""

from __future__ import annotations

from typing import Any

from coterie.agents.checks import Absent, Client, check, events, expect, ok
from coterie.remote.client import Answer


def _chat(client: Client, **fields: Any) -> Answer:
    """A chat; without a word about it Ollama streams."""
    body = {
        "model": client.model,
        "messages": [{"role": "user", "content": "Hello"}],
        "options": {"temperature": 0, "num_predict": 12},
    }
    return client.post("/api/chat", body | fields)


@check("ollama", "lines add up", needed=False)
def streamed(client: Client) -> None:
    """Lines end with `done`, and their text is that of the whole answer."""
    whole = ok(_chat(client, stream=False), "/api/chat")
    expect(whole["done"] is True and whole["message"]["role"] == "assistant", "the whole answer is not done")
    lines = events(_chat(client), "/api/chat")
    expect([line["done"] for line in lines] == [False] * (len(lines) - 1) + [True], "'done' is not the end")
    for part in ("content", "thinking"):
        text = "".join(line["message"].get(part) or "" for line in lines)
        plain = whole["message"].get(part) or ""
        expect(text == plain, f"{part}: streamed {text[:60]!r}, whole {plain[:60]!r}")
    counts = [(answer["prompt_eval_count"], answer["eval_count"]) for answer in (whole, lines[-1])]
    expect(counts[0] == counts[1] and min(counts[0]) > 0, f"counts of tokens differ or are missing: {counts}")


@check("ollama", "tags, show and version", needed=False)
def listed(client: Client) -> None:
    """The model is listed, can be looked at, and the server says its version."""
    tags = ok(client.send("GET", "/api/tags"), "/api/tags")["models"]
    names = [model["name"].removesuffix(":latest") for model in tags]
    expect(client.model.removesuffix(":latest") in names, f"{client.model} is not among {names}")
    shown = ok(client.post("/api/show", {"model": client.model}), "/api/show")
    expect("completion" in shown["capabilities"], f"capabilities {shown['capabilities']}")
    expect(isinstance(ok(client.send("GET", "/api/version"), "/api/version")["version"], str), "no version")


@check("ollama", "embed", needed=False)
def embedded(client: Client) -> None:
    """`/api/embed` gives the vectors of `/v1/embeddings`."""
    asked = {"model": client.model, "input": ["cat", "dog"]}
    vectors = ok(client.post("/api/embed", asked), "/api/embed")["embeddings"]
    others = ok(client.post("/v1/embeddings", asked | {"encoding_format": "float"}), "/v1/embeddings")["data"]
    for one, other in zip(vectors, others, strict=True):
        near = all(abs(a - b) < 1e-4 for a, b in zip(one, other["embedding"], strict=True))
        expect(near, "/api/embed and /v1/embeddings give different vectors")


@check("ollama", "errors as text", needed=False)
def errors(client: Client) -> None:
    """Errors are `{"error": TEXT}` with a status, before a stream too."""
    ok(_chat(client, stream=False), "/api/chat")
    unknown: dict[str, Any] = {"model": "no-such-model-anywhere"}
    trials = {"an unknown model": unknown, "an unknown model, whole": unknown | {"stream": False}}
    for what, fields in trials.items():
        answer = _chat(client, **fields)
        expect(answer.status == 404, f"{what}: status {answer.status}, not 404")
        _is_text(answer, what)
    wrong = _chat(client, messages="hello")
    expect(wrong.status == 400, f"messages as text: status {wrong.status}, not 400")
    _is_text(wrong, "messages as text")


def _is_text(answer: Answer, what: str) -> None:
    said = isinstance(answer.data, dict) and isinstance(answer.data.get("error"), str)
    expect(said, f"{what}: the error is not {{'error': TEXT}}: {answer.text[:120]}")


def prompt_tokens(client: Client, messages: list[dict[str, str]]) -> int:
    """The prompt's tokens of a conversation. Errors: `Absent` where the server lacks the protocol."""
    answer = _chat(client, messages=messages, stream=False)
    if answer.status != 200:
        raise Absent(f"/api/chat: status {answer.status}")
    return int(answer.data["prompt_eval_count"])
