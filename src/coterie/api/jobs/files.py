"""`/v1/files`: upload, list, read and delete. A file belongs to the key that sent it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from coterie.api.jobs.multipart import read_form
from coterie.api.jobs.paging import jobs_of, page
from coterie.hosting.errors import ApiError, invalid
from coterie.hosting.keys import owner
from coterie.protocol.body import Body, Whole, read
from coterie.protocol.received import naming
from coterie.protocol.wire import JsonAnswer, body_chunks

_FORM = 2**20  # bytes of a form without its file
_MOST = 10_000
Seconds = Annotated[Whole, Field(ge=3600, le=2_592_000)]


class FileExpiry(Body):
    """`expires_after`."""

    place = "expires_after"
    anchor: Literal["created_at"]
    seconds: Seconds


class FileForm(Body):
    """The fields of `POST /v1/files` but for the file."""

    place = "/v1/files"
    purpose: Literal["batch", "fine-tune", "user_data", "evals"]
    expires_after: FileExpiry | None = None


async def upload(request: Request) -> Response:
    """`POST /v1/files`. Errors: `ApiError` 400, 408, 413 or 415; `Disconnected`."""
    board = jobs_of(request)
    async with board.files.receive() as (id, kept):
        chunks = body_chunks(request, board.files.most_bytes + _FORM)
        form = await read_form(request.headers.get("content-type", ""), chunks, kept.write)
        body, ignored = read(FileForm, _nested(form.fields), board.host.settings.strict)
        seconds = None if body.expires_after is None else body.expires_after.seconds
        name = form.file_name or "file"
        data = await board.files.keep(id, kept, owner(), body.purpose, name, seconds)
    headers = naming(ignored)
    return JsonAnswer(data, headers=headers)


async def listing(request: Request) -> Response:
    """`GET /v1/files`. Errors: `ApiError` 400."""
    board, query, whose = jobs_of(request), request.query_params, owner()
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise invalid("order: must be 'asc' or 'desc'", "/order")
    await board.files.sweep()
    records = await board.records.do(lambda file: file.all("file", whose))
    items = [one.data for one in records if query.get("purpose") in (None, "", one.data["purpose"])]
    return JsonAnswer(page(items if order == "asc" else items[::-1], request, _MOST, _MOST))


async def retrieve(request: Request) -> Response:
    """`GET /v1/files/ID`. Errors: `ApiError` 404."""
    found = await jobs_of(request).files.get(owner(), request.path_params["id"])
    return JsonAnswer(found.data)


async def content(request: Request) -> Response:
    """`GET /v1/files/ID/content`: the bytes. Errors: `ApiError` 404."""
    files = jobs_of(request).files
    found = await files.get(owner(), request.path_params["id"])
    path = files.path(found.id)
    if not path.is_file():
        raise ApiError(404, "the content of this file is gone from the server's folder", "file_not_found")
    return FileResponse(path, media_type="application/octet-stream")


async def delete(request: Request) -> Response:
    """`DELETE /v1/files/ID`. Errors: `ApiError` 404."""
    id = request.path_params["id"]
    await jobs_of(request).files.delete(owner(), id)
    return JsonAnswer({"id": id, "object": "file", "deleted": True})


def _nested(fields: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a form, with `a[b]` as an object `a`, and whole numbers as such."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        outer, bracket, inner = name.partition("[")
        if not bracket:
            found[name] = value
        elif isinstance(within := found.setdefault(outer, {}), dict):
            is_number = value.isascii() and value.isdigit() and len(value) < 12
            within[inner.removesuffix("]")] = int(value) if is_number else value
    return found
