"""From an HTTP request to a validated body and the model variant that it names, and back to an answer."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from coterie.hosting.engine_thread import Call
from coterie.hosting.errors import ApiError
from coterie.hosting.host import Host
from coterie.hosting.preparation import SMALL
from coterie.hosting.service import Service
from coterie.protocol.body import Body, read
from coterie.protocol.dialects import dialect_of
from coterie.protocol.strict_json import parse
from coterie.protocol.wire import EventStream, JsonAnswer, read_body, unless_gone

B = TypeVar("B", bound=Body)
T = TypeVar("T")
_MOST_NAMED = 4000  # characters of the header


@dataclass(frozen=True)
class Received(Generic[B]):
    """A request's validated body.

    `variant`: the served variant that its field `model` selects ("": the base, also where no model is named).
    `ignored`: names of fields that were accepted and have no effect. `size`: bytes.
    """

    host: Host
    service: Service
    body: B
    variant: str
    ignored: tuple[str, ...]
    size: int

    async def prepared(self, request: Request, work: Callable[[], T]) -> T:
        """The result of `work` in a thread, unless the client leaves before.

        Errors: any exception of `work`; `ApiError` 429; `Disconnected`.
        """
        return await unless_gone(request.receive, self.host.preparations.run(work, self.size))

    def head(self, prefix: str) -> dict[str, Any]:
        """Fields that open every object of the answer, with a new id that begins with `prefix`."""
        return {
            "id": prefix + secrets.token_hex(12),
            "created": int(time.time()),
            "model": getattr(self.body, "model", None),
            "system_fingerprint": self.service.fingerprints[self.variant],
        }

    def names(self, more: Sequence[str] = ()) -> list[str]:
        """The fields without effect, those of `more` too, each once."""
        return list(dict.fromkeys((*self.ignored, *more)))

    def headers(self, more: Sequence[str] = ()) -> dict[str, str]:
        """The header that lists fields without effect, those of `more` too; empty when there are none."""
        return naming(self.names(more))

    def last(self, more: Sequence[str] = ()) -> dict[str, list[str]]:
        """What the last data object of a stream says in place of the header; empty when there is nothing."""
        names = self.names(more)
        return {"x_coterie_ignored": names} if names else {}


def naming(names: Sequence[str]) -> dict[str, str]:
    """The header that lists fields without effect: ASCII, and no longer than proxies and clients take."""
    text = ",".join(names)
    if len(text) > _MOST_NAMED:
        kept = text[:_MOST_NAMED].rpartition(",")[0].split(",")
        text = ",".join([*kept, f"and {len(names) - len(kept)} more"])
    return {"x-coterie-ignored": re.sub(r"[^ -~]", "?", text)} if names else {}


async def queried(request: Request) -> Service:
    """The service of the model that the query names (`?model=`), by default the first.

    Errors: `ApiError` 403, 404 or 503; `Disconnected`.
    """
    host: Host = request.app.state.host
    finding = host.find(request.query_params.get("model"), request.scope)
    return (await unless_gone(request.receive, finding))[0]


async def read_request(request: Request, kind: type[B]) -> tuple[B, list[str], int]:
    """Read and validate a body: it, the names of fields without effect, and the number of its bytes.

    Errors: `ApiError` 400, 408, 413, 415 or 429; `Disconnected`.
    """
    host: Host = request.app.state.host
    raw = await read_body(request, host.settings.max_body)

    def understood() -> tuple[B, list[str]]:
        return read(kind, parse(raw), host.settings.strict)

    if len(raw) <= SMALL:
        return *understood(), len(raw)
    work = host.preparations.run(understood, len(raw))
    return *(await unless_gone(request.receive, work)), len(raw)


async def receive(request: Request, kind: type[B]) -> Received[B]:
    """Read and validate a body, and resolve its model.

    Errors: `ApiError` 400, 404 (unknown model), 408, 413, 415 or 429; `Disconnected`.
    """
    host: Host = request.app.state.host
    body, ignored, size = await read_request(request, kind)
    finding = host.find(getattr(body, "model", None), request.scope)
    service, variant = await unless_gone(request.receive, finding)
    return Received(host, service, body, variant, tuple(ignored), size)


async def respond(
    request: Request,
    received: Received[Any],
    call: Call,
    stream: Callable[[], AsyncGenerator[bytes, None]],
    whole: Callable[[], Awaitable[Any]],
    ignored: Sequence[str] = (),
    failed: Callable[[ApiError], bytes] | None = None,
    ping: Callable[[str, bool], bytes] | None = None,
) -> Response:
    """The answer to a generating request: a stream of events when the body asks for one, else JSON.

    `ignored`: more fields without effect, for the header. `failed`: the last bytes of a stream that fails,
    and `ping`: those that keep it open, in place of those of the dialect.
    The call is cancelled when the client disconnects. Errors: any exception of `whole`; `Disconnected`.
    """
    if received.body.stream:
        headers = received.headers(ignored)
        dialect = dialect_of(request.url.path, request.headers)

        def keep_open(begun: bool) -> bytes:
            read, total = received.service.thread.progress(call)
            return (ping or dialect.ping)(f"prefill={read}/{total}", begun)

        failing, silence = failed or dialect.event, received.host.settings.ping
        return EventStream(stream(), headers, failing, call.cancel, keep_open, silence, dialect.stream_type)
    answer = await unless_gone(request.receive, whole())
    return JsonAnswer(answer, headers=received.headers(ignored))  # `whole` may have added a name
