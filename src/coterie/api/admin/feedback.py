"""`POST /v1/feedback`: people's judgements of replies, as lines that `coterie tune` reads unchanged.

`preferences.jsonl` (chosen and rejected) is for `--objective dpo`, `labels.jsonl` (thumbs) for kto;
`undecided.jsonl` keeps the pairs without a winner. Files are only appended to; each line is complete and on
disk before the request is answered.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from coterie.hosting.errors import ApiError, invalid
from coterie.hosting.host import Host
from coterie.protocol.body import Body
from coterie.protocol.received import receive
from coterie.protocol.requests import ChatMessage
from coterie.protocol.wire import JsonAnswer

FILES = {"preference": "preferences.jsonl", "label": "labels.jsonl", "undecided": "undecided.jsonl"}
_lock = threading.Lock()


class FeedbackRequest(Body):
    """One judgement.

    `messages`: the conversation before the reply. `about`: models and settings, stored unchanged.
    """

    kind: Literal["preference", "label", "undecided"]
    messages: list[ChatMessage] = Field(min_length=1)
    chosen: ChatMessage | None = None
    rejected: ChatMessage | None = None
    message: ChatMessage | None = None
    label: bool | None = None
    replies: list[ChatMessage] | None = Field(None, min_length=2, max_length=2)
    about: dict[str, Any] = Field(default_factory=dict)


async def feedback(request: Request) -> Response:
    """Append one judgement to its file.

    Errors: `ApiError` 400, 404 when the server keeps no feedback, 507 when the disk is full.
    """
    host: Host = request.app.state.host
    if host.settings.feedback is None:
        raise ApiError(
            404, "this server keeps no feedback; start it with --feedback DIRECTORY", "feedback_off"
        )
    received = await receive(request, FeedbackRequest)
    body = received.body
    path = Path(host.settings.feedback) / FILES[body.kind]
    append_line(path, record_of(body) | {"time": int(time.time())})
    return JsonAnswer({"object": "feedback", "file": path.name}, headers=received.headers())


def record_of(body: FeedbackRequest) -> dict[str, Any]:
    """The line for one judgement, in a form of `data.formats`. Errors: `ApiError` 400 for a missing part."""
    prompt = [_plain(message) for message in body.messages]
    about = {"about": body.about}
    if body.kind == "preference":
        return {
            "prompt": prompt,
            "chosen": [_reply(body, "chosen")],
            "rejected": [_reply(body, "rejected")],
        } | about
    if body.kind == "label":
        if body.label is None:
            raise invalid("/label: true or false was expected", "/label")
        return {"prompt": prompt, "completion": [_reply(body, "message")], "label": body.label} | about
    if body.replies is None:
        raise invalid("/replies: the two replies were expected", "/replies")
    return {"prompt": prompt, "replies": [_plain(reply) for reply in body.replies]} | about


def _reply(body: FeedbackRequest, name: str) -> dict[str, Any]:
    message: ChatMessage | None = getattr(body, name)
    if message is None or message.role != "assistant":
        raise invalid(f"/{name}: a message of an assistant was expected", f"/{name}")
    return _plain(message)


def _plain(message: ChatMessage) -> dict[str, Any]:
    return message.model_dump(mode="json", exclude_none=True, exclude_defaults=False)


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON line, whole or not at all. Errors: `ApiError` 507 when it cannot be written."""
    line = (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
    with _lock:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                before = file.tell()
                try:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    os.ftruncate(file.fileno(), before)
                    raise
        except OSError as error:
            raise ApiError(
                507, f"the judgement could not be written ({error.strerror})", "feedback_not_written"
            ) from None
