"""`GET /v1/identity`: digests of the weights that answer and of what surrounds them, and what runs them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from coterie.hosting.errors import ApiError
from coterie.hosting.host import Host
from coterie.protocol.wire import JsonAnswer, unless_gone


async def identity(request: Request) -> Response:
    """`GET /v1/identity?model=NAME`: of the first model where none is named; adapters as `MODEL:ADAPTER`.

    The tensors in memory are hashed when this is first asked for. `weights` has the digest of every layer
    and routed expert; `?weights=0` leaves it out.
    Errors: `ApiError` 400, 403, 404 or 503; `Disconnected`.
    """
    host: Host = request.app.state.host
    wanted = request.query_params.get("weights", "1")
    if wanted not in ("0", "1"):
        raise ApiError(400, "weights: 1 lists the digest of each expert, 0 leaves them out", "invalid_query")
    name = request.query_params.get("model")
    service, variant = await unless_gone(request.receive, host.find(name, request.scope))
    label = f"{service.name}:{variant}" if variant else service.name
    asked = service.identities.of(label, variant, service.engine.variant(variant))
    found = await unless_gone(request.receive, asked)
    answer = {
        "object": "identity",
        "model": label,
        "identity": found.identity.to_dict(),
        "exec_profile": found.profile.to_dict(),
        "notes": list(found.tree.notes),
    }
    return JsonAnswer(answer | ({"weights": found.tree.to_dict()} if wanted == "1" else {}))
