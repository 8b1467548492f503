"""From an HTTP request to a validated body and the model variant that it names, and back to an answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from coterie.serve.core.engine_thread import Call
from coterie.serve.core.service import Service
from coterie.serve.endpoints.protocol import Body, read
from coterie.serve.http.wire import EventStream, JsonAnswer, read_object, unless_gone

B = TypeVar("B", bound=Body)


@dataclass(frozen=True)
class Received(Generic[B]):
    """A request's validated body.

    `variant`: the served variant that its field `model` selects ("": the base, also where no model is named).
    `ignored`: names of fields that were accepted and have no effect.
    """

    service: Service
    body: B
    variant: str
    ignored: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """The answer's `system_fingerprint`."""
        return self.service.fingerprints[self.variant]

    def headers(self, more: Sequence[str] = ()) -> dict[str, str]:
        """The header that lists fields without effect, those of `more` too; empty when there are none."""
        names = (*self.ignored, *more)
        return {"x-coterie-ignored": ",".join(names)} if names else {}


async def receive(request: Request, kind: type[B]) -> Received[B]:
    """Read and validate a body, and resolve its model.

    Errors: `ApiError` 400, 404 (unknown model), 408, 411, 413 or 415; `Disconnected`.
    """
    service: Service = request.app.state.service
    body, ignored = read(kind, await read_object(request, service.settings.max_body))
    name: str | None = getattr(body, "model", None)
    return Received(service, body, "" if name is None else service.resolve(name), tuple(ignored))


async def respond(
    request: Request,
    service: Service,
    call: Call,
    headers: dict[str, str],
    stream: Callable[[], AsyncGenerator[bytes, None]] | None,
    whole: Callable[[], Awaitable[Any]],
) -> Response:
    """The answer to a generating request: a stream of events, or without `stream` the whole as JSON.

    The call is cancelled when the client disconnects. Errors: any exception of `whole`; `Disconnected`.
    """
    if stream is not None:
        return EventStream(stream(), headers, service.explain, call.cancel)
    return JsonAnswer(await unless_gone(request.receive, whole()), headers=headers)
