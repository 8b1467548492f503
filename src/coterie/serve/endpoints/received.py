"""The one way from an HTTP request to a validated body and the model variant that it names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from starlette.requests import Request

from coterie.serve.core.service import Service
from coterie.serve.endpoints.protocol import Body, read
from coterie.serve.http.wire import read_object

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
