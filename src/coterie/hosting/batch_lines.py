"""The lines of a batch's input file, and those of its results (OpenAI's batch format)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coterie.config.json_text import JsonError, JsonLimits, parse_json_object
from coterie.hosting.inner_request import InnerAnswer
from coterie.hosting.job_records import new_id

MOST_LINES = 50_000
_MOST_ERRORS = 100
_FIELDS = ("custom_id", "method", "url", "body")
_LIMITS = JsonLimits(size=2**31, depth=66, items=200_000, values=1_000_000)


@dataclass(frozen=True)
class BatchLine:
    """Where a request is in the file."""

    offset: int
    size: int

    def read(self, path: Path) -> dict[str, Any]:
        """The request. Errors: `OSError`, `JsonError` for a file that was changed."""
        with path.open("rb") as file:
            file.seek(self.offset)
            return parse_json_object(file.read(self.size), _LIMITS)


class _Problem(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.param = code, param


def index(
    path: Path, endpoint: str, most_bytes: int, serves: Callable[[str], bool]
) -> tuple[list[BatchLine], list[dict[str, Any]]]:
    """The requests of a file, and what is wrong with it, as the API lists it (at most 100 problems).

    `most_bytes`: of a line. `serves`: whether a model of this name exists.
    Errors: `OSError`.
    """
    lines: list[BatchLine] = []
    problems: list[dict[str, Any]] = []
    seen: set[str] = set()

    def note(error: _Problem, number: int | None) -> None:
        problems.append({"code": error.code, "message": str(error), "param": error.param, "line": number})

    with path.open("rb") as file:
        offset = number = 0
        while len(problems) < _MOST_ERRORS and (text := file.readline(most_bytes + 1)):
            number += 1
            start, offset = offset, offset + len(text)
            if not text.strip():
                continue
            try:
                if len(text) > most_bytes:
                    raise _Problem("line_too_long", f"the line is longer than {most_bytes} bytes")
                if len(lines) == MOST_LINES:
                    raise _Problem("too_many_requests", f"the file has more than {MOST_LINES} requests")
                _check(text, endpoint, seen, serves)
            except _Problem as error:
                note(error, number)
                if error.code in ("line_too_long", "too_many_requests"):
                    break
            lines.append(BatchLine(start, len(text)))
    if not lines and not problems:
        note(_Problem("empty_file", "the file has no requests"), None)
    return lines, problems


def _check(text: bytes, endpoint: str, seen: set[str], serves: Callable[[str], bool]) -> None:
    try:
        line = parse_json_object(text, _LIMITS)
    except JsonError as error:
        raise _Problem("invalid_json_line", f"the line {error}") from None
    unknown = [name for name in line if name not in _FIELDS]
    if unknown:
        raise _Problem("unknown_field", f"unknown field {unknown[0][:80]!r}", unknown[0][:80])
    custom_id, body = line.get("custom_id"), line.get("body")
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= 512:
        raise _Problem("invalid_custom_id", "custom_id must be a text of 1 to 512 characters", "custom_id")
    if custom_id in seen:
        raise _Problem("duplicate_custom_id", f"custom_id {custom_id[:80]!r} stands twice", "custom_id")
    seen.add(custom_id)
    if line.get("method") != "POST":
        raise _Problem("invalid_method", "method must be 'POST'", "method")
    if line.get("url") != endpoint:
        raise _Problem("mismatched_endpoint", f"url must be the batch's endpoint, {endpoint}", "url")
    if not isinstance(body, dict):
        raise _Problem("invalid_body", "body must be an object", "body")
    if body.get("stream"):
        raise _Problem("invalid_body", "a request of a batch cannot be streamed", "body.stream")
    model = body.get("model")
    if isinstance(model, str) and not serves(model):
        raise _Problem("model_not_found", f"the model {model[:80]!r} does not exist here", "body.model")


def result_of(custom_id: str, answer: InnerAnswer) -> dict[str, Any]:
    """The line of a request that was answered."""
    response = {"status_code": answer.status, "request_id": new_id("req-"), "body": answer.body}
    if answer.ignored:
        response["x_coterie_ignored"] = answer.ignored
    return {"id": new_id("batch_req_"), "custom_id": custom_id, "response": response, "error": None}


def not_run(custom_id: str, code: str, message: str) -> dict[str, Any]:
    """The line of a request that was never answered."""
    error = {"code": code, "message": message}
    return {"id": new_id("batch_req_"), "custom_id": custom_id, "response": None, "error": error}


def tokens_of(body: dict[str, Any]) -> tuple[int, int, int, int]:
    """Tokens of an answer, in either form of the API: read, found in the cache, written, of reasoning."""
    usage = body.get("usage") or {}

    def first(*names: str) -> Any:
        return next((usage[name] for name in names if usage.get(name) is not None), None)

    read = first("prompt_tokens", "input_tokens") or 0
    written = first("completion_tokens", "output_tokens") or 0
    cached = (first("prompt_tokens_details", "input_tokens_details") or {}).get("cached_tokens") or 0
    details = first("completion_tokens_details", "output_tokens_details") or {}
    return read, cached, written, details.get("reasoning_tokens") or 0
