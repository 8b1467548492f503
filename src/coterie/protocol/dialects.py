"""How each protocol says that a request failed, and that a stream is alive while nothing else is said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from coterie.hosting.errors import ApiError
from coterie.protocol.wire import encode


@dataclass(frozen=True)
class Dialect:
    """The errors and pings of one protocol.

    `body(error, request_id)`: the JSON of an answer. `event(error)`: the last bytes of a failed stream.
    `ping(note, begun)`: bytes that keep a stream open and that clients pass over; `note`: how much of the
    prompt has been read; `begun`: whether an event has been sent.
    `statuses`: our statuses -> its own, where they differ. `id_header`: a header for the request's id.
    `stream_type`: the media type of its streams.
    """

    body: Callable[[ApiError, str], dict[str, Any]]
    event: Callable[[ApiError], bytes]
    ping: Callable[[str, bool], bytes]
    statuses: Mapping[int, int] = field(default_factory=dict)
    id_header: str = "x-request-id"
    stream_type: str = "text/event-stream"


def _comment(note: str, begun: bool) -> bytes:
    return f": ping {note}\n\n".encode()


# https://platform.claude.com/docs/en/api/errors
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
    message = str(error)
    if error.param and error.param not in message:  # the envelope has no field for the place
        message = f"{error.param}: {message}"
    return {"type": "error", "error": {"type": kind, "message": message}}


OPENAI = Dialect(
    body=lambda error, request_id: error.body(),
    event=lambda error: b"data: " + encode(error.body()) + b"\n\n",
    ping=_comment,
)
ANTHROPIC = Dialect(
    body=lambda error, request_id: {**_anthropic(error), "request_id": request_id},
    event=lambda error: b"event: error\ndata: " + encode(_anthropic(error)) + b"\n\n",
    # The event of this name may come anywhere but before `message_start`.
    ping=lambda note, begun: b'event: ping\ndata: {"type":"ping"}\n\n' if begun else _comment(note, begun),
    statuses={503: 529},
    id_header="request-id",
)
OLLAMA = Dialect(
    body=lambda error, request_id: {"error": str(error)},
    event=lambda error: encode({"error": str(error)}) + b"\n",
    stream_type="application/x-ndjson",
    ping=lambda note, begun: b"",  # lines of JSON have no comments; an endpoint writes an empty piece
)


def dialect_of(path: str, headers: Mapping[str, str]) -> Dialect:
    """The protocol of a request; a header of Anthropic's clients tells on paths that protocols share."""
    if path.startswith("/v1/messages") or "anthropic-version" in headers:
        return ANTHROPIC
    return OLLAMA if path.startswith("/api/") else OPENAI
