"""`/v1/conversations`: lists of items that responses continue and add to."""

from __future__ import annotations

import time
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from coterie.api.openai.listing import list_of, page_of, query_of, shown
from coterie.api.openai.memory import ItemMemory, look, new_id, not_found
from coterie.api.openai.response_items import ItemReader
from coterie.api.openai.stored_responses import store_of
from coterie.hosting.errors import ApiError
from coterie.hosting.host import Host
from coterie.hosting.keys import owner
from coterie.hosting.state_store import Entry, MissingEntry
from coterie.protocol.body import Body
from coterie.protocol.received import read_request
from coterie.protocol.translation import chat_request
from coterie.protocol.wire import JsonAnswer

_KIND = "conversation"
_Items = Annotated[list[dict[str, Any]], Field(max_length=10_000)]


class NewConversation(Body):
    """`POST /v1/conversations`."""

    items: _Items | None = None
    metadata: dict[str, Any] | None = None


class ChangedConversation(Body):
    """`POST /v1/conversations/{id}`."""

    metadata: dict[str, Any] | None = None


class NewItems(Body):
    """`POST /v1/conversations/{id}/items`."""

    items: _Items


async def create(request: Request) -> Response:
    """A new conversation, with items if any are given. Errors: `ApiError` 400, 404."""
    body = (await read_request(request, NewConversation))[0]
    items = await _readable(request, body.items or [])
    data = {"id": new_id("conv"), "object": _KIND, "created_at": int(time.time())}
    data["metadata"] = body.metadata or {}
    entry, holder = Entry(str(data["id"]), _KIND, data, items), owner()
    await look(store_of(request), lambda file: file.put(holder, entry))
    return JsonAnswer(data)


async def conversation(request: Request) -> Response:
    """A conversation without its items. Errors: `ApiError` 404."""
    return JsonAnswer(await _data(request))


async def update(request: Request) -> Response:
    """Replace the metadata. Errors: `ApiError` 400, 404."""
    body = (await read_request(request, ChangedConversation))[0]
    data = {**await _data(request), "metadata": body.metadata or {}}
    holder = owner()
    await _found(request, lambda file, id: file.replace(holder, id, data))
    return JsonAnswer(data)


async def delete(request: Request) -> Response:
    """Delete a conversation and its items. Errors: `ApiError` 404."""
    holder, id = owner(), request.path_params["id"]
    if not await look(store_of(request), lambda file: file.delete(holder, id, _KIND)):
        raise not_found(_KIND, id)
    return JsonAnswer({"id": id, "object": "conversation.deleted", "deleted": True})


async def items(request: Request) -> Response:
    """The items of a conversation, page by page. Errors: `ApiError` 400, 404."""
    return JsonAnswer(page_of(request, await _all(request)))


async def add_items(request: Request) -> Response:
    """Add items at the end. Errors: `ApiError` 400, 404."""
    query_of(request, ())
    body = (await read_request(request, NewItems))[0]
    await _data(request)
    new, holder = await _readable(request, body.items), owner()
    await _found(request, lambda file, id: file.append(holder, id, new))
    return JsonAnswer(list_of(new))


async def item(request: Request) -> Response:
    """One item. Errors: `ApiError` 404."""
    query_of(request, ())
    wanted = request.path_params["item"]
    for one in await _all(request):
        if one["id"] == wanted:
            return JsonAnswer(shown(one))
    raise not_found("item", wanted)


async def delete_item(request: Request) -> Response:
    """Remove one item; answers with the conversation. Errors: `ApiError` 404."""
    holder, wanted = owner(), request.path_params["item"]
    data = await _data(request)
    if not await _found(request, lambda file, id: file.delete_item(holder, id, wanted)):
        raise not_found("item", wanted)
    return JsonAnswer(data)


async def _data(request: Request) -> dict[str, Any]:
    holder = owner()
    return await _found(request, lambda file, id: file.get(holder, id, _KIND))


async def _all(request: Request) -> list[dict[str, Any]]:
    holder = owner()
    return (await _found(request, lambda file, id: file.history(holder, id, _KIND)))[0]


async def _found(request: Request, work: Any) -> Any:
    """The result of `work(file, id)` for the conversation of the path. Errors: `ApiError` 404, 500."""
    id = request.path_params["id"]
    try:
        return await look(store_of(request), lambda file: work(file, id))
    except MissingEntry:
        raise not_found(_KIND, id) from None


async def _readable(request: Request, given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items as they are kept. Errors: `ApiError` 400 for one that no request could contain."""
    host: Host = request.app.state.host
    memory = ItemMemory(store_of(request), owner())
    try:
        await memory.load(given, None, None)
        reader = ItemReader(host.settings.strict)
        reader.read(memory.items, None)
        if reader.messages:
            chat_request({"model": "model", "messages": reader.messages}, reader.placed, host.settings.strict)
    except ApiError as error:
        raise error.moved(lambda text: text.replace("/input", "/items")) from None
    return memory.new_items()
