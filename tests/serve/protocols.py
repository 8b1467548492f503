"""Bodies for every endpoint that takes one, and a connection to send them over."""

# ruff: noqa: E501  # tables, one body after another

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from coterie.serve.server import ServerThread

Body = dict[str, Any]
Write = Callable[[str, int, bool], Body]


def _chat(text: str, tokens: int, stream: bool) -> Body:
    turns = [{"role": "user", "content": text}]
    return {"model": "tiny", "messages": turns, "max_tokens": tokens, "stream": stream, "seed": 5}


def _ollama(text: str, tokens: int, stream: bool) -> Body:
    return {"model": "tiny", "stream": stream, "options": {"num_predict": tokens, "seed": 5}}


# What generates: a body with this text, so many tokens, as a stream or whole.
WRITE: dict[str, Write] = {
    "/v1/chat/completions": _chat,
    "/v1/completions": lambda text, tokens, stream: {
        "model": "tiny", "prompt": text, "max_tokens": tokens, "stream": stream, "seed": 5},
    "/v1/responses": lambda text, tokens, stream: {
        "model": "tiny", "input": text, "max_output_tokens": tokens, "stream": stream, "seed": 5},
    "/v1/messages": _chat,
    "/api/chat": lambda text, tokens, stream: {
        **_ollama(text, tokens, stream), "messages": [{"role": "user", "content": text}]},
    "/api/generate": lambda text, tokens, stream: {**_ollama(text, tokens, stream), "prompt": text, "raw": True},
}  # fmt: skip
# What takes a body and does not generate.
OTHERS: dict[str, Body] = {
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/responses/input_tokens": {"input": "Hi"},
    "/v1/embeddings": {"input": "Hi"},
    "/v1/rerank": {"query": "Hi", "documents": ["Ho"]},
    "/v1/score": {"text_1": "Hi", "text_2": "Ho"},
    "/api/embed": {"input": "Hi"},
    "/api/embeddings": {"prompt": "Hi"},
    "/api/show": {},
    "/tokenize": {"prompt": "Hi"},
    "/detokenize": {"tokens": [3]},
}
STATE = ("/v1/conversations", "/v1/conversations/conv_x", "/v1/conversations/conv_x/items")


class Line:
    """One connection for many requests."""

    def __init__(self, server: ServerThread) -> None:
        parts = urlsplit(server.url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = {"content-type": "application/json"}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request("POST", path, sent, {**kind, **named})
        answer = self._connection.getresponse()
        data = answer.read()
        return answer.status, json.loads(data) if data else None
