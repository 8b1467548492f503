"""API errors and their envelope: `{"error": {"message", "type", "param", "code"}}` with an HTTP status."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from coterie.config import CoterieError

log = logging.getLogger("coterie.serve")


class ApiError(CoterieError):
    """A failed request: HTTP status, message and code. `param`: a JSON pointer into the request's body.

    `kind` is the envelope's `type` (by default it follows from the status); `retry_after` is in seconds.
    `final`: the same request would fail again, so clients that retry this status by themselves must not.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        param: str | None = None,
        kind: str | None = None,
        retry_after: float | None = None,
        final: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.kind = kind or _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
        self.retry_after = retry_after
        self.final = final

    def moved(self, place: Callable[[str], str]) -> ApiError:
        """The same error for a request in another form: `place` rewrites the pointers in a text."""
        param = None if self.param is None else place(self.param)
        words = place(str(self))
        return ApiError(self.status, words, self.code, param, self.kind, self.retry_after, self.final)

    def body(self) -> dict[str, Any]:
        """The envelope."""
        inner = {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}
        return {"error": inner}

    def headers(self) -> dict[str, str]:
        """`retry-after`, if it is known, and `x-should-retry`, which OpenAI's and Anthropic's SDKs obey."""
        after = {} if self.retry_after is None else {"retry-after": str(max(1, round(self.retry_after)))}
        return {**after, "x-should-retry": "false"} if self.final else after


_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout",
    429: "rate_limit_error",
    503: "overloaded",
}


def explain(error: Exception) -> ApiError:
    """The error that a client receives for a failure: it shows no paths and no traces."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, CoterieError):
        return ApiError(400, str(error), "invalid_value")
    log.error("request failed: %s", type(error).__name__, exc_info=error)
    return ApiError(500, "the server failed to answer this request", "server_error")


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """400: a value in the request is wrong."""
    return ApiError(400, message, code, param)


def unsupported(feature: str, param: str) -> ApiError:
    """400: the request needs a feature that this server lacks and must not silently ignore."""
    return ApiError(400, f"{feature} is not supported here", "unsupported_parameter", param)


class ContextExceeded(ApiError):
    """400: a prompt of `num_tokens`, with the reply asked for, has no room in the model's `most` tokens."""

    def __init__(self, message: str, num_tokens: int, most: int) -> None:
        super().__init__(400, message, "context_length_exceeded")
        self.num_tokens, self.most = num_tokens, most


def too_long(num_tokens: int, asked: int | None, most: int) -> ContextExceeded:
    """400 with the wording that clients search for."""
    detail = f"the prompt has {num_tokens} tokens"
    if asked is not None:
        detail = (
            f"you asked for {num_tokens + asked} tokens ({num_tokens} in the prompt, {asked} for the reply)"
        )
    message = (
        f"This model's maximum context length is {most} tokens; {detail}. Shorten the prompt or the reply."
    )
    return ContextExceeded(message, num_tokens, most)


def too_slow() -> ApiError:
    """408 or an error event: the request exceeded `--request-timeout`."""
    return ApiError(408, "the request took longer than the server allows", "timeout", final=True)


def draining() -> ApiError:
    """503 while shutting down."""
    return ApiError(
        503, "the server is shutting down; try another or try again later", "draining", retry_after=5
    )


def engine_dead() -> ApiError:
    """503 or an error event after the engine has failed."""
    return ApiError(
        503, "the engine has stopped after a failure; the server must be started again", "engine_dead"
    )
