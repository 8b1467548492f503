"""`/v1/batches`: files of requests that are answered when nothing else is to do."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from coterie.api.jobs.paging import Labels, cancelled, jobs_of, page, read_json
from coterie.hosting.errors import invalid
from coterie.hosting.job_records import JobRecord, new_id, now
from coterie.hosting.keys import owner
from coterie.protocol.body import Body, Name
from coterie.protocol.wire import JsonAnswer

_DAY = 86400
_TIMES = ("in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at",
          "cancelled_at")  # fmt: skip


class BatchRequest(Body):
    """`POST /v1/batches`."""

    place = "/v1/batches"
    input_file_id: Name
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
    completion_window: Literal["24h"]
    metadata: Annotated[Labels, Field(max_length=16)] | None = None


async def create(request: Request) -> Response:
    """`POST /v1/batches`. Errors: `ApiError` 400; 404 for the file."""
    board = jobs_of(request)
    body, headers = await read_json(request, BatchRequest)
    given = await board.files.get(owner(), body.input_file_id)
    if given.data["purpose"] != "batch":
        raise invalid("/input_file_id: upload the file with the purpose 'batch'", "/input_file_id")
    data: dict[str, Any] = {
        "id": new_id("batch_"),
        "object": "batch",
        "endpoint": body.endpoint,
        "errors": None,
        "input_file_id": body.input_file_id,
        "completion_window": body.completion_window,
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": now(),
        "expires_at": now() + _DAY,
        **dict.fromkeys(_TIMES),
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "usage": {
            "input_tokens": 0,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 0,
        },
        "metadata": body.metadata,
    }
    # Where servers share the state, only one with these models goes on with it.
    own = {"models": [place.card.name for place in board.host.places]}
    # The worker thread of the records does not know whose request this is.
    record = JobRecord(data["id"], owner(), "batch", data, own)
    await board.records.do(lambda file: file.add(record))
    board.batches.wake()
    return JsonAnswer(data, headers=headers)


async def listing(request: Request) -> Response:
    """`GET /v1/batches`, the newest first. Errors: `ApiError` 400."""
    whose = owner()
    records = await jobs_of(request).records.do(lambda file: file.all("batch", whose))
    return JsonAnswer(page([one.data for one in records[::-1]], request, 20, 100))


async def retrieve(request: Request) -> Response:
    """`GET /v1/batches/ID`. Errors: `ApiError` 404."""
    whose, id = owner(), request.path_params["id"]
    return JsonAnswer((await jobs_of(request).records.do(lambda file: file.get(whose, "batch", id))).data)


async def cancel(request: Request) -> Response:
    """`POST /v1/batches/ID/cancel`. Errors: `ApiError` 404; 409 for a batch that has ended."""
    values = {"status": "cancelling", "cancelling_at": now()}
    changed = await cancelled(request, "batch", ("validating", "in_progress"), values)
    jobs_of(request).batches.wake()
    return JsonAnswer(changed.data)
