"""Lists that clients read page by page, and what the endpoints of this room share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import Field
from starlette.requests import Request

from coterie.hosting.errors import ApiError
from coterie.hosting.job_board import JobBoard
from coterie.hosting.job_records import JobRecord
from coterie.hosting.keys import owner
from coterie.protocol.body import Body
from coterie.protocol.paging import page_after
from coterie.protocol.received import naming, read_request

B = TypeVar("B", bound=Body)
Labels = dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]]


def jobs_of(request: Request) -> JobBoard:
    """The server's files and jobs. Errors: `ApiError` 404 on a server that keeps nothing."""
    board: JobBoard | None = request.app.state.jobs
    if board is None:
        raise ApiError(404, "this server keeps no files or jobs (it runs with --no-store)", "store_off")
    return board


def page(items: Sequence[dict[str, Any]], request: Request, default: int, most: int) -> dict[str, Any]:
    """One page of items, in their order. Reads `after` and `limit`. Errors: `ApiError` 400."""
    shown, more = page_after(items, request.query_params, default, most)
    first, last = (shown[0]["id"], shown[-1]["id"]) if shown else (None, None)
    return {"object": "list", "data": shown, "first_id": first, "last_id": last, "has_more": more}


async def read_json(request: Request, kind: type[B]) -> tuple[B, dict[str, str]]:
    """A body that names no model, and the header with its fields without effect. Errors: as `receive`."""
    body, ignored, _ = await read_request(request, kind)
    return body, naming(ignored)


async def cancelled(
    request: Request, kind: str, unfinished: Collection[str], values: Mapping[str, Any]
) -> JobRecord:
    """The job of the path, changed to `values` where it is unfinished. Errors: `ApiError` 404, 409."""
    board, whose, id = jobs_of(request), owner(), request.path_params["id"]
    await board.records.do(lambda file: file.get(whose, kind, id))

    def change(record: JobRecord) -> None:
        if record.data["status"] in unfinished:
            record.data |= values

    changed = await board.records.do(lambda file: file.change(id, change))
    if changed is None or changed.data["status"] not in (values["status"], "cancelled"):
        raise ApiError(409, "this job has ended and cannot be cancelled", "job_ended")
    return changed
