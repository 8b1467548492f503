"""A request of the server to itself: the same endpoint as a client's request, behind all of those."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp

from coterie.hosting.engine_thread import BATCH, BEHIND
from coterie.hosting.errors import ApiError, explain
from coterie.hosting.host import Host
from coterie.hosting.keys import HOLDER, Holder

_FINAL = ("model_load_failed",)  # refusals by a busy server that a later try would meet again


@dataclass(frozen=True)
class InnerAnswer:
    """Status and JSON body of an answer. `ignored`: fields without effect."""

    status: int
    body: dict[str, Any]
    ignored: list[str]


class Busy(Exception):
    """The server cannot answer now. `seconds`: when to try again."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"busy for {seconds:.1f} s")
        self.seconds = seconds


async def ask(
    app: ASGIApp, host: Host, holder: Holder | None, path: str, body: dict[str, Any]
) -> InnerAnswer:
    """The answer to a JSON request. `holder`: the key whose request it is. Run it in a new task.

    Errors: `Busy`.
    """
    HOLDER.set(holder)
    BEHIND.set(BATCH)
    text = json.dumps(body, ensure_ascii=False).encode()
    scope = _scope(path, text)
    unread: list[dict[str, Any]] = [{"type": "http.request", "body": text, "more_body": False}]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not unread:
            await asyncio.Event().wait()  # this client never leaves
        return unread.pop()

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    host.num_open += 1
    try:
        with contextlib.nullcontext() if holder is None else holder.request():
            await app(scope, receive, send)
    except Exception as error:
        return _failed(explain(error))
    finally:
        host.release(scope)
        host.num_open -= 1
    headers = dict(sent[0]["headers"])
    ignored = headers.get(b"x-coterie-ignored", b"").decode()
    data = json.loads(b"".join(one.get("body", b"") for one in sent[1:]))
    return InnerAnswer(sent[0]["status"], data, ignored.split(",") if ignored else [])


def _failed(error: ApiError) -> InnerAnswer:
    if error.status in (429, 503) and error.code not in _FINAL:
        raise Busy(1.0 if error.retry_after is None else min(error.retry_after, 60.0))
    return InnerAnswer(error.status, error.body(), [])


def _scope(path: str, body: bytes) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"localhost"),
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ],
        "client": None,
        "server": None,
    }
