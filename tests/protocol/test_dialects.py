"""How each protocol says that a request failed."""

from __future__ import annotations

import json

import pytest

from coterie.hosting.errors import ApiError, draining, invalid, unsupported
from coterie.protocol.dialects import ANTHROPIC, OLLAMA, OPENAI, dialect_of


@pytest.mark.parametrize(
    ("path", "headers", "dialect"),
    [
        ("/v1/messages", {}, ANTHROPIC),
        ("/v1/messages/count_tokens", {}, ANTHROPIC),
        ("/v1/models", {"anthropic-version": "2023-06-01"}, ANTHROPIC),
        ("/v1/models", {}, OPENAI),
        ("/v1/chat/completions", {}, OPENAI),
        ("/api/chat", {}, OLLAMA),
        ("/", {}, OPENAI),
    ],
)
def test_the_dialect_of_a_request(path, headers, dialect):
    assert dialect_of(path, headers) is dialect


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (invalid("/x: is wrong", "/x"), "invalid_request_error"),
        (ApiError(401, "no key", "invalid_api_key"), "authentication_error"),
        (ApiError(413, "too large", "request_too_large"), "request_too_large"),
        (ApiError(429, "full", "queue_full"), "rate_limit_error"),
        (ApiError(500, "broken", "server_error"), "api_error"),
        (draining(), "overloaded_error"),
    ],
)
def test_errors_of_anthropic(error, kind):
    body = ANTHROPIC.body(error, "req-1")
    assert body == {"type": "error", "error": {"type": kind, "message": str(error)}, "request_id": "req-1"}
    name, data, *end = ANTHROPIC.event(error).split(b"\n")
    assert (name, end) == (b"event: error", [b"", b""])
    assert json.loads(data.removeprefix(b"data: "))["error"] == body["error"]
    assert ANTHROPIC.statuses.get(error.status, error.status) == (
        529 if error.status == 503 else error.status
    )


def test_the_message_of_anthropic_has_the_place():
    message = ANTHROPIC.body(unsupported("web search", "/web_search_options"), "")["error"]["message"]
    assert message == "/web_search_options: web search is not supported here"


def test_other_dialects():
    error = invalid("/x: is wrong", "/x")
    assert OPENAI.body(error, "") == error.body() and OLLAMA.body(error, "") == {"error": "/x: is wrong"}
    assert json.loads(OPENAI.event(error).removeprefix(b"data: ")) == error.body()
    assert json.loads(OLLAMA.event(error)) == {"error": "/x: is wrong"}
