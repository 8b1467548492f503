"""`/v1/responses/{id}`: read and delete stored responses, list what went into them."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from coterie.api.openai.listing import page_of, query_of
from coterie.api.openai.memory import look, not_found
from coterie.hosting.errors import ApiError, unsupported
from coterie.hosting.host import Host
from coterie.hosting.keys import owner
from coterie.hosting.state_store import MissingEntry, StateStore
from coterie.protocol.wire import JsonAnswer

_KIND = "response"


def store_of(request: Request) -> StateStore:
    """The server's store. Errors: `ApiError` 404 when it keeps nothing."""
    host: Host = request.app.state.host
    if host.state is None:
        raise ApiError(404, "this server keeps no responses; it was started with --no-store", "store_off")
    return host.state


async def response(request: Request) -> Response:
    """A stored response. Errors: `ApiError` 400, 404."""
    query = query_of(request, ("stream", "starting_after"))
    if query.get("stream", "").lower() in ("true", "1") or "starting_after" in query:
        raise unsupported("streaming a response that is complete", "/stream")
    return JsonAnswer(await _data(request))


async def delete(request: Request) -> Response:
    """Delete a stored response and its items. Errors: `ApiError` 404."""
    store, holder, id = store_of(request), owner(), request.path_params["id"]
    if not await look(store, lambda file: file.delete(holder, id, _KIND)):
        raise not_found(_KIND, id)
    return JsonAnswer({"id": id, "object": "response", "deleted": True})


async def input_items(request: Request) -> Response:
    """The items that a response answered, those that it continued too. Errors: `ApiError` 400, 404."""
    store, holder, id = store_of(request), owner(), request.path_params["id"]
    data = await _data(request)
    try:
        items, _ = await look(store, lambda file: file.history(holder, id, _KIND))
    except MissingEntry as missing:
        raise not_found(_KIND, missing.id) from None
    return JsonAnswer(page_of(request, items[: len(items) - len(data["output"])]))


async def cancel(request: Request) -> Response:
    """Only responses in the background can be cancelled, and there are none. Errors: `ApiError` 400, 404."""
    await _data(request)
    raise ApiError(400, "Cannot cancel a synchronous response; close its connection.", "not_in_background")


async def _data(request: Request) -> dict[str, Any]:
    store, holder, id = store_of(request), owner(), request.path_params["id"]
    try:
        return await look(store, lambda file: file.get(holder, id, _KIND))
    except MissingEntry:
        raise not_found(_KIND, id) from None
