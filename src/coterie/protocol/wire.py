"""Bytes in and out: bodies of limited size, JSON answers, event streams that end when the client leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from coterie.hosting.errors import ApiError, draining, explain

T = TypeVar("T")
BODY_IDLE = 30.0  # seconds to wait for the next byte of a body
_CHECK_EVERY = 0.5  # seconds between checks, while waiting for a body, whether the server is ending
SEND_IDLE = 60.0  # seconds to wait for a client that reads nothing
log = logging.getLogger("coterie.serve")
DONE = b"data: [DONE]\n\n"
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def encode(data: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return _ENCODER.encode(data).encode()


class JsonAnswer(Response):
    """A JSON answer."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return encode(content)


async def read_body(request: Request, cap: int) -> bytes:
    """The bytes of a JSON request. Errors: `ApiError` 408, 413 or 415; `Disconnected`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not _as_ollama(request, kind):
        raise ApiError(415, "send the header 'content-type: application/json'", "unsupported_media_type")
    body = b"".join([chunk async for chunk in body_chunks(request, cap)])
    if request.app.state.host.settings.log_requests == "full":
        # As JSON text: a line break in the body or the path must not look like a further entry.
        said = json.dumps([request.url.path, body.decode("utf-8", "replace")], ensure_ascii=True)
        log.info("body: %s", said)
    return body


def _as_ollama(request: Request, kind: str) -> bool:
    """Whether a request is one that curl sends as Ollama's examples show; a browser's page has an origin."""
    formless = kind in ("", "application/x-www-form-urlencoded")
    return formless and request.url.path.startswith("/api/") and "origin" not in request.headers


async def body_chunks(request: Request, cap: int) -> AsyncGenerator[bytes, None]:
    """The bytes of a body as they come. Errors: `ApiError` 408, 413 or 415; `Disconnected`."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "compressed bodies are not accepted", "unsupported_content_encoding")
    declared = request.headers.get("content-length", "")
    if declared and (not declared.isdigit() or int(declared[:20]) > cap):
        raise _too_large(cap)
    size = 0
    end = time.monotonic() + BODY_IDLE
    while True:
        try:
            async with asyncio.timeout(min(_CHECK_EVERY, BODY_IDLE)):
                message = await request.receive()
        except TimeoutError:
            if time.monotonic() >= end:
                raise ApiError(
                    408, f"no byte of the body came for {BODY_IDLE:.0f} seconds", "timeout"
                ) from None
        else:
            if message["type"] == "http.disconnect":
                raise Disconnected
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > cap:
                raise _too_large(cap)
            yield chunk
            if not message.get("more_body", False):
                return
            end = time.monotonic() + BODY_IDLE
        if request.app.state.host.refusing:  # the complete request would be refused too
            raise draining()


def _too_large(cap: int) -> ApiError:
    return ApiError(413, f"the body is larger than {cap} bytes", "request_too_large")


class Disconnected(Exception):
    """The client has disconnected; no answer can be sent."""


async def until_gone(receive: Receive) -> None:
    """Return when the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client disconnects.

    Errors: any exception of `work`; `Disconnected`.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(until_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Disconnected
        return task.result()
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


class EventStream(Response):
    """Server-sent events, or lines of JSON, from a generator of bytes.

    The generator is closed when the client disconnects or reads nothing for a minute. `leave` is called
    however the stream ends, because a generator that was never started does not cancel its work itself. A
    failure inside the generator becomes a last event, which `failed` writes: a stream never ends without
    `[DONE]` or an error. After each `silence` seconds in which nothing was sent, `ping` gives the bytes to
    write, which may be none; its argument says whether the stream has begun.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        headers: dict[str, str],
        failed: Callable[[ApiError], bytes],
        leave: Callable[[], None],
        ping: Callable[[bool], bytes],
        silence: float,
        media_type: str = "text/event-stream",
    ) -> None:
        told = {"cache-control": "no-cache", "x-accel-buffering": "no", **headers}
        super().__init__(b"", 200, told, media_type)
        del self.headers["content-length"]
        self._events = events
        self._failed = failed
        self._leave = leave
        self._ping = ping
        self._silence = silence

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            # A failure to write has no receiver; errors of the events are sent by `_write`.
            with contextlib.suppress(Exception):
                await unless_gone(receive, self._write(send))
        finally:
            self._leave()
            await self._events.aclose()

    async def _write(self, send: Send) -> None:
        begun, last, sending = False, time.monotonic(), asyncio.Lock()

        async def put(body: bytes, more: bool = True) -> None:
            nonlocal last
            message = {"type": "http.response.body", "body": body, "more_body": more}
            async with sending:  # the server itself hangs up on who reads nothing
                await send(message)
            last = time.monotonic()

        async def beat() -> None:
            nonlocal last
            while True:
                await asyncio.sleep(max(0.0, last + self._silence - time.monotonic()))
                if time.monotonic() >= last + self._silence:
                    last = time.monotonic()
                    if body := self._ping(begun):
                        await put(body)

        beats = asyncio.ensure_future(beat())
        try:
            async for chunk in self._events:
                begun = True
                await put(chunk)
        except OSError:
            return  # the client has gone
        except Exception as error:
            await put(self._failed(explain(error)))
        finally:
            beats.cancel()
            await asyncio.gather(beats, return_exceptions=True)
        await put(b"", more=False)
