"""`/v1/adapters`, for the operator: list, add and remove adapters while serving.

A request names an entry of the directory given at the start (`--adapter-dir`), never a path. Its entries are
listed and compared with the name, so that no path from a request is opened. Adding and removing need a key.
"""

from __future__ import annotations

import os
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from coterie.config import CoterieError
from coterie.hosting.errors import ApiError
from coterie.hosting.keys import HOLDER
from coterie.hosting.service import Service
from coterie.protocol.body import Body, read
from coterie.protocol.received import queried
from coterie.protocol.strict_json import parse
from coterie.protocol.wire import JsonAnswer, read_body


async def listing(request: Request) -> Response:
    """`GET /v1/adapters`: the served adapters, and the available ones."""
    service = await queried(request)
    return JsonAnswer(
        {"object": "list", "data": list(service.adapters), "available": sorted(_entries(service))}
    )


async def add(request: Request) -> Response:
    """`PUT /v1/adapters/NAME`: serve the entry of this name, or read it again.

    Errors: `ApiError` 400 for an adapter that does not fit, 403 without a key, 404 for an unknown entry.
    """
    service = await _operated(request)
    name = request.path_params["name"]
    path = _entries(service).get(name)
    if path is None:
        raise ApiError(404, "the adapter directory has no entry of this name", "adapter_not_found")
    try:
        await service.thread.run(lambda: service.add_adapter(name, path))
    except ApiError:
        raise
    except CoterieError as error:
        raise ApiError(400, str(error).replace(str(path), name), "adapter_refused") from None
    return JsonAnswer({"id": f"{service.name}:{name}", "object": "model", "parent": service.name})


async def remove(request: Request) -> Response:
    """`DELETE /v1/adapters/NAME`: accept no more requests for it; running replies finish with it.

    Errors: `ApiError` 403 without a key, 404 for an adapter that is not served.
    """
    service = await _operated(request)
    name = request.path_params["name"]
    if name not in service.adapters:
        raise ApiError(404, "no adapter of this name is served", "adapter_not_found")
    await service.thread.run(lambda: service.remove_adapter(name))
    return JsonAnswer({"id": f"{service.name}:{name}", "object": "model", "deleted": True})


class AdapterRequest(Body):
    """Nothing: the path names the adapter, and the operator's directory holds it."""

    place = "/v1/adapters"


async def _operated(request: Request) -> Service:
    """The service, for a key that may change it. Errors: `ApiError` 400 for a body with fields; 403."""
    holder = HOLDER.get()
    if holder is None:
        raise ApiError(403, "adapters are added and removed only on a server with a key", "key_needed")
    if not holder.settings.admin:
        raise ApiError(403, "this key may not add or remove adapters ('admin' in the key file)", "key_needed")
    if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
        settings = request.app.state.host.settings
        read(AdapterRequest, parse(await read_body(request, settings.max_body)), settings.strict)
    return await queried(request)


def _entries(service: Service) -> dict[str, Path]:
    """The directories in the operator's directory; symbolic links are left out."""
    if service.settings.adapter_dir is None:
        return {}
    with os.scandir(service.settings.adapter_dir) as entries:
        return {entry.name: Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)}
