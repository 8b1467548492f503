"""How each protocol says that a request failed: the body of an answer, and the end of a stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coterie.api.common.wire import encode
from coterie.hosting.errors import ApiError


@dataclass(frozen=True)
class Dialect:
    """The errors of one protocol.

    `body(error, request_id)`: the JSON of an answer. `event(error)`: the last bytes of a failed stream.
    """

    body: Callable[[ApiError, str], dict[str, Any]]
    event: Callable[[ApiError], bytes]


# https://docs.anthropic.com/en/api/errors
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def _anthropic(error: ApiError) -> dict[str, Any]:
    kind = _ANTHROPIC_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": str(error)}}


OPENAI = Dialect(
    body=lambda error, request_id: error.body(),
    event=lambda error: b"data: " + encode(error.body()) + b"\n\n",
)
ANTHROPIC = Dialect(
    body=lambda error, request_id: {**_anthropic(error), "request_id": request_id},
    event=lambda error: b"event: error\ndata: " + encode(_anthropic(error)) + b"\n\n",
)
OLLAMA = Dialect(
    body=lambda error, request_id: {"error": str(error)},
    event=lambda error: encode({"error": str(error)}) + b"\n",
)


def dialect_of(path: str) -> Dialect:
    """The protocol of a path."""
    if path.startswith("/v1/messages"):
        return ANTHROPIC
    return OLLAMA if path.startswith("/api/") else OPENAI
